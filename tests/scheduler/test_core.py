"""Runs in which nothing fails, from their submission to their end.

Each test gives the core events, and compares the commands that the core returns with the exact list that is expected.
"""

from __future__ import annotations

import pytest

from handout.errors import InternalError
from handout.scheduler import Core, Outcome, RunSpec, State
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from tests.scheduler.rig import Scene, graph, joined, profile


def test_one_task_runs_and_its_result_rides_along() -> None:
    scene = Scene("h1")
    assert scene.submit(graph("a")) == [("start", "h1", "a")]
    assert scene.finish("h1", "a") == [("done", "a"), ("over", "done")]
    assert scene.where("a") == ("",)
    assert scene.said(scene.tell(ev.RunClosed(1))) == [("drop", "", "a")]


def test_a_large_result_is_fetched_before_the_run_is_over() -> None:
    scene = Scene("h1")
    scene.submit(graph("a"))
    assert scene.finish("h1", "a", size=10**9, held=False) == [("fetch", "a", "h1"), ("done", "a")]
    assert scene.store("", "a", size=10**9) == [("drop", "h1", "a"), ("over", "done")]


def test_start_says_attempt_variant_and_whether_to_keep_the_result() -> None:
    scene = Scene("h1 2")
    scene.specs[1] = graph("a -> b; c")
    (command,) = scene.tell(ev.RunSubmitted(1, scene.specs[1]))
    assert command == cmd.StartTasks(
        "h1", 1, [0, 2, 1], [1, 1, 1], [False, False, True], [0, 0, 0], [True, False, False]
    )


def test_a_consumer_elsewhere_gets_a_copy_and_what_nobody_uses_any_more_is_dropped() -> None:
    scene = Scene("h1", "h2")
    pinned = {"a": profile(host="h1"), "b": profile(host="h2")}
    assert scene.submit(graph("a -> b", profiles=pinned)) == [("start", "h1", "a")]
    assert scene.finish("h1", "a", size=10**6, held=False) == [
        ("start", "h2", "b"),
        ("copy", "a", "h1", "h2"),
        ("done", "a"),
    ]
    assert scene.store("h2", "a") == []
    assert scene.where("a") == ("h1", "h2")
    assert scene.finish("h2", "b") == [("drop", "h1", "a"), ("drop", "h2", "a"), ("done", "b"), ("over", "done")]


def test_two_consumers_on_one_host_cost_one_copy() -> None:
    scene = Scene("h1", "h2 2")
    profiles = {"a": profile(host="h1"), "b": profile(host="h2"), "c": profile(host="h2")}
    scene.submit(graph("a -> b, c", profiles=profiles))
    said = scene.finish("h1", "a", size=10**6, held=False)
    assert said == [("start", "h2", "b", "c"), ("copy", "a", "h1", "h2"), ("done", "a")]


def test_values_of_the_controller_are_copied_from_it_and_stay_there() -> None:
    """Object 1 is a value that task 0 takes."""
    scene = Scene("h1")
    spec = RunSpec(1, [profile()], [0], [0], [(1,)], [0, -1], [-1, 500], outputs=[0], ids=["a"])
    assert scene.submit(spec) == [("start", "h1", "a"), ("copy", "1", "", "h1")]
    scene.store("h1", "1")
    assert scene.finish("h1", "a") == [("drop", "h1", "1"), ("done", "a"), ("over", "done")]
    assert scene.where("1") == ("",)


def test_only_the_element_that_is_asked_for_travels() -> None:
    """Object 2 is an element of task 0's result; no task takes the whole of it."""
    scene = Scene("h1", "h2")
    profiles = [profile(host="h1"), profile(host="h2")]
    spec = RunSpec(2, profiles, [0, 1], [0, 1], [(), (2,)], [0, 1, 0], [-1, -1, -1], outputs=[1], ids=["a", "b"])
    scene.submit(spec)
    said = scene.said(scene.tell(ev.TasksFinished("h1", 1, [0], [1], [60.0], [[-1, 100]], [False])))
    assert said == [("start", "h2", "b"), ("copy", "2", "h1", "h2"), ("done", "a")]


