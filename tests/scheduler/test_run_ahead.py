"""Tasks that are handed ahead: before there is room for them, or with the tasks whose results they take.

Tasks that have waited on a host for too long are recalled.
"""

from __future__ import annotations

from typing import Any

import pytest

from handout.scheduler import Profile, RunSpec, State
from handout.scheduler import events as ev
from handout.scheduler.state.hosts import AHEAD_LIMIT
from tests.scheduler.rig import Scene, graph, joined, profile


def many(count: int) -> str:
    return "; ".join(f"t{i}" for i in range(count))


def handed(scene: Scene, run: int = 1) -> int:
    return scene.core.counts(run)[State.HANDED]


def test_of_functions_of_unknown_duration_two_a_slot_go_ahead() -> None:
    scene = Scene("h1 2")
    scene.submit(graph(many(20)))
    assert handed(scene) == 2 + 4


def test_long_functions_are_not_handed_ahead() -> None:
    scene = Scene("h1")
    scene.submit(graph(many(20)))
    for name in ("t0", "t1", "t2"):
        scene.finish("h1", name, took_s=60.0)
    assert handed(scene) == 1


def test_short_ones_cover_ten_milliseconds_and_no_more() -> None:
    scene = Scene("h1")
    scene.submit(graph(many(200)))
    scene.finish("h1", "t0", "t1", "t2", took_s=0.001)
    assert handed(scene) == 1 + 10


def test_a_longer_round_trip_is_covered_too() -> None:
    scene = Scene()
    scene.tell(joined("h1", cpu=1, rtt_s=0.05))
    scene.submit(graph(many(200)))
    scene.finish("h1", "t0", "t1", "t2", took_s=0.001)
    assert 100 <= handed(scene) <= 101


def test_there_is_a_limit_however_short_they_are() -> None:
    scene = Scene()
    scene.tell(joined("h1", cpu=4, rtt_s=1.0))
    scene.submit(graph(many(3000)))
    scene.finish("h1", "t0", took_s=1e-9)
    assert handed(scene) == 4 + AHEAD_LIMIT


LONG = profile(fn_name="long")
SHORT = profile(fn_name="short")


def one_slot(host: str = "h1") -> Scene:
    """Return a scene whose core knows how long tasks of `LONG` and `SHORT` take, but knows no other durations."""
    scene = Scene(host)
    scene.submit(graph("x; y", profiles={"x": LONG, "y": SHORT}), run=99)
    scene.finish("h1", "x", run=99, took_s=60.0)
    scene.finish("h1", "y", run=99, took_s=0.001)
    scene.tell(ev.RunClosed(99))
    return scene


def test_who_is_less_urgent_is_not_handed_ahead_where_somebody_more_urgent_waits() -> None:
    scene = one_slot()
    spec = graph("first; urgent; other", profiles={"urgent": LONG}, priorities={"first": 9.0, "urgent": 9.0})
    assert scene.submit(spec) == [("start", "h1", "first")]
    assert scene.finish("h1", "first")[0] == ("start", "h1", "urgent")


def test_nor_is_a_less_urgent_task_of_the_same_function_after_more_urgent_ones() -> None:
    """The core lists the hosts for a, b and c together, at a time when the urgent task does not wait yet."""
    scene = one_slot()
    both = dict.fromkeys("abc", profile(fn_name="both"))
    spec = graph("a; b; urgent; c", profiles={**both, "urgent": LONG}, priorities={"a": 9.0, "b": 9.0, "urgent": 5.0})
    assert scene.submit(spec) == [("start", "h1", "a"), ("ahead", "h1", "b")]


def test_who_was_held_back_is_handed_ahead_as_soon_as_nobody_more_urgent_waits() -> None:
    scene = one_slot()
    scene.submit(graph("first", run_priority=9.0))
    scene.submit(graph("urgent; more", profiles=dict.fromkeys(["urgent", "more"], LONG), run_priority=5.0), run=2)
    scene.submit(cores(20, SHORT), run=3)
    assert handed(scene, run=3) == 0
    scene.tell(ev.CancelRequested(2, [0]))
    assert handed(scene, run=3) == 0
    scene.tell(ev.CancelRequested(2, None))
    assert handed(scene, run=3) == 10


def test_or_nobody_who_is_more_urgent_than_that() -> None:
    scene = one_slot()
    scene.submit(graph("first", run_priority=9.0))
    urgent = graph("u; v", profiles=dict.fromkeys("uv", LONG), priorities={"u": 5.0, "v": 1.0})
    scene.submit(urgent, run=2)
    scene.submit(graph("a; b", profiles=dict.fromkeys("ab", SHORT), priorities={"a": 3.0}), run=3)
    assert handed(scene, run=3) == 0
    scene.tell(ev.CancelRequested(2, [0]))
    assert [scene.state(name, run=3) for name in "ab"] == [State.HANDED, State.READY]


