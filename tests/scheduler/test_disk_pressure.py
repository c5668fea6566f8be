"""A host has no room for a result or an argument of a function.

Tasks of this function avoid the host for a while, and tasks of other functions do not.
"""

from __future__ import annotations

import pytest

from handout.scheduler import State
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from handout.scheduler.run_spec import Speculation
from tests.scheduler.rig import Said, Scene, graph, profile

#: A task that takes a shared amount is never handed ahead. So each start of such a task is a placement.
BIG = profile({"cpu": 1, "licence": 1})
GATE = profile(host="h2")


def gated(count: int, *hosts: str, more: str = "", **fields: object) -> Scene:
    """Submit a run of ``g0 -> x0; g1 -> x1; ...``, where the g are gates and the x are big tasks.

    Each big task is ready when its gate ends on h2. It is placed on h1, unless its function avoids h1.
    """
    scene = Scene(*(hosts or ("h1", "h2 99")), licence=99)
    profiles = {f"g{i}": GATE for i in range(count)} | {f"x{i}": BIG for i in range(count)}
    profiles |= fields.pop("profiles", {})  # type: ignore[arg-type]
    text = "; ".join(f"g{i} -> x{i}" for i in range(count)) + more
    scene.submit(graph(text, profiles=profiles, allocator="first_available", **fields))  # type: ignore[arg-type]
    return scene


def starts(said: list[Said]) -> list[Said]:
    return [words for words in said if words[0] in ("start", "ahead")]


def ready(scene: Scene, number: int) -> list[Said]:
    """End the gate of a big task, and return the starts that follow."""
    return starts(scene.finish("h2", f"g{number}"))


def full(count: int = 3, *hosts: str, need: int = 0, **fields: object) -> Scene:
    """Return a scene in which h1 had no room for x0, so that x0 now runs on h2."""
    scene = gated(count, *hosts, **fields)  # type: ignore[arg-type]
    assert ready(scene, 0) == [("start", "h1", "x0")]
    assert ("start", "h2", "x0") in scene.fail("h1", "x0", "disk", need=need)
    return scene


def test_the_next_task_of_the_function_goes_elsewhere_though_the_host_is_free() -> None:
    scene = full()
    assert ready(scene, 1) == [("start", "h2", "x1")]
    assert ready(scene, 2) == [("start", "h2", "x2")]


def test_trouble_of_another_kind_says_nothing_of_the_next_task() -> None:
    scene = gated(2)
    ready(scene, 0)
    scene.fail("h1", "x0", "input")
    assert ready(scene, 1) == [("start", "h1", "x1")]


def test_tasks_of_another_function_go_there() -> None:
    scene = full(more="; g -> other", profiles={"g": GATE, "other": profile({"licence": 1})})
    assert ("start", "h1", "other") in scene.finish("h2", "g")


def test_a_pause_has_an_end_and_each_further_one_is_twice_as_long_up_to_a_limit() -> None:
    scene = full(20)
    lengths = []
    for number in range(1, 17, 2):
        began = scene.now
        assert ready(scene, number) == [("start", "h2", f"x{number}")]
        scene.wake()
        lengths.append(scene.now - began)
        assert ready(scene, number + 1) == [("start", "h1", f"x{number + 1}")]
        scene.fail("h1", f"x{number + 1}", "disk")
    assert lengths == [10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 640.0]


def test_who_had_room_for_as_long_as_the_longest_pause_has_a_clean_record() -> None:
    scene = full()
    scene.wake()
    scene.tell(at=scene.now + 640.0)
    assert ready(scene, 1) == [("start", "h1", "x1")]
    scene.fail("h1", "x1", "disk")
    assert scene.core.next_deadline == scene.now + 10.0


def test_what_was_under_way_as_a_pause_began_makes_it_no_longer() -> None:
    scene = gated(3, "h1 2", "h2 99")
    ready(scene, 0)
    assert ready(scene, 1) == [("start", "h1", "x1")]
    scene.fail("h1", "x0", "disk")
    scene.tell(at=4.0)
    assert scene.fail("h1", "x1", "disk") == [("start", "h2", "x1")]
    scene.wake()
    assert scene.now == 10.0
    assert ready(scene, 2) == [("start", "h1", "x2")]


