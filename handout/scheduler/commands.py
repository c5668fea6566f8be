"""The commands that the core returns.

The core (`handout.scheduler.core`) makes all decisions and does no I/O. The shell is the part of the controller around
the core. It contains the driver (`handout.execution.shell.driver`), which performs each command and reports to the core
what happened.

``run`` is the number of a run, and ``host`` is the name of a host, or "" for the controller. Most commands have
columns: lists of the same length, with one entry for each task or object. Tasks and objects are numbers within their
run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from handout.allocators import ClusterView, Task
from handout.scheduler.task_states import Outcome

__all__ = [
    "AnnounceObjectsLost",
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
    """Hand tasks over to a host's agent. The agent starts a task once the host has its inputs and room for its cost."""

    host: str
    run: int
    tasks: list[int]
    attempts: list[int]
    #: For each task: False if the task has a claim, which means that the core has set aside what the task needs on the
    #: host. True if the task is handed ahead: it has no claim yet, and waits on the host until there is room for its
    #: cost.
    ahead: list[bool]
    #: For each task: the variant of its cost that the core has chosen, as a number. Variants are numbered from 0.
    variants: list[int]
    #: For each task: True if the host must store the result in any case. If False, the host need not store a small
    #: result, because the agent sends such a result to the controller with the report that the task has finished.
    keep: list[bool]

    def only(self, places: Sequence[int]) -> StartTasks:
        """Return the part of this command that is about the tasks at the positions ``places`` of the columns."""
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
    #: For each object: the name of the host to copy it from, "" for the controller.
    sources: list[str]


@dataclass(frozen=True, slots=True)
class FetchObjects:
    """Copy objects from hosts to the controller."""

    run: int
    objects: list[int]
    #: For each object: the name of the host to copy it from.
    sources: list[str]


@dataclass(frozen=True, slots=True)
class DropObjects:
    """Drop the replicas of objects on a host or in the controller, because these replicas are not needed."""

    host: str
    run: int
    objects: list[int]


@dataclass(frozen=True, slots=True)
class CancelTasks:
    """End attempts. For each of them, the agent then reports a failure, a recall or a result."""

    host: str
    run: int
    tasks: list[int]
    attempts: list[int]


@dataclass(frozen=True, slots=True)
class RecallTasks:
    """Recall attempts that have not started. Any of these attempts that has started by then goes on."""

    host: str
    run: int
    tasks: list[int]
    attempts: list[int]


@dataclass(frozen=True, slots=True)
class AskAllocator:
    """Call a custom allocator, and report its answer or its failure to the core with the same number ``request``."""

    run: int
    request: int
    frontier: Sequence[Task]
    view: ClusterView


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
    """A slow task gets a second attempt, and the first attempt goes on. A separate `StartTasks` hands the task over."""

    run: int
    task: int
    host: str
    attempt: int
    #: The host where the first attempt goes on.
    beside: str
    #: Seconds for which the first attempt has run.
    running_s: float
    #: A task with the same `Profile` as this one counts as slow once it has run for this many seconds.
    limit_s: float


@dataclass(frozen=True, slots=True)
class AnnounceTasksEnded:
    """Tasks have ended. The core announces the end of each task exactly once."""

    run: int
    tasks: list[int]
    outcomes: list[Outcome]
    #: For each task: the host of its last attempt, "" if there was no attempt.
    hosts: list[str]
    #: For each task: its failure if its outcome is FAILED, else None. The failure either came with `TaskFailed`, or is
    #: an error that the core has made.
    failures: list[object]
    #: For each task: the number of the other task because of which it was skipped or cancelled, -1 if there is none.
    causes: list[int]


@dataclass(frozen=True, slots=True)
class AnnounceRunEnded:
    """A run is over: all of its tasks have ended.

    Unless the run was aborted, the controller has all objects that the caller asked for and that could be made.
    """

    run: int
    outcome: Outcome
    #: The error of the run as a whole. For example, a task cannot be placed, the allocator failed, or a result was lost
    #: for good. None if there is no such error, even if tasks failed.
    error: Exception | None


@dataclass(frozen=True, slots=True)
class AnnounceObjectsLost:
    """Objects that a run keeps were lost after its end, and making them again failed."""

    run: int
    objects: list[int]
    #: The failure of the task that was to make them, as in `AnnounceTasksEnded`.
    failure: object


@dataclass(frozen=True, slots=True)
class ReleaseHost:
    """Let a drained host go. The host has nothing that a run needs, or the host is lost."""

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
    | AnnounceObjectsLost
    | ReleaseHost
    | RefuseDrain
)
