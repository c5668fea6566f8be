"""The events of a run. `Execution.events` yields them in the order in which they happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handout.failures import Failure

__all__ = [
    "EventsMissed",
    "HostFull",
    "HostJoined",
    "HostLeft",
    "HostQuarantined",
    "HostUnavailable",
    "RunEnded",
    "RunEvent",
    "TaskEnded",
    "TaskHandedOver",
    "TaskNotReused",
    "TaskReported",
    "TaskRetried",
    "TaskSpeculated",
    "TaskStarted",
]


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Base class of all events of a run. Times are measured with the controller's monotonic clock.

    Attributes:
        at_s: When the event happened, in seconds from the start of the run.

    Example:
        ```python
        async with handout.start(graph) as execution:
            async for event in execution.events():
                match event:
                    case handout.events.TaskEnded(id=id, outcome="failed", failure=failure):
                        print(id, failure)
                    case handout.events.RunEnded(done=done):
                        print(done, "tasks done after", event.at_s, "seconds")
        ```
    """

    at_s: float


@dataclass(frozen=True, slots=True)
class TaskHandedOver(RunEvent):
    """A task was handed over to a host. The agent starts it once the host has its inputs and room for its cost.

    Attributes:
        id: The id of the function.
        host: The name of the host.
        attempt: The number of the attempt, from 1. A task that is recalled before it has begun, and handed over again,
            keeps the number.
    """

    id: str
    host: str
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskStarted(RunEvent):
    """A task has started. There is no such event for a task that ends within 50 ms.

    Attributes:
        id: The id of the function.
        host: The name of the host.
        attempt: The number of the attempt, from 1.
    """

    id: str
    host: str
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskReported(RunEvent):
    """A task has called `Current.report`. Of each task, only the newest report is sent, at most ten a second.

    Attributes:
        id: The id of the function.
        host: The name of the host.
        attempt: The number of the attempt, from 1.
        progress: The share of the work that is done, from 0 to 1; None if the task has not given it.
        facts: The further values that the task has given, by name. Control characters in texts are escaped.

    Example:
        ```python
        async with handout.start(graph) as execution:
            async for event in execution.events():
                match event:
                    case handout.events.TaskReported(id=id, progress=float(progress), facts={"loss": loss}):
                        print(f"{id}: {progress:.0%}, loss {loss}")
        ```
    """

    id: str
    host: str
    attempt: int
    progress: float | None
    facts: Mapping[str, str | float | bool | None]


@dataclass(frozen=True, slots=True)
class TaskRetried(RunEvent):
    """An attempt of a task failed, and another attempt follows.

    Attributes:
        id: The id of the function.
        host: The name of the host of the failed attempt.
        attempt: The number of the failed attempt, from 1.
        reason: Why the attempt failed, in one line.
    """

    id: str
    host: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class TaskSpeculated(RunEvent):
    """A second attempt of a slow task was handed over. The first attempt goes on.

    Attributes:
        id: The id of the function.
        host: The name of the host of the second attempt.
        attempt: The number of the second attempt.
        beside: The name of the host of the first attempt.
        running_s: Seconds for which the first attempt has run.
        limit_s: A task of this function counts as slow once it has run for this many seconds.
    """

    id: str
    host: str
    attempt: int
    beside: str
    running_s: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class TaskEnded(RunEvent):
    """A task ended for good.

    Attributes:
        id: The id of the function.
        outcome: ``done``, ``reused``, ``failed``, ``skipped`` or ``cancelled``. A task is reused if it did not run,
            because its result comes from the results in ``given=`` or from the journal, or because only such tasks
            took its result.
        host: The name of the host of the last attempt, which a reused task had in an earlier run. None if no host had
            the task.
        failure: Why the task has no result, or None if it is done or reused.
        reason: Where the result of a reused task comes from, in words. Otherwise empty.
    """

    id: str
    outcome: str
    host: str | None
    failure: Failure | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TaskNotReused(RunEvent):
    """A task runs, although results of an earlier run were given. There is one such event for each task that runs.

    Attributes:
        id: The id of the function.
        reason: Why the results in ``given=`` have no result for the task, in words.
    """

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostJoined(RunEvent):
    """A host has joined. Its agent is ready, so the host may get tasks.

    Attributes:
        host: The name of the host.
    """

    host: str


@dataclass(frozen=True, slots=True)
class HostUnavailable(RunEvent):
    """A host cannot be used. The run goes on without it if other hosts can run all functions of the graph.

    Attributes:
        host: The name of the host.
        error: Why the host cannot be used.
    """

    host: str
    error: Exception


@dataclass(frozen=True, slots=True)
class HostLeft(RunEvent):
    """A host left the run, because the host was drained or lost.

    The unfinished tasks of a lost host run on other hosts, except tasks that must not run twice.

    Attributes:
        host: The name of the host.
        reason: Why the host left, in one line.
    """

    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class EventsMissed(RunEvent):
    """The reader of `Execution.events` was too slow, so some events were dropped. They would have come at this point.

    Attributes:
        count: How many events were dropped.
    """

    count: int


@dataclass(frozen=True, slots=True)
class HostQuarantined(RunEvent):
    """A host was lost again and again. The controller does not use it for a while.

    Attributes:
        host: The name of the host.
        pause_s: Seconds for which the controller does not use the host. Each further pause is twice as long, up to a
            limit.
        error: Why the host was lost the last time.
    """

    host: str
    pause_s: float
    error: Exception


@dataclass(frozen=True, slots=True)
class HostFull(RunEvent):
    """A host had no room for a result or an argument. Tasks of the same function prefer other hosts for a while.

    Attributes:
        host: The name of the host.
        id: The id of the function for whose result or argument there was no room.
        function: The name of the Python function. Several functions of the graph may have this name.
        need: How many bytes the host had no room for, or 0 if not known.
        pause_s: Seconds for which tasks of the function prefer other hosts.
    """

    host: str
    id: str
    function: str
    need: int
    pause_s: float


@dataclass(frozen=True, slots=True)
class RunEnded(RunEvent):
    """The run has ended. This is the last event of a run.

    Attributes:
        done: How many tasks are done or reused.
        failed: How many tasks failed.
        skipped: How many tasks were skipped, because a task that they depend on failed.
        cancelled: How many tasks were cancelled.
        reused: How many of the tasks in ``done`` did not run; see `TaskEnded`.
    """

    done: int
    failed: int
    skipped: int
    cancelled: int
    reused: int = 0
