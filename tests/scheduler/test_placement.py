"""Where the core places tasks: pins, groups, Python versions, bytes, reservations, and tasks that fit on no host."""

from __future__ import annotations

import pytest

from handout.errors import PlacementError
from handout.resources import compile_capabilities
from handout.scheduler import Outcome, RunSpec, State
from handout.scheduler import events as ev
from tests.scheduler.rig import Scene, graph, joined, profile

ALONE = profile(idempotent=False)


def placement_error(scene: Scene, run: int = 1) -> PlacementError:
    error = scene.over[run].error
    assert isinstance(error, PlacementError)
    assert scene.over[run].outcome is Outcome.FAILED
    return error


def test_a_cost_that_no_host_covers_ends_the_run_before_anything_runs() -> None:
    scene = Scene()
    scene.join("h1 2", memory="4 GB")
    said = scene.submit(graph("a; big", profiles={"big": profile({"memory": "64 GB"})}))
    assert said == [("cancelled", "a", "big"), ("over", "failed")]
    error = placement_error(scene)
    assert error.id == "big"
    assert "memory=64 GB" in error.lacks["h1"]


def test_it_is_an_error_only_when_the_last_expected_host_has_come_or_failed_to() -> None:
    scene = Scene("h1")
    scene.tell(ev.HostExpected("gpu1"))
    assert scene.submit(graph("a", profiles={"a": profile({"gpu": 1})})) == []
    scene.tell(ev.HostLost("gpu1", "no route"))
    assert placement_error(scene).id == "a"


def test_losing_the_only_host_that_could_ends_the_run() -> None:
    scene = Scene("h1")
    scene.join("gpu1", gpu=1)
    scene.submit(graph("a -> b", profiles={"b": profile({"gpu": 1})}))
    scene.lose("gpu1")
    scene.tell(ev.TasksRecalled("h1", 1, [0], [1]))
    scene.now = 10.0
    scene.tell()
    assert placement_error(scene).id == "b"


def test_without_any_host_a_run_ends_at_once() -> None:
    scene = Scene()
    scene.submit(graph("a"))
    assert "there is no host" in str(placement_error(scene))


def test_a_run_without_hosts_says_which_hosts_are_not_there_and_why() -> None:
    scene = Scene()
    scene.tell(ev.HostExpected("h1"), ev.HostExpected("h2"))
    scene.join("h2")
    scene.tell(ev.HostLost("h1", "the port is closed."), at=2.0)
    scene.tell(ev.HostLost("h2", "it was silent."), at=3.0)
    scene.now = 7.0
    scene.submit(graph("a"))
    error = placement_error(scene)
    assert error.lacks == {
        "h1": "has not joined after 7 s: the port is closed",
        "h2": "was lost 4 s ago: it was silent",
    }
    assert "no host of the inventory is ready: host 'h1' has not joined after 7 s: the port is closed; host" in str(
        error
    )
    assert "there is no host" not in str(error)


def test_a_pin_to_a_host_that_is_not_there_says_why() -> None:
    scene = Scene("h1")
    scene.tell(ev.HostExpected("h3"), ev.HostLost("h3", "the port is closed."))
    scene.submit(graph("a", profiles={"a": profile(host="h3")}))
    error = placement_error(scene)
    assert "'h3', which is not there: it has not joined after 0 s: the port is closed" in str(error)
    assert error.lacks == {"h3": "has not joined after 0 s: the port is closed"}


def test_a_pin_to_an_unknown_host_names_those_that_are() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a", profiles={"a": profile(host="h3")}))
    assert "'h3', which is not a host of the inventory. Connected hosts: 'h1', 'h2'" in str(placement_error(scene))
    assert "'h1', 'h2'" in str(placement_error(scene))


def test_a_function_that_travels_by_value_needs_its_own_python() -> None:
    scene = Scene()
    scene.tell(joined("old", python="3.9.18", cpu=1), joined("new", python="3.12.1", cpu=1))
    assert scene.submit(graph("a", profiles={"a": profile(python="3.12")})) == [("start", "new", "a")]
    scene.submit(graph("b", profiles={"b": profile(python="3.11")}), run=2)
    assert "needs Python 3.11" in str(placement_error(scene, 2))


def test_less_memory_for_a_while_is_waited_for() -> None:
    scene = Scene()
    scene.join("h1 2", memory="8 GB")
    scene.submit(graph("a -> b", profiles={"b": profile({"memory": "6 GB"}, idempotent=False)}))
    scene.tell(ev.CapabilitiesChanged("h1", compile_capabilities({"cpu": 2, "memory": "2 GB"})), at=1.0)
    scene.finish("h1", "a")
    assert scene.state("b") is State.READY
    more = compile_capabilities({"cpu": 2, "memory": "8 GB"})
    assert scene.said(scene.tell(ev.CapabilitiesChanged("h1", more), at=20.0)) == [("start", "h1", "b")]


def test_less_memory_for_long_ends_the_run() -> None:
    scene = Scene()
    scene.join("h1 2", memory="8 GB")
    scene.submit(graph("a -> b", profiles={"b": profile({"memory": "6 GB"}, idempotent=False)}))
    scene.tell(ev.CapabilitiesChanged("h1", compile_capabilities({"cpu": 2, "memory": "2 GB"})), at=1.0)
    scene.finish("h1", "a")
    scene.tell(at=62.0)
    assert placement_error(scene).id == "b"


def test_a_group_goes_where_all_of_it_can_run_and_stays_together() -> None:
    scene = Scene("small 8")
    scene.join("large 4", memory="16 GB")
    big = profile({"memory": "12 GB"})
    spec = graph("a; b; c", groups={"a": 1, "b": 1}, profiles={"b": big})
    said = scene.submit(spec)
    assert ("start", "large", "a", "b") in said
    assert ("start", "small", "c") in said


