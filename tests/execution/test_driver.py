"""The driver alone: the events that it sends to the core about attempts that the recorder holds back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from handout.execution.shell.driver import Driver
from handout.execution.shell.run_checkpoints import RunCheckpoints
from handout.execution.shell.run_state import HeldAttempt
from handout.scheduler import commands as do
from handout.scheduler import events as ev


class HoldingRecorder:
    """A recorder that holds back attempt 2 of task 3. The task was placed on host ``far``."""

    def __init__(self) -> None:
        self.held = [HeldAttempt("far", 3, 2)]
        self.never_began: list[tuple[list[int], list[int]]] = []

    def release(self, run: Any, task: int, attempt: int) -> bool:
        return bool(self.release_all())

    def release_all(self) -> list[HeldAttempt]:
        held, self.held = self.held, []
        return held

    def not_started(self, tasks: list[int], attempts: list[int]) -> None:
        self.never_began.append((tasks, attempts))


@pytest.fixture
async def posted(monkeypatch: pytest.MonkeyPatch) -> list[ev.Event]:
    events: list[ev.Event] = []
    monkeypatch.setattr(Driver, "post", lambda driver, *each: events.extend(each))
    return events


async def test_a_run_that_is_left_gives_back_what_was_not_handed_over(posted: list[ev.Event]) -> None:
    """Otherwise the core would wait for ever for the attempt's end, and never free the amounts claimed for it."""
    driver, recorder = Driver(lambda coroutine: coroutine.close()), HoldingRecorder()
    run: Any = SimpleNamespace(
        number=7, recorder=recorder, checkpoints=RunCheckpoints(), homes={}, give_back=lambda numbers: None
    )
    driver.forget(run)
    assert posted == [ev.TasksRecalled("far", 7, [3], [2])]
    assert recorder.never_began == [([3], [2])]
    driver.close()


async def test_starts_that_cannot_be_recorded_are_given_back_and_the_run_is_cancelled(posted: list[ev.Event]) -> None:
    driver, recorder = Driver(lambda coroutine: coroutine.close()), HoldingRecorder()
    run: Any = SimpleNamespace(number=7, recorder=recorder, error=None)
    agent: Any = SimpleNamespace(name="far")
    command = do.StartTasks("far", 7, [3], [2], [False], [0], [False])
    full = OSError("no space left")
    driver._handovers._start_recorded(run, recorder, agent, command, full)  # type: ignore[arg-type]
    assert run.error is full
    assert posted == [ev.CancelRequested(7), ev.TasksRecalled("far", 7, [3], [2])]
    driver.close()
