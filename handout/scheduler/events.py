"""What happened: the core's input. Past tense, frozen; frequent ones carry columns for a whole batch.

``host`` is a host's name, ``run`` a run's number, ``tasks`` and ``objects`` are numbers within that run.
Events about a task carry the attempt that they are about: what is stale is ignored and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from handout.resources import Offer
from handout.scheduler.spec import RunSpec

__all__ = [
    "AllocatorFailed",
    "AttemptsFound",
    "AttemptsUnknown",
    "CancelRequested",
    "CapabilitiesChanged",
    "CopyFailed",
    "Event",
    "FailureKind",
    "HostConnected",
    "HostDelayed",
    "HostDrained",
    "HostExpected",
    "HostLost",
    "HostRecovered",
    "HostSuspected",
    "ObjectsStored",
    "OutputsWanted",
    "PlacementsProposed",
    "ResultsCommitted",
    "RunClosed",
    "RunSubmitted",
    "SharedChanged",
    "TaskFailed",
    "TasksFinished",
    "TasksRecalled",
    "TasksStarted",
]

FailureKind = Literal[
    "raised", "unserializable", "too_large", "exited", "died", "timeout", "memory", "cancelled", "input", "disk", "host"
]


@dataclass(frozen=True, slots=True, eq=False)
class RunSubmitted:
    """A graph is to be run."""

    run: int
    spec: RunSpec


@dataclass(frozen=True, slots=True, eq=False)
class ResultsCommitted:
    """An earlier run of the same tasks saw these to their ends. Comes right after `RunSubmitted`."""

    run: int
    tasks: Sequence[int]
    #: Those of their objects that are left, one entry a replica, with their hosts (the controller is "").
    objects: Sequence[int]
    nbytes: Sequence[int]
    hosts: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class AttemptsFound:
    """A host has these attempts of an earlier run of the same tasks: they go on. Its `HostConnected` came before."""

    host: str
    run: int
    tasks: Sequence[int]
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True, eq=False)
class AttemptsUnknown:
    """An earlier run handed over these tasks, which must not run twice, and did not live to see how they ended."""

    run: int
    tasks: Sequence[int]
    #: Where they were, and in which attempt.
    hosts: Sequence[str]
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True)
class RunClosed:
    """The shell is done with a run: everything about it may be forgotten."""

    run: int


@dataclass(frozen=True, slots=True)
class HostExpected:
    """A host is being reached: tasks that only it could run may wait for it."""

    host: str
    price_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class HostDelayed:
    """A host that is expected is left alone for now: ``reason`` says why, and for how long."""

    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostConnected:
    """A host's agent is ready. A later ``epoch`` replaces an earlier one, whose work is lost."""

    host: str
    offer: Offer
    #: Version of the Python there; the first two numbers count.
    python: str
    rtt_s: float
    epoch: int = 0
    price_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class HostLost:
    """A host is gone, or (when it had only been expected) will not come."""

    host: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class HostSuspected:
    """Silent for a while: it gets no new work until it is heard again."""

    host: str


@dataclass(frozen=True, slots=True)
class HostRecovered:
    """Heard again."""

    host: str


@dataclass(frozen=True, slots=True)
class HostDrained:
    """The user wants it emptied: no new work, what runs may finish. Answered by `ReleaseHost` or `RefuseDrain`."""

    host: str


@dataclass(frozen=True, slots=True)
class CapabilitiesChanged:
    """A host offers something else now; nothing that runs is ended."""

    host: str
    offer: Offer


@dataclass(frozen=True, slots=True)
class SharedChanged:
    """What the inventory shares, by name, in parts."""

    amounts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TasksStarted:
    """These run now: they cannot be taken back any more."""

    host: str
    run: int
    tasks: Sequence[int]
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True)
class TasksFinished:
    """These returned a result."""

    host: str
    run: int
    tasks: Sequence[int]
    attempts: Sequence[int]
    durations_s: Sequence[float]
    #: By task: bytes of each of its objects, whole first, then its elements in number order; -1: not stored.
    sizes: Sequence[Sequence[int]]
    #: By task: whether the controller got the bytes along with the message.
    held: Sequence[bool]


@dataclass(frozen=True, slots=True)
class TasksRecalled:
    """Not started, given back by the agent."""

    host: str
    run: int
    tasks: Sequence[int]
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """An attempt failed."""

    host: str
    run: int
    task: int
    attempt: int
    kind: FailureKind
    #: Whether the task's policy allows another try (used for what its own code did).
    retryable: bool
    #: Whatever the shell wants back when the task ends.
    failure: object
    #: For `disk`: bytes that found no room, 0 where not known.
    need: int = 0
    #: Whether its code may have run; not so where it was an argument that found no room.
    called: bool = True


@dataclass(frozen=True, slots=True)
class ObjectsStored:
    """Copies arrived; ``host`` may be the controller."""

    host: str
    run: int
    objects: Sequence[int]
    nbytes: Sequence[int]


@dataclass(frozen=True, slots=True)
class CopyFailed:
    """A copy did not arrive. ``missing``: because the source does not have the object."""

    host: str
    run: int
    object: int
    source: str
    missing: bool = True


@dataclass(frozen=True, slots=True)
class PlacementsProposed:
    """A custom allocator answered. Keys are task numbers or the ids that the frontier showed."""

    run: int
    request: int
    placements: Mapping[int, str] | Mapping[str, str]
    ask_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class AllocatorFailed:
    """A custom allocator raised."""

    run: int
    request: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class OutputsWanted:
    """The caller asks for objects that were not among the outputs; what is gone already stays gone."""

    run: int
    objects: Sequence[int]


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The caller wants these tasks, and what depends on them, ended; None: the whole run."""

    run: int
    tasks: Sequence[int] | None = None


Event = (
    RunSubmitted
    | RunClosed
    | ResultsCommitted
    | AttemptsFound
    | AttemptsUnknown
    | HostExpected
    | HostDelayed
    | HostConnected
    | HostLost
    | HostSuspected
    | HostRecovered
    | HostDrained
    | CapabilitiesChanged
    | SharedChanged
    | TasksStarted
    | TasksFinished
    | TasksRecalled
    | TaskFailed
    | ObjectsStored
    | CopyFailed
    | PlacementsProposed
    | AllocatorFailed
    | OutputsWanted
    | CancelRequested
)