def test_a_group_moves_together_when_its_host_is_lost() -> None:
    scene = Scene("h1 2", "h2 2")
    said = scene.submit(graph("a; b", groups={"a": 1, "b": 1}))
    assert said == [("start", "h1", "a", "b")]
    assert scene.lose("h1") == [("start", "h2", "a", "b")]


def test_a_group_that_fits_nowhere_together_is_refused() -> None:
    scene = Scene()
    scene.join("h1", camera=True)
    scene.join("h2", printer=True)
    profiles = {"a": profile({"camera": True}), "b": profile({"printer": True})}
    scene.submit(graph("a; b", groups={"a": 1, "b": 1}, profiles=profiles))
    assert "collocated tasks 'a', 'b'" in str(placement_error(scene))


def test_a_chain_stays_on_one_host() -> None:
    scene = Scene("h1 2", "h2 2")
    long = profile(idempotent=False)
    spec = graph("a -> b -> c; x -> y -> z", profiles=dict.fromkeys("abcxyz", long))
    scene.submit(spec)
    where: dict[str, str] = {}
    for level in ("ax", "by", "cz"):
        for name in level:
            where[name] = scene.core.explain(1, scene.number(1, name)).host
            scene.finish(where[name], name, size=10**6, held=False)
    assert where["a"] == where["b"] == where["c"]
    assert where["x"] == where["y"] == where["z"]
    assert where["a"] != where["x"]


def test_a_task_goes_to_its_bytes() -> None:
    scene = Scene("h1 2", "h2 2")
    profiles = {"small": profile(host="h1"), "large": profile(host="h2"), "join": ALONE}
    scene.submit(graph("small, large -> join", profiles=profiles))
    scene.finish("h1", "small", size=1000, held=False)
    said = scene.finish("h2", "large", size=10**9, held=False)
    assert said[:2] == [("start", "h2", "join"), ("copy", "small", "h1", "h2")]


def test_first_available_fills_the_first_host_first() -> None:
    scene = Scene("h1 2", "h2 2")
    spec = graph("a; b; c", profiles=dict.fromkeys("abc", ALONE), allocator="first_available")
    assert scene.submit(spec) == [("start", "h1", "a", "b"), ("start", "h2", "c")]


def test_load_balanced_spreads() -> None:
    scene = Scene("h1 2", "h2 4")
    spec = graph("a; b; c; d; e; f", profiles=dict.fromkeys("abcdef", ALONE), allocator="load_balanced")
    assert scene.submit(spec) == [("start", "h1", "a", "d"), ("start", "h2", "b", "c", "e", "f")]


def test_who_was_passed_over_for_long_gets_a_host_kept_free() -> None:
    """A task that needs both cores competes with an endless stream of small ones."""
    scene = Scene("h1 2")
    names = [f"s{i}" for i in range(8)]
    both = profile({"cpu": 2}, idempotent=False)
    spec = graph("; ".join([*names, "big"]), profiles={"big": both, **dict.fromkeys(names, ALONE)})
    assert scene.submit(spec) == [("start", "h1", "s0", "s1")]
    scene.now = 20.0
    assert scene.finish("h1", "s0")[0] == ("start", "h1", "s2")
    scene.tell(at=30.0)
    assert scene.core.world.reservations
    scene.now = 40.0
    assert scene.finish("h1", "s1") == [("done", "s1")]
    assert scene.finish("h1", "s2")[0] == ("start", "h1", "big")
    assert not scene.core.world.reservations
    assert scene.finish("h1", "big")[0] == ("start", "h1", "s3", "s4")


def test_who_was_passed_over_for_want_of_shared_amounts_gets_them_kept() -> None:
    scene = Scene("h1 9", licence=2)
    names = [f"s{i}" for i in range(6)]
    one, two = profile({"licence": 1}), profile({"licence": 2})
    spec = graph("; ".join([*names, "big"]), profiles={"big": two, **dict.fromkeys(names, one)})
    scene.submit(spec)
    scene.now = 20.0
    assert scene.finish("h1", "s0")[0] == ("start", "h1", "s2")
    scene.tell(at=30.0)
    assert scene.finish("h1", "s1") == [("done", "s1")]
    assert scene.finish("h1", "s2")[0] == ("start", "h1", "big")


def test_a_task_that_costs_nothing_is_not_held_back_by_cores() -> None:
    scene = Scene("h1")
    free = profile({"cpu": 0})
    assert scene.submit(graph("a; b; c", profiles=dict.fromkeys("abc", free))) == [("start", "h1", "a", "b", "c")]


def test_a_cycle_is_our_bug_and_ends_the_run() -> None:
    scene = Scene("h1")
    spec = RunSpec(2, [profile()], [0, 0], [0, 0], [(1,), (0,)], [0, 1], [-1, -1], ids=["a", "b"])
    assert scene.submit(spec) == [("over", "failed")]


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_claims_never_exceed_what_a_host_offers(cores: int) -> None:
    scene = Scene(f"h1 {cores}")
    names = [f"t{i}" for i in range(10)]
    scene.submit(graph("; ".join(names)))
    assert scene.core.world.fleet.by_name["h1"].ledger.used == {"cpu": cores * 10_000}


def test_the_rest_of_a_group_follows_at_once_where_another_group_was_served_before() -> None:
    scene = Scene("h1 4", "h2 4")
    scene.submit(graph("s -> x, y, z", groups={"s": 0, "x": 0, "y": 1, "z": 1}, allocator="first_available"))
    assert scene.finish("h1", "s")[0] == ("start", "h1", "x", "y", "z")
