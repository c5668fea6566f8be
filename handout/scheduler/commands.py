"""What the shell is to do: the core's output, in columns.

The shell performs each command and feeds back what happened. It decides nothing.
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
    """Hand tasks to a host's agent, which starts each as soon as its inputs and resources are there."""

    host: str
    run: int
    tasks: list[int]
    attempts: list[int]
    #: By task: True if it is handed ahead, beyond what is free on the host now.
    ahead: list[bool]
    #: By task: the variant of its cost that it is granted.
    variants: list[int]
    #: By task: True if the host must store its result even if the controller gets a small one with the report.
    keep: list[bool]

    def only(self, places: Sequence[int]) -> StartTasks:
        """Return the same command for the tasks at these places of its columns."""
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
    """Copy objects to a host. Each source is the controller, or a host whose bytes the controller relays."""

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
    """Drop a host's replicas that are not needed any more. ``host`` may be the controller."""

    host: str
    run: int
    objects: list[int]


@dataclass(frozen=True, slots=True)
class CancelTasks:
    """End attempts. The agent answers each with a failure, a recall or a result."""

    host: str
    run: int
    tasks: list[int]
    attempts: list[int]


@dataclass(frozen=True, slots=True)
class RecallTasks:
    """Recall the attempts that have not started. The others run on."""

    host: str
    run: int
    tasks: list[int]
    attempts: list[int]


@dataclass(frozen=True, slots=True)
class AskAllocator:
    """Call a custom allocator and feed back its answer, or its failure, under the same request number."""

    run: int
    request: int
    frontier: Sequence[Task]
    view: ClusterView
    #: The frontier's task numbers, by id.
    numbers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AnnouncePause:
    """A host had no room for what a task makes or takes, so tasks of its function avoid the host for a while."""

    run: int
    task: int
    host: str
    pause_s: float
    #: Bytes that found no room, 0 if not known.
    need: int


@dataclass(frozen=True, slots=True)
class AnnounceSecondAttempt:
    """A slow task is attempted a second time, beside the first attempt. Its `StartTasks` is among the commands, too."""

    run: int
    task: int
    host: str
    attempt: int
    #: The host where the first attempt goes on.
    beside: str
    #: Seconds that the first attempt has run, and seconds after which tasks of its profile are slow.
    running_s: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class AnnounceTasksEnded:
    """Tasks have ended. Each task of a run is announced exactly once."""

    run: int
    tasks: list[int]
    outcomes: list[Outcome]
    #: The host of the last attempt, "" if there was none.
    hosts: list[str]
    #: For FAILED the failure that the event carried, or the core's own error; else None.
    failures: list[object]
    #: For SKIPPED and CANCELLED dependents the task whose end is the cause; else -1.
    causes: list[int]


@dataclass(frozen=True, slots=True)
class AnnounceRunEnded:
    """All tasks of a run have ended, and the outputs that exist are with the controller."""

    run: int
    outcome: Outcome
    #: The error that ended the run as a whole (placement, allocator, a lost result); None if only tasks failed.
    error: Exception | None


@dataclass(frozen=True, slots=True)
class ReleaseHost:
    """Let a drained host go: it has nothing left that a run needs, or is lost."""

    host: str


@dataclass(frozen=True, slots=True)
class RefuseDrain:
    """Report that a host is not drained, because without it some task could not run anywhere."""

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