def test_more_tasks_than_room_wait_in_the_order_of_priority() -> None:
    scene = Scene("h1")
    spec = graph("a; b; c", priorities={"b": 2.0, "c": 1.0}, profiles={n: profile(idempotent=False) for n in "abc"})
    assert scene.submit(spec) == [("start", "h1", "b")]
    assert scene.finish("h1", "b")[0] == ("start", "h1", "c")
    assert scene.finish("h1", "c")[0] == ("start", "h1", "a")


def test_what_most_follows_goes_first() -> None:
    scene = Scene("h1")
    long = profile({"cpu": 1}, idempotent=False)
    spec = graph("z; a -> b -> c", profiles=dict.fromkeys("zabc", long))
    assert scene.submit(spec) == [("start", "h1", "a")]


def test_two_runs_share_one_ledger_and_take_turns() -> None:
    scene = Scene("h1 4")
    alone = profile(idempotent=False)
    first = graph("; ".join(f"a{i}" for i in range(8)), profiles={f"a{i}": alone for i in range(8)})
    second = graph("; ".join(f"b{i}" for i in range(8)), profiles={f"b{i}": alone for i in range(8)})
    assert scene.submit(first, run=1) == [("start", "h1", "a0", "a1", "a2", "a3")]
    assert scene.submit(second, run=2) == []
    said = scene.finish("h1", "a0", "a1", "a2")
    assert said[:1] == [("start", "h1", "b0", "b1", "b2")] or ("start", "h1", "b0", "b1") in said


def test_the_run_of_higher_priority_goes_first() -> None:
    scene = Scene("h1")
    alone = profile(idempotent=False)
    scene.submit(graph("a; b", profiles=dict.fromkeys("ab", alone)), run=1)
    scene.submit(graph("c", profiles={"c": alone}, run_priority=5.0), run=2)
    assert scene.finish("h1", "a")[0] == ("start", "h1", "c")


def test_max_concurrency_counts_all_that_is_handed() -> None:
    scene = Scene("h1 8")
    assert scene.submit(graph("a; b; c", max_concurrency=2)) == [("start", "h1", "a", "b")]
    assert scene.finish("h1", "b")[0] == ("start", "h1", "c")


def test_an_empty_run_is_over_at_once() -> None:
    scene = Scene("h1")
    spec = RunSpec(0, [], [], [], [], [], [])
    assert scene.submit(spec) == [("over", "done")]


def test_tasks_wait_for_hosts_that_are_expected() -> None:
    scene = Scene()
    scene.tell(ev.HostExpected("h1"))
    assert scene.submit(graph("a")) == []
    assert scene.join("h1") == [("start", "h1", "a")]


def test_kept_objects_stay_on_their_host_until_the_run_is_closed() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b", keep=["a"]))
    scene.finish("h1", "a")
    said = scene.finish("h1", "b")
    assert said[-1] == ("over", "done")
    assert "h1" in scene.where("a")
    assert ("drop", "h1", "a") in scene.said(scene.tell(ev.RunClosed(1)))


def test_stale_and_repeated_events_are_ignored_and_counted() -> None:
    scene = Scene("h1")
    scene.submit(graph("a -> b"))
    event = scene.finished("h1", "a")
    scene.tell(event)
    assert scene.core.stale == 0
    assert scene.said(scene.tell(event)) == []
    scene.tell(ev.TasksStarted("h1", 1, [0], [1]), ev.TasksRecalled("h9", 1, [0], [1]), ev.RunClosed(7))
    assert scene.core.stale == 4


