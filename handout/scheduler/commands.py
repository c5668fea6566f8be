"""What is to be done: the core's output. Imperative, frozen, in columns.

The shell performs each and feeds back what happened; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from handout.allocators import ClusterView, Task
from handout.scheduler.states import Outcome

__all__ = [
    "AnnouncePause",
    "AnnounceRunEnded",
    "AnnounceSecond",
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
    """Hand tasks to a host's agent, which starts each as soon as inputs and resources are there."""

    host: str
    run: int
    tasks: list[int]
    attempts: list[int]
    #: By task: handed over beyond what is free there now.
    ahead: list[bool]
    #: By task: which variant of its cost was granted.
    variants: list[int]
    #: By task: whether the host must store its result even when the controller gets a small one inline.
    keep: list[bool]

    def only(self, places: Sequence[int]) -> StartTasks:
        """The same for the tasks at these places of its columns."""
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
    """Bring objects to a host; a source is the controller or a host (the controller relays)."""

    host: str
    run: int
    objects: list[int]
    sources: list[str]


@dataclass(frozen=True, slots=True)
class FetchObjects:
    """Bring objects to the controller."""

    run: int
    objects: list[int]
    sources: list[str]


@dataclass(frozen=True, slots=True)
class DropObjects:
    """Nothing needs these there any more; ``host`` may be the controller."""

    host: str
    run: int
    objects: list[int]


@dataclass(frozen=True, slots=True)
class CancelTasks:
    """End these attempts; each is answered by a failure, a return or a result."""

    host: str
    run: int
    tasks: list[int]
    attempts: list[int]


@dataclass(frozen=True, slots=True)
class RecallTasks:
    """Return those of these that have not started; the others run on."""

    host: str
    run: int
    tasks: list[int]
    attempts: list[int]


@dataclass(frozen=True, slots=True)
class AskAllocator:
    """Await a custom allocator and feed back its answer, or its failure, under the same request number."""

    run: int
    request: int
    frontier: Sequence[Task]
    view: ClusterView
    #: The frontier's task numbers, by id.
    numbers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AnnouncePause:
    """A host had no room for what a task makes or takes: tasks of its function prefer other hosts for a while."""

    run: int
    task: int
    host: str
    pause_s: float
    #: Bytes that found no room, 0 where not known.
    need: int


@dataclass(frozen=True, slots=True)
class AnnounceSecond:
    """A task that is slow is attempted a second time, beside the first; its `StartTasks` goes out, too."""

    run: int
    task: int
    host: str
    attempt: int
    #: Where the first attempt goes on.
    beside: str
    #: For how long it has run, and what its peers would have needed at most.
    running_s: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class AnnounceTasksEnded:
    """Each task of a run is in exactly one of these, once."""

    run: int
    tasks: list[int]
    outcomes: list[Outcome]
    #: Where the last attempt was, "" where there was none.
    hosts: list[str]
    #: For FAILED what the failing event carried, or the core's own error; else None.
    failures: list[object]
    #: For SKIPPED the task at the root; else -1.
    causes: list[int]


@dataclass(frozen=True, slots=True)
class AnnounceRunEnded:
    """All tasks have ended and the outputs that exist are with the controller."""

    run: int
    outcome: Outcome
    #: What ended the run as a whole (placement, allocator, a lost result); None where only tasks failed.
    error: Exception | None


@dataclass(frozen=True, slots=True)
class ReleaseHost:
    """A host that was to be drained has nothing left that a run needs, or is gone: it can be let go."""

    host: str


@dataclass(frozen=True, slots=True)
class RefuseDrain:
    """A host cannot be drained, because some task could run nowhere then; it stays as it was."""

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
    | AnnounceSecond
    | AnnounceTasksEnded
    | AnnounceRunEnded
    | ReleaseHost
    | RefuseDrain
)