def waits_for_gpu(cpu: int) -> Scene:
    """Return a scene with a distant host of four cores and one GPU.

    Two urgent tasks need the GPU: one has it, and the other one waits for it.
    """
    scene = Scene()
    scene.tell(joined("h1", cpu=4, gpu=1, rtt_s=0.05))
    scene.submit(graph("y", profiles={"y": SHORT}), run=99)
    scene.finish("h1", "y", run=99, took_s=0.001)
    scene.tell(ev.RunClosed(99))
    gpu = profile({"gpu": 1, "cpu": cpu}, fn_name="gpu")
    scene.submit(graph("g1; g2", profiles={"g1": gpu, "g2": gpu}, run_priority=1.0), run=2)
    return scene


def cores(count: int, function: Profile) -> RunSpec:
    return graph(many(count), profiles={f"t{i}": function for i in range(count)})


@pytest.mark.parametrize("cpu", [0, 1])
def test_short_ones_are_where_who_waits_lacks_something_else_too(cpu: int) -> None:
    scene = waits_for_gpu(cpu)
    scene.submit(cores(1000, SHORT))
    assert 404 - cpu <= handed(scene) <= 405 - cpu


def test_until_what_they_take_is_all_that_it_lacks() -> None:
    scene = waits_for_gpu(1)
    scene.submit(cores(1000, SHORT))
    before = handed(scene)
    scene.finish("h1", "g1", run=2)
    assert scene.state("g2", run=2) is State.READY
    rounds = 0
    while scene.state("g2", run=2) is State.READY:
        rounds += 1
        run = scene.core.world.runs[1]
        scene.finish("h1", *(f"t{i}" for i in range(1000) if run.claims[i] is not None), took_s=0.001)
    assert rounds <= before // 4 + 1


def test_those_of_unknown_duration_are_only_where_they_take_nothing_of_what_it_needs() -> None:
    """A task of unknown duration might take an amount that the urgent task needs, and never release it."""
    unknown = profile(fn_name="unknown")
    for cpu, ahead in ((0, 8), (1, 0)):
        scene = waits_for_gpu(cpu)
        scene.submit(cores(1000, unknown))
        assert handed(scene) == 4 - cpu + ahead


def test_nothing_is_where_it_lacks_nothing_but_its_turn() -> None:
    """The task b was handed ahead and has waited so long that the host grants nothing to newer tasks before it."""
    scene = Scene()
    scene.join("h1", disk=1)
    scene.submit(graph("a; b"))
    scene.now = 2.0
    urgent = profile({"cpu": 0, "disk": 1}, idempotent=False)
    scene.submit(graph("urgent", profiles={"urgent": urgent}, run_priority=1.0), run=2)
    assert scene.submit(graph("c"), run=3) == []
    assert scene.state("urgent", run=2) is State.READY


CHAIN = [f"t{i}" for i in range(40)]


def chain(**fields: Any) -> RunSpec:
    return graph(" -> ".join(CHAIN), profiles=dict.fromkeys(CHAIN, SHORT), **fields)


@pytest.mark.parametrize(("limit", "count"), [(None, 11), (2, 2)])
def test_nor_is_a_less_urgent_follower(limit: int | None, count: int) -> None:
    """Otherwise each task of the chain would start before the urgent task."""
    scene = one_slot()
    scene.submit(chain(max_concurrency=limit))
    assert handed(scene) == count
    scene.submit(graph("urgent", profiles={"urgent": LONG}, run_priority=9.0), run=2)
    for name in CHAIN[:count]:
        assert scene.state("urgent", run=2) is State.READY
        scene.finish("h1", name, took_s=0.001)
    assert scene.core.world.runs[2].claims[0] is not None


def test_until_nobody_waits_any_more() -> None:
    scene = one_slot()
    scene.submit(chain())
    scene.submit(graph("urgent", profiles={"urgent": LONG}, run_priority=9.0), run=2)
    scene.finish("h1", *CHAIN[:5], took_s=0.001)
    assert handed(scene) == 6
    scene.tell(ev.CancelRequested(2, None))
    assert handed(scene) == 11


