"""What a run tells its watchers: events, in the order in which they happened.

Times are seconds since the run was started, on the controller's monotonic clock.
"""

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
    """Base of all events."""

    #: Seconds since the run was started.
    at_s: float


@dataclass(frozen=True, slots=True)
class TaskHandedOver(RunEvent):
    """A task was given to a host, which starts it as soon as its inputs and resources are there."""

    id: str
    host: str
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskStarted(RunEvent):
    """A task has been running for a moment; those that end within 50 ms are not announced."""

    id: str
    host: str
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskRetried(RunEvent):
    """An attempt failed and another one follows."""

    id: str
    host: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class TaskSpeculated(RunEvent):
    """A task that is far slower than its peers is attempted a second time, beside the first attempt."""

    id: str
    #: Where, and as which attempt.
    host: str
    attempt: int
    #: Where the first attempt goes on.
    beside: str
    #: For how long it has run, and from when on a task of its kind is slow.
    running_s: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class TaskEnded(RunEvent):
    """A task ended for good: ``done``, ``failed``, ``skipped`` or ``cancelled``."""

    id: str
    outcome: str
    host: str | None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class HostJoined(RunEvent):
    """A host is there, its agent said hello."""

    host: str


@dataclass(frozen=True, slots=True)
class HostUnavailable(RunEvent):
    """A host could not be used; the run goes on without it where the others cover the graph."""

    host: str
    error: Exception


@dataclass(frozen=True, slots=True)
class HostLeft(RunEvent):
    """A host that was there is lost, and what it ran runs elsewhere; or it was drained."""

    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class EventsMissed(RunEvent):
    """This reader was too slow: so many events that stood here were dropped."""

    count: int


@dataclass(frozen=True, slots=True)
class HostQuarantined(RunEvent):
    """A host was lost again and again: it is left alone for ``pause_s`` seconds, more each time."""

    host: str
    pause_s: float
    error: Exception


@dataclass(frozen=True, slots=True)
class HostFull(RunEvent):
    """A host had no room for what a task makes or takes: tasks of its function prefer other hosts for ``pause_s``."""

    host: str
    #: The task, and the name of its function.
    id: str
    function: str
    #: Bytes that found no room, 0 where not known.
    need: int
    pause_s: float


@dataclass(frozen=True, slots=True)
class RunEnded(RunEvent):
    """The last event of a run."""

    done: int
    failed: int
    skipped: int
    cancelled: int