def test_a_newer_variant_is_granted_when_the_preferred_one_is_taken() -> None:
    scene = Scene()
    scene.join("h1 4", gpu=1)
    either = profile([{"gpu": 1}, {"cpu": 2}])
    spec = graph("a; b", profiles=dict.fromkeys("ab", either))
    scene.specs[1] = spec
    (command,) = scene.tell(ev.RunSubmitted(1, spec))
    assert isinstance(command, cmd.StartTasks)
    assert (command.tasks, command.variants) == ([0, 1], [0, 1])


def test_shared_amounts_are_consumed_across_hosts() -> None:
    scene = Scene("h1 4", "h2 4", licence=2)
    seat = profile({"licence": 1})
    said = scene.submit(graph("a; b; c", profiles=dict.fromkeys("abc", seat)))
    assert sum(len(words) - 2 for words in said) == 2
    assert len([1 for n in "abc" if scene.state(n) is State.READY]) == 1
    host = next(words[1] for words in said if "a" in words)
    assert ("start", host, "c") in scene.finish(host, "a")


def test_an_unknown_event_is_our_bug() -> None:
    with pytest.raises(InternalError):
        Core().handle(["boo"], 0.0)  # type: ignore[list-item]


def test_counts_and_locate_tell_where_things_are() -> None:
    scene = Scene("h1")
    scene.submit(graph("a -> b"))
    scene.finish("h1", "a", held=False)
    assert scene.core.counts(1)[State.DONE] == 1
    assert scene.core.locate(1, 0) == ("h1",)
    assert scene.core.locate(5, 0) == ()


def test_a_later_epoch_replaces_the_earlier_one() -> None:
    scene = Scene("h1")
    scene.submit(graph("a"))
    said = scene.said(scene.tell(joined("h1", cpu=1, epoch=1)))
    assert said == [("start", "h1", "a")]
    assert scene.attempt(1, 0) == 2
    scene.tell(joined("h1", cpu=1, epoch=1))
    assert scene.core.stale == 1


def test_outcomes_of_tasks_are_told_once() -> None:
    scene = Scene("h1 2")
    scene.submit(graph("a -> b; c"))
    scene.finish("h1", "c")
    scene.finish("h1", "a")
    scene.finish("h1", "b")
    assert scene.ended == {(1, n): Outcome.DONE for n in "abc"}


def test_what_the_caller_asks_for_later_is_fetched_from_where_it_is() -> None:
    scene = Scene("h1", "h2")
    scene.submit(graph("a -> b", profiles={"a": profile(host="h1"), "b": profile(host="h1")}))
    scene.finish("h1", "a", size=10**6, held=False)
    assert scene.said(scene.tell(ev.OutputsWanted(1, [0]))) == [("fetch", "a", "h1")]
    scene.finish("h1", "b")
    assert ("over", "done") in scene.store("", "a", size=10**6)
    assert scene.where("a") == ("",)


def test_what_is_asked_for_before_it_is_made_is_fetched_when_it_is() -> None:
    scene = Scene("h1")
    scene.submit(graph("a -> b"))
    assert scene.said(scene.tell(ev.OutputsWanted(1, [0]))) == []
    assert ("fetch", "a", "h1") in scene.finish("h1", "a", size=10**6, held=False)


def test_what_is_gone_already_stays_gone() -> None:
    scene = Scene("h1")
    scene.submit(graph("a -> b"))
    scene.finish("h1", "a", size=10**6, held=False)
    scene.finish("h1", "b")
    assert scene.said(scene.tell(ev.OutputsWanted(1, [0]))) == []


def test_an_output_that_is_asked_for_and_was_not_stored_is_waited_for_no_more() -> None:
    """No task needed the result of a when a was handed over, so the agent did not keep the result."""
    scene = Scene("h1")
    scene.submit(graph("a; b", outputs=["b"]))
    scene.tell(ev.OutputsWanted(1, [0]))
    scene.finish("h1", "a", size=-1)
    assert ("over", "done") in scene.finish("h1", "b")