def test_a_pause_is_told_once_with_what_found_no_room() -> None:
    scene = gated(2, "h1 2", "h2 99")
    ready(scene, 0)
    ready(scene, 1)
    failed = [ev.TaskFailed("h1", 1, scene.number(1, name), 1, "disk", True, None, 7) for name in ("x0", "x1")]
    told = [c for c in scene.tell(*failed) if isinstance(c, cmd.AnnouncePause)]
    assert told == [cmd.AnnouncePause(1, scene.number(1, "x0"), "h1", 10.0, 7)]


def test_where_there_is_no_elsewhere_it_is_tried_there_all_the_same_and_fails_by_name() -> None:
    scene = Scene("h1")
    scene.submit(graph("a"))
    assert scene.fail("h1", "a", "disk") == [("start", "h1", "a")]
    assert scene.fail("h1", "a", "disk") == [("start", "h1", "a")]
    assert scene.fail("h1", "a", "disk") == [("failed", "a"), ("over", "failed")]


def test_what_must_not_run_twice_is_tried_elsewhere_where_it_was_not_called() -> None:
    once = profile(idempotent=False)
    for called, then in ((False, [("start", "h2", "a")]), (True, [("failed", "a"), ("over", "failed")])):
        scene = Scene("h1", "h2")
        scene.submit(graph("a", profiles={"a": once}))
        failed = ev.TaskFailed("h1", 1, 0, 1, "disk", True, None, 7, called)
        assert scene.said(scene.tell(failed)) == then


def test_a_pinned_task_goes_to_its_host() -> None:
    scene = Scene("h1 2", "h2 2")
    pinned = profile(host="h1")
    scene.submit(graph("a; b", profiles={"a": pinned, "b": pinned}))
    assert scene.fail("h1", "a", "disk") == [("start", "h1", "a")]


@pytest.mark.parametrize("event", [ev.HostLost, ev.HostSuspected, ev.HostDrained])
def test_when_the_others_are_not_to_be_had_it_goes_there_at_once(event: type) -> None:
    scene = full(2, "h1", "h2 99", "h3")
    scene.fail("h2", "x0", "disk")
    assert scene.state("x0") is State.HANDED  # on h3, which has only one slot
    ready(scene, 1)
    assert scene.core.explain(1, scene.number(1, "x1")).hosts["h1"] == (
        "had no room for a result or an argument of this function, and is avoided for 10 s more"
    )
    said = scene.said(scene.tell(event("h3")))
    assert any(words[0] == "start" and words[1] in ("h1", "h2") and "x1" in words for words in said)


def test_a_task_that_failed_elsewhere_is_tried_there_again_rather_than_where_there_is_no_room() -> None:
    scene = full()
    ready(scene, 1)
    assert scene.fail("h2", "x1", "input") == [("start", "h2", "x1")]


def test_tasks_wait_for_a_host_that_is_busy_but_no_longer_than_the_pause() -> None:
    scene = full(2, "h1", "h2 2")
    held = profile(host="h2", idempotent=False)
    scene.submit(graph("a; b", profiles={"a": held, "b": held}), run=2)
    assert ready(scene, 1) == [("start", "h2", "a")]
    assert scene.state("x1") is State.READY
    assert starts(scene.wake()) == [("start", "h1", "x1")]
    assert scene.now == 10.0


@pytest.mark.parametrize(("need", "host"), [(1_000_000, "h2"), (500_000, "h1")])
def test_a_pause_ends_early_where_as_much_was_dropped_as_one_task_a_slot_needs(need: int, host: str) -> None:
    """h1 has two slots. The result of k takes 1 MB there, and is dropped when the task l, which needs it, has ended."""
    profiles = dict.fromkeys("kl", profile(host="h1", idempotent=False))
    scene = gated(2, "h1 2", "h2 99", more="; k -> l", profiles=profiles)
    scene.finish("h1", "k", size=1_000_000, held=False)
    assert ready(scene, 0) == [("start", "h1", "x0")]
    scene.fail("h1", "x0", "disk", need=need)
    assert ("drop", "h1", "k") in scene.finish("h1", "l")
    assert ready(scene, 1) == [("start", host, "x1")]


def test_a_run_that_is_closed_leaves_room() -> None:
    scene = full(2, need=10**12)
    scene.submit(graph("k", profiles={"k": profile(host="h1")}), run=2)
    scene.finish("h1", "k", run=2, size=1_000_000, held=False)
    scene.tell(ev.RunClosed(2))
    assert ready(scene, 1) == [("start", "h1", "x1")]


