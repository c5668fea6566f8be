"""The commands that the core returns. Most have columns, with one entry for each task or object.

The shell (`handout.execution.shell`) performs each command and reports to the core what happened. The shell makes no
decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from handout.allocators import ClusterView, Task
from handout.scheduler.task_states import Outcome

__all__ = [
    "AnnouncePause",
    "AnnounceRunEnded",
    "AnnounceSecondAttempt",
    "AnnounceTasksEnded",
    "AskAllocator",
    "CancelTasks",
    "Command",
    "CopyObjects",
    "DropObjects",
    "FetchObjects",
    "RecallTasks",
    "RefuseDrain",
    "ReleaseHost",
    "StartTasks",
]


@dataclass(frozen=True, slots=True)
class StartTasks:
    """Hand tasks over to a host's agent. The agent starts each task when its inputs exist there and its cost fits."""

    host: str
    run: int
    tasks: list[int]
    attempts: list[int]
    #: By task: True if the task is handed ahead: it has no claim yet, and waits on the host until its cost fits.
    ahead: list[bool]
    #: By task: the number of the variant of its cost that the core has chosen.
    variants: list[int]
    #: By task: True if the host must store the result in any case. If False, the host does not store a small result,
    #: because the controller gets it with the report.
    keep: list[bool]

    def only(self, places: Sequence[int]) -> StartTasks:
        """Return the part of this command that is about the tasks at these positions in the columns."""
        if len(places) == len(self.tasks):
            return self
        return StartTasks(
            self.host,
            self.run,
            [self.tasks[i] for i in places],
            [self.attempts[i] for i in places],
            [self.ahead[i] for i in places],
            [self.variants[i] for i in places],
            [self.keep[i] for i in places],
        )


@dataclass(frozen=True, slots=True)
class CopyObjects:
    """Copy objects to a host, from the controller or from other hosts. The controller relays bytes between hosts."""

    host: str
    run: int
    objects: list[int]
    sources: list[str]


@dataclass(frozen=True, slots=True)
class FetchObjects:
    """Copy objects from hosts to the controller."""

    run: int
    objects: list[int]
    sources: list[str]


@dataclass(frozen=True, slots=True)
class DropObjects:
    """Drop the replicas of objects on a host, because they are not needed there. ``host`` may be the controller."""

    host: str
    run: int
    objects: list[int]


@dataclass(frozen=True, slots=True)
class CancelTasks:
    """End attempts. For each attempt, the agent reports a failure, a recall or a result."""

    host: str
    run: int
    tasks: list[int]
    attempts: list[int]


@dataclass(frozen=True, slots=True)
class RecallTasks:
    """Recall those of the attempts that have not started. The attempts that have started go on."""

    host: str
    run: int
    tasks: list[int]
    attempts: list[int]


@dataclass(frozen=True, slots=True)
class AskAllocator:
    """Call a custom allocator, and report its answer or its failure to the core with the same request number."""

    run: int
    request: int
    frontier: Sequence[Task]
    view: ClusterView
    #: The number of each task of the frontier, by the task's id.
    numbers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AnnouncePause:
    """A host had no room for a result or an argument. Tasks of the same function avoid the host for a while."""

    run: int
    task: int
    host: str
    pause_s: float
    #: How many bytes the host had no room for, 0 if not known.
    need: int


@dataclass(frozen=True, slots=True)
class AnnounceSecondAttempt:
    """A slow task gets a second attempt, and the first attempt goes on. `StartTasks` starts the second attempt."""

    run: int
    task: int
    host: str
    attempt: int
    #: The host where the first attempt goes on.
    beside: str
    #: Seconds for which the first attempt has run.
    running_s: float
    #: Seconds after which a running task of the same profile counts as slow.
    limit_s: float


@dataclass(frozen=True, slots=True)
class AnnounceTasksEnded:
    """Tasks have ended. The core announces each task of a run exactly once."""

    run: int
    tasks: list[int]
    outcomes: list[Outcome]
    #: By task: the host of its last attempt, "" if there was no attempt.
    hosts: list[str]
    #: By task: the failure, if the outcome is FAILED, else None. It comes from `TaskFailed`, or the core has made it.
    failures: list[object]
    #: By task: the other task because of which it was skipped or cancelled, else -1.
    causes: list[int]


@dataclass(frozen=True, slots=True)
class AnnounceRunEnded:
    """A run is over. All of its tasks have ended. Unless it was aborted, the controller has all outputs that exist."""

    run: int
    outcome: Outcome
    #: The error that ended the run as a whole, such as a `PlacementError`. None if there is none.
    error: Exception | None


@dataclass(frozen=True, slots=True)
class ReleaseHost:
    """Let a drained host go. The host has nothing that a run needs, or it is lost."""

    host: str


@dataclass(frozen=True, slots=True)
class RefuseDrain:
    """Report that a host is not drained, because some task could not run anywhere without the host."""

    host: str
    error: Exception


Command = (
    StartTasks
    | CopyObjects
    | FetchObjects
    | DropObjects
    | CancelTasks
    | RecallTasks
    | AskAllocator
    | AnnouncePause
    | AnnounceSecondAttempt
    | AnnounceTasksEnded
    | AnnounceRunEnded
    | ReleaseHost
    | RefuseDrain
)
