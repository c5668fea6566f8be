"""Open runs: tasks are added while the run goes on, and each task ends for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from handout.errors import AllocatorError, HostLostError, InternalError, OutcomeUnknownError, PlacementError
from handout.scheduler import Outcome, Profile, RunSpec
from handout.scheduler import commands as cmd
from handout.scheduler import events as ev
from tests.scheduler.rig import Said, Scene, profile


class OpenScene(Scene):
    """A scene with an open run, whose tasks are named in the order in which they are added."""

    def __init__(self, *hosts: str, capacity: int = 8, **fields: Any) -> None:
        super().__init__(*hosts)
        self.profiles: list[Profile] = []
        self.failures: dict[str, object] = {}
        self.submit(RunSpec.open(capacity, on_failure="continue", **fields))

    def add(
        self, *names: str, like: Profile | None = None, values: Sequence[int] = (), takes: Sequence[int] = ()
    ) -> list[Said]:
        """Add tasks that take new values of these sizes, and objects that the run has already."""
        like = like or self.profiles[0] if self.profiles else like or profile()
        new = [] if like in self.profiles else [like]
        self.profiles += new
        known = self.core.world.runs[1]
        first = len(known.spec.producer)
        inputs = (*takes, *range(first, first + len(values)))
        index, n = self.profiles.index(like), len(names)
        event = ev.TasksAdded(1, new, [index] * n, [index] * n, [inputs] * n, list(values), list(names), [{}] * n)
        return self.said(self.tell(event))

    def tell(self, *events: ev.Event, at: float | None = None) -> list[cmd.Command]:
        commands = super().tell(*events, at=at)
        for command in commands:
            if isinstance(command, cmd.AnnounceTasksEnded):
                for t, failure in zip(command.tasks, command.failures, strict=True):
                    self.failures[self.name(1, t)] = failure
        return commands


def test_tasks_are_added_while_others_run_and_the_run_goes_on_after_them() -> None:
    scene = OpenScene("h1")
    scene.add("a")
    assert scene.core.attempts(1) == [1]
    scene.finish("h1", "a")
    assert scene.ended == {(1, "a"): Outcome.DONE}
    scene.add("b", "c")
    scene.finish("h1", "b")
    scene.finish("h1", "c")
    assert set(scene.ended.values()) == {Outcome.DONE}
    assert not scene.over
    scene.tell(ev.RunClosed(1))
    assert not scene.core.world.runs


def test_a_task_has_ended_when_the_controller_has_its_result() -> None:
    """If its result is lost on the way, the task runs again, and its caller learns of one end only."""
    scene = OpenScene("h1", "h2")
    scene.add("a")
    scene.finish("h1", "a", held=False, size=1 << 20)
    assert not scene.ended
    scene.tell(ev.HostLost("h1", "gone"))
    assert scene.core.attempts(1) == [2]
    scene.finish("h2", "a", held=False, size=1 << 20)
    scene.store("", "a", size=1 << 20)
    assert scene.ended == {(1, "a"): Outcome.DONE}


def test_the_failure_of_a_task_changes_nothing_for_the_others() -> None:
    scene = OpenScene("h1 2")
    scene.add("a", "b")
    scene.fail("h1", "a")
    assert scene.ended == {(1, "a"): Outcome.FAILED}
    scene.finish("h1", "b")
    assert scene.ended[1, "b"] is Outcome.DONE


def test_a_task_that_no_host_can_run_fails_alone_at_once() -> None:
    scene = OpenScene("h1")
    scene.add("a")
    scene.add("b", like=profile({"cpu": 7}))
    assert scene.ended == {(1, "b"): Outcome.FAILED}
    assert isinstance(scene.failures["b"], PlacementError)
    # The second task of that profile fails too, although the profile is not new.
    scene.add("c", like=scene.profiles[1])
    assert scene.ended[1, "c"] is Outcome.FAILED
    scene.finish("h1", "a")
    assert scene.ended[1, "a"] is Outcome.DONE


def test_a_task_waits_for_a_host_that_is_expected() -> None:
    scene = OpenScene("h1")
    scene.tell(ev.HostExpected("h2"))
    scene.add("a", like=profile({"cpu": 2}))
    assert not scene.ended
    scene.join("h2 2")
    assert scene.core.attempts(1) == [1]


def test_a_cancelled_task_whose_result_is_on_its_way_ends_once() -> None:
    scene = OpenScene("h1")
    scene.add("a", "b")
    scene.finish("h1", "a", held=False, size=1 << 20)
    scene.tell(ev.CancelRequested(1, [0]))
    assert scene.ended == {(1, "a"): Outcome.CANCELLED}
    scene.store("", "a", size=1 << 20)
    scene.finish("h1", "b")
    assert scene.ended == {(1, "a"): Outcome.CANCELLED, (1, "b"): Outcome.DONE}


def test_a_result_that_cannot_be_copied_to_the_controller_fails_its_task_alone() -> None:
    scene = OpenScene("h1")
    scene.add("a", "b")
    scene.finish("h1", "a", held=False, size=1 << 20)
    for _ in range(3):
        scene.tell(ev.CopyFailed("", 1, 0, "h1", missing=False))
    assert scene.ended == {(1, "a"): Outcome.FAILED}
    assert isinstance(scene.failures["a"], HostLostError)
    scene.finish("h1", "b")
    assert scene.ended[1, "b"] is Outcome.DONE


def test_a_task_that_must_not_run_twice_fails_if_its_result_is_lost() -> None:
    scene = OpenScene("h1", "h2")
    scene.add("a", like=profile(idempotent=False))
    scene.finish("h1", "a", held=False, size=1 << 20)
    scene.tell(ev.HostLost("h1", "gone"))
    assert scene.ended == {(1, "a"): Outcome.FAILED}
    assert isinstance(scene.failures["a"], OutcomeUnknownError)


def test_an_allocator_that_fails_ends_the_tasks_that_wait_for_it_and_is_asked_about_the_next_ones() -> None:
    scene = OpenScene("h1", allocator=None)
    scene.add("a")
    error = AllocatorError("it raised.")
    scene.tell(ev.AllocatorFailed(1, 1, error))
    assert scene.ended == {(1, "a"): Outcome.FAILED}
    assert scene.failures["a"] is error
    scene.add("b")
    scene.tell(ev.PlacementsProposed(1, 2, {"b": "h1"}))
    scene.finish("h1", "b")
    assert scene.ended[1, "b"] is Outcome.DONE


def test_values_go_to_a_host_for_their_task_and_are_dropped_there_after_it() -> None:
    scene = OpenScene("h1")
    assert scene.add("a", values=[500]) == [("start", "h1", "a"), ("copy", "8", "", "h1")]
    scene.store("h1", "8", size=500)
    assert scene.finish("h1", "a") == [("drop", "h1", "8"), ("done", "a")]
    assert scene.core.locate(1, 8) == ("",)


def test_tasks_take_a_value_that_another_task_brought_and_a_host_gets_it_once() -> None:
    scene = OpenScene("h1 2")
    assert ("copy", "8", "", "h1") in scene.add("a", values=[500])
    scene.store("h1", "8", size=500)
    assert scene.add("b", takes=[8]) == [("start", "h1", "b")]
    assert scene.finish("h1", "a") == [("done", "a")]
    assert scene.finish("h1", "b") == [("drop", "h1", "8"), ("done", "b")]


def test_a_value_that_is_kept_stays_on_its_hosts_between_its_tasks() -> None:
    scene = OpenScene("h1")
    scene.add("a", values=[500])
    scene.store("h1", "8", size=500)
    scene.tell(ev.ValuesKept(1, [8]))
    assert scene.finish("h1", "a") == [("done", "a")]
    assert scene.add("b", takes=[8]) == [("start", "h1", "b")]
    assert scene.said(scene.tell(ev.ValuesReleased(1, [8]))) == []
    assert scene.finish("h1", "b") == [("drop", "h1", "8"), ("done", "b")]


def test_a_released_value_that_no_task_takes_is_dropped_at_once() -> None:
    scene = OpenScene("h1", "h2")
    scene.add("a", values=[500])
    scene.store("h1", "8", size=500)
    scene.tell(ev.ValuesKept(1, [8]))
    scene.finish("h1", "a")
    assert scene.said(scene.tell(ev.ValuesReleased(1, [8]))) == [("drop", "h1", "8")]
    assert scene.core.locate(1, 8) == ("",)


def test_a_kept_value_of_a_lost_host_goes_to_the_next_host() -> None:
    scene = OpenScene("h1")
    scene.add("a", values=[500])
    scene.store("h1", "8", size=500)
    scene.tell(ev.ValuesKept(1, [8]))
    scene.finish("h1", "a")
    scene.lose("h1")
    scene.join("h2")
    assert scene.add("b", takes=[8]) == [("start", "h2", "b"), ("copy", "8", "", "h2")]


def test_events_about_values_of_a_closed_run_are_stale() -> None:
    scene = OpenScene("h1")
    scene.add("a", values=[500])
    scene.tell(ev.RunClosed(1))
    before = scene.core.stale
    scene.tell(ev.ValuesKept(1, [8]), ev.ValuesReleased(1, [8]))
    assert scene.core.stale == before + 2


def test_more_tasks_than_the_run_can_have_are_an_internal_error() -> None:
    scene = OpenScene("h1", capacity=1)
    scene.add("a")
    with pytest.raises(InternalError, match="can have 1"):
        scene.add("b")


def test_tasks_for_a_closed_run_are_stale() -> None:
    scene = OpenScene("h1")
    scene.tell(ev.RunClosed(1))
    before = scene.core.stale
    scene.tell(ev.TasksAdded(1, [profile()], [0], [0], [()], [], ["a"], [{}]))
    assert scene.core.stale == before + 1