def test_what_waits_there_for_a_claim_goes_elsewhere() -> None:
    scene = Scene("h1", "h2 2")
    scene.submit(graph("; ".join("abcdefghi"), allocator="first_available"))
    ahead = [scene.name(1, t) for _, t, _, _ in scene.core.world.fleet.by_name["h1"].ahead]
    assert len(ahead) == 2
    assert ("recall", "h1", *ahead) in scene.fail("h1", "a", "disk")
    assert scene.core.world.fleet.by_name["h1"].handed == 2
    scene.recalled("h1", *ahead)
    assert scene.core.world.fleet.by_name["h1"].handed == 0


def test_nothing_is_taken_back_where_there_is_no_elsewhere() -> None:
    scene = Scene("h1")
    scene.submit(graph("a; b; c"))
    assert [words for words in scene.fail("h1", "a", "disk") if words[0] == "recall"] == []


def test_an_idle_host_without_room_is_no_reason_to_take_back_what_waits_on_another() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a; b; c", allocator="first_available"))
    assert starts(scene.fail("h1", "a", "disk")) == [("ahead", "h2", "a")]
    assert starts(scene.recalled("h1", "c")) == [("ahead", "h2", "c")]
    assert scene.said(scene.tell(at=9.0)) == []
    assert scene.said(scene.tell(at=10.0)) == [("recall", "h2", "c")]


def test_a_follower_is_not_handed_where_its_function_is_paused() -> None:
    """The task a is of another function and runs on h1. The task b takes its result."""
    big = profile()
    profiles = {"x": big, "b": big, "a": profile(host="h1"), "g": profile(host="h2", idempotent=False)}
    scene = Scene("h1 2", "h2 2")
    scene.submit(graph("x; g -> a -> b", profiles=profiles, allocator="first_available"))
    assert starts(scene.fail("h1", "x", "disk")) == [("start", "h2", "x")]
    assert starts(scene.finish("h2", "g")) == [("start", "h1", "a")]
    assert scene.state("b") is State.WAITING
    assert starts(scene.finish("h1", "a")) == [("start", "h2", "b")]


def test_a_second_attempt_is_not_made_where_there_is_no_room() -> None:
    scene = Scene("h1 4", "h2 4")
    rule = Speculation(peers=2, factor=3.0, least_s=0.25)
    scene.submit(graph("x; p; q; slow", speculation=rule, allocator="load_balanced"))
    on = {name: scene.core.explain(1, scene.number(1, name)).host for name in ("x", "p", "q", "slow")}
    other = {"h1": "h2", "h2": "h1"}[on["slow"]]
    began = ev.TasksStarted(on["slow"], 1, [scene.number(1, "slow")], [1])
    scene.tell(began)
    first = next(name for name in ("x", "p", "q") if on[name] == other)
    scene.fail(other, first, "disk")
    for name in ("x", "p", "q"):
        scene.finish(scene.core.explain(1, scene.number(1, name)).host, name, took_s=1.0)
    assert starts(scene.said(scene.tell(at=4.0))) == []
    assert starts(scene.said(scene.tell(at=10.0))) == [("start", other, "slow")]


def test_a_group_goes_where_none_of_its_functions_is_paused() -> None:
    profiles = {"g": GATE, "a": profile({"licence": 1}), "b": BIG}
    scene = full(2, more="; g -> a, b", profiles=profiles, groups={"a": 0, "b": 0})
    assert starts(scene.finish("h2", "g")) == [("start", "h2", "a", "b")]


def test_a_group_stays_where_it_is() -> None:
    scene = Scene("h1 2", "h2 2")
    scene.submit(graph("a; b", groups={"a": 0, "b": 0}))
    assert starts(scene.fail("h1", "a", "disk")) == [("start", "h1", "a")]


def test_another_agent_on_the_host_has_other_files() -> None:
    scene = full(2, "h1", "h2 99", "h3 9")
    scene.lose("h1")
    scene.join("h1")
    assert not scene.core.world.pausing


def test_an_allocator_is_shown_where_there_is_no_room() -> None:
    scene = Scene("h1", "h2")
    scene.specs[1] = graph("a; b", allocator=None)
    asked = _asked(scene.tell(ev.RunSubmitted(1, scene.specs[1])))
    scene.tell(ev.PlacementsProposed(1, asked.request, {"a": "h1"}))
    asked = _asked(scene.tell(ev.TaskFailed("h1", 1, 0, 1, "disk", True, None)))
    assert {task.id: set(task.not_on) for task in asked.frontier} == {"a": {"h1"}, "b": {"h1"}}


