"""The events of a run, as `Execution.events` yields them, in the order in which they happened."""

from __future__ import annotations

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
    "TaskRetried",
    "TaskSpeculated",
    "TaskStarted",
]


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Base of all events of a run. Times are on the controller's monotonic clock.

    Attributes:
        at_s: Seconds from the start of the run.

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
        attempt: The number of the attempt, from 1.
    """

    id: str
    host: str
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskStarted(RunEvent):
    """A task runs. A task that ends within 50 ms has no such event.

    Attributes:
        id: The id of the function.
        host: The name of the host.
        attempt: The number of the attempt, from 1.
    """

    id: str
    host: str
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskRetried(RunEvent):
    """An attempt failed, and another one follows.

    Attributes:
        id: The id of the function.
        host: The name of the host of the failed attempt.
        attempt: The number of the failed attempt, from 1.
        reason: Why it failed, in one line.
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
        outcome: ``done``, ``failed``, ``skipped`` or ``cancelled``.
        host: The name of the host of the last attempt, or None if no host had the task.
        failure: Why the task has no result, or None if it is done.
    """

    id: str
    outcome: str
    host: str | None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class HostJoined(RunEvent):
    """A host is usable: its agent has said hello.

    Attributes:
        host: The name of the host.
    """

    host: str


@dataclass(frozen=True, slots=True)
class HostUnavailable(RunEvent):
    """A host cannot be used. The run goes on without it if other hosts can run all functions of the graph.

    Attributes:
        host: The name of the host.
        error: Why it cannot be used.
    """

    host: str
    error: Exception


@dataclass(frozen=True, slots=True)
class HostLeft(RunEvent):
    """A host left the run, because it was drained or lost. The tasks of a lost host run on other hosts.

    Attributes:
        host: The name of the host.
        reason: Why it left, in one line.
    """

    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class EventsMissed(RunEvent):
    """The reader of `Execution.events` was too slow, and events were dropped in this place.

    Attributes:
        count: How many events were dropped.
    """

    count: int


@dataclass(frozen=True, slots=True)
class HostQuarantined(RunEvent):
    """A host was lost again and again. The controller leaves it alone for a while.

    Attributes:
        host: The name of the host.
        pause_s: Seconds for which the controller leaves it alone. Each further pause is twice as long.
        error: Why it was lost.
    """

    host: str
    pause_s: float
    error: Exception


@dataclass(frozen=True, slots=True)
class HostFull(RunEvent):
    """A host had no room for a result or an argument of a task. Tasks of its function prefer other hosts for a while.

    Attributes:
        host: The name of the host.
        id: The id of the function whose task found no room.
        function: The name of the function.
        need: Bytes that found no room, or 0 if not known.
        pause_s: Seconds for which tasks of the function prefer other hosts.
    """

    host: str
    id: str
    function: str
    need: int
    pause_s: float


@dataclass(frozen=True, slots=True)
class RunEnded(RunEvent):
    """The run has ended. This is its last event.

    Attributes:
        done: How many tasks are done.
        failed: How many tasks failed.
        skipped: How many tasks were skipped because another one failed.
        cancelled: How many tasks were cancelled.
    """

    done: int
    failed: int
    skipped: int
    cancelled: int