def test_nor_does_it_keep_a_more_urgent_chain_from_following() -> None:
    scene = one_slot("h1 2")
    wide = profile({"cpu": 2}, fn_name="long")
    scene.submit(graph("first", run_priority=9.0), run=2)
    scene.submit(graph("wide", profiles={"wide": wide}, run_priority=5.0), run=3)
    scene.submit(graph("a -> b", profiles={"a": SHORT, "b": SHORT}))
    assert [scene.state(name) for name in "ab"] == [State.HANDED, State.WAITING]
    assert scene.submit(graph("c -> d", run_priority=9.0), run=4) == [("ahead", "h1", "c", "d")]


def test_a_follower_that_finds_the_host_full_follows_when_there_is_room() -> None:
    scene = one_slot()
    scene.submit(chain())
    for name, eleventh in zip(CHAIN, CHAIN[11:], strict=False):
        assert ("ahead", "h1", eleventh) in scene.finish("h1", name, took_s=0.001)


def test_a_function_whose_calls_differ_in_urgency_goes_on_only_with_those_that_are_next() -> None:
    scene = Scene("h1 2")
    both = profile(fn_name="both")
    spec = graph("a; b; c", profiles={"a": both, "c": both}, priorities={"a": 9.0, "b": 5.0})
    assert scene.submit(spec) == [("start", "h1", "a", "b"), ("ahead", "h1", "c")]


def test_what_takes_shared_amounts_or_devices_or_must_not_run_twice_is_never_handed_ahead() -> None:
    for special in (profile({"licence": 1}), profile({"gpu": 1}), profile(idempotent=False)):
        scene = Scene(licence=100)
        scene.join("h1", gpu=1)
        scene.submit(graph("a; b; c", profiles=dict.fromkeys("abc", special)))
        assert handed(scene) == 1


def test_what_was_handed_ahead_claims_what_becomes_free_first_come_first() -> None:
    scene = Scene("h1")
    scene.submit(graph(many(3)))
    run = scene.core.world.runs[1]
    assert [claim is None for claim in run.claims] == [False, True, True]
    scene.finish("h1", "t0")
    assert [claim is None for claim in run.claims] == [True, False, True]


def test_a_chain_flows_without_a_round_trip_for_each_link() -> None:
    scene = Scene()
    scene.tell(joined("h1", cpu=1, rtt_s=0.05), joined("h2", cpu=1, rtt_s=0.05))
    names = [f"t{i}" for i in range(1000)]
    scene.submit(graph(" -> ".join(names)))
    scene.finish("h1", "t0", took_s=20e-6)
    calls = 0
    done = 1
    while 1 not in scene.over:
        batch = [n for n in names[done:] if scene.state(n) is State.HANDED]
        scene.finish("h1", *batch, took_s=20e-6)
        done += len(batch)
        calls += 1
    assert calls <= 3


def test_followers_of_a_task_with_many_are_spread_over_the_hosts_instead() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b, c, d"))
    assert handed(scene) == 1


def test_with_one_host_all_followers_may_go_along() -> None:
    scene = Scene("h1 2")
    scene.submit(graph("a -> b, c, d"))
    assert handed(scene) == 4


def test_a_follower_waits_for_producers_on_other_hosts() -> None:
    scene = Scene("h1", "h2")
    profiles = {"a": profile(host="h1"), "b": profile(host="h2")}
    scene.submit(graph("a, b -> c", profiles=profiles))
    assert scene.state("c") is State.WAITING


def test_an_idle_host_gets_what_has_waited_elsewhere_for_too_long() -> None:
    """h1 got one task that runs and two that were handed ahead. h2 connects later."""
    scene = Scene("h1")
    scene.submit(graph("a; b; c"))
    scene.now = 1.0
    assert scene.join("h2") == [("recall", "h1", "c")]
    assert scene.recalled("h1", "c") == [("start", "h2", "c")]


def test_what_was_handed_just_now_is_left_a_moment() -> None:
    scene = Scene("h1")
    scene.submit(graph("a; b; c"))
    assert scene.join("h2") == []
    assert scene.wake() == [("recall", "h1", "c")]


def test_what_has_started_meanwhile_runs_on() -> None:
    scene = Scene("h1")
    scene.submit(graph("a; b; c"))
    scene.now = 1.0
    scene.join("h2")
    scene.finish("h1", "a", took_s=1.0)
    scene.finish("h1", "b", took_s=1.0)
    assert scene.finish("h1", "c")[-1] == ("over", "done")


def test_what_is_known_to_run_is_not_asked_back() -> None:
    scene = Scene("h1")
    scene.submit(graph("a; b; c"))
    scene.tell(ev.TasksStarted("h1", 1, [1, 2], [1, 1]))
    scene.now = 1.0
    assert scene.join("h2") == []