def _asked(commands: list[cmd.Command]) -> cmd.AskAllocator:
    (asked,) = [c for c in commands if isinstance(c, cmd.AskAllocator)]
    return asked


def test_a_host_is_not_kept_free_for_a_function_that_is_paused_there() -> None:
    """The tasks w and v are of one function: w takes both cores of h1, and v waits for them.

    Then w fails, because h1 has no room on its disk.
    """
    wide, small = profile({"cpu": 2, "licence": 1}), profile({"licence": 1})
    profiles = {"w": wide, "v": wide, "a": small, "b": small, "g": GATE}
    scene = Scene("h1 2", "h2 3", licence=99)
    said = scene.submit(graph("w; a; b; g -> v", profiles=profiles, allocator="first_available"))
    assert {words[1]: set(words[2:]) for words in starts(said)} == {"h1": {"w"}, "h2": {"a", "b", "g"}}
    assert starts(scene.finish("h2", "g")) == []
    scene.wake()
    h1 = scene.core.world.fleet.by_name["h1"]
    assert h1.reserved is not None
    assert starts(scene.fail("h1", "w", "disk")) == []
    assert h1.reserved is None
    assert starts(scene.submit(graph("c", profiles={"c": small}), run=2)) == [("start", "h1", "c")]


ONCE = {"idempotent": False}
PAIR = profile({"cpu": 2}, fn_name="pair", **ONCE)
ALONE = profile(fn_name="alone", **ONCE)


def kept_for_a_group(*groups: str) -> Scene:
    """Return a scene in which h1 is kept free for the task ``pair``, which waits until both cores of h1 are free."""
    scene = Scene("h1 2", "h2 2")
    taken = {"z": profile(host="h1", **ONCE), "y": profile(host="h2", **ONCE), "x": profile(host="h2", **ONCE)}
    scene.submit(graph("z; y; x", profiles=taken), run=9)
    names = {"a": ALONE, "pair": PAIR, "b": ALONE}
    assert scene.submit(graph("a; pair; b", profiles=names, groups=dict.fromkeys(groups, 0))) == [("start", "h1", "a")]
    scene.tell(at=31.0)
    assert scene.core.world.fleet.by_name["h1"].reserved is not None
    return scene


def test_a_host_that_is_kept_free_says_for_which_task() -> None:
    scene = kept_for_a_group()
    told = scene.core.explain(1, scene.number(1, "b")).hosts
    assert told["h1"] == "is kept free for task 'pair', which has waited for a long time"
    scene.submit(graph("c", profiles={"c": ALONE}), run=2)
    assert scene.core.explain(2, 0).hosts["h1"].startswith("is kept free for task 'pair' of another run")


def found_no_room(scene: Scene, name: str) -> None:
    """Report that h1 had no room for a task.

    The task's function was not called, so the task may be tried elsewhere although it must not run twice.
    """
    t = scene.number(1, name)
    scene.tell(ev.TaskFailed("h1", 1, t, scene.attempt(1, t), "disk", True, None, 8, False))


def test_nor_for_a_group_of_which_a_function_is_paused_there() -> None:
    scene = kept_for_a_group("pair", "b")
    found_no_room(scene, "a")
    assert scene.core.world.fleet.by_name["h1"].reserved is None
    scene.finish("h1", "z", run=9)
    other = profile(fn_name="other", **ONCE)
    assert scene.submit(graph("c; d", profiles={"c": other, "d": other}), run=5) == [("start", "h1", "c", "d")]


def test_nor_where_an_elsewhere_comes_only_after_the_pause_began() -> None:
    scene = Scene("h1 2")
    scene.submit(graph("z", profiles={"z": profile(host="h1", **ONCE)}), run=9)
    names = {"a": ALONE, "pair": PAIR, "b": ALONE}
    scene.submit(graph("a; pair; b", profiles=names, groups={"pair": 0, "b": 0}))
    scene.tell(at=31.0)
    found_no_room(scene, "a")
    h1 = scene.core.world.fleet.by_name["h1"]
    assert h1.reserved is not None
    scene.join("h2 2")
    assert h1.reserved is None
