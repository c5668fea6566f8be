"""What happened: the core's input. Frequent events carry columns for a whole batch.

``host`` is a host's name, ``run`` a run's number, ``tasks`` and ``objects`` are numbers within that run.
Events about a task carry the attempt that they are about. The core ignores an event that comes too late to matter, and
keeps a count of those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from handout.resources import Offer
from handout.scheduler.run_spec import RunSpec

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
    """The caller has submitted a graph to run."""

    run: int
    spec: RunSpec


@dataclass(frozen=True, slots=True, eq=False)
class ResultsCommitted:
    """Some tasks have results that an earlier run of the same tasks committed. Comes right after `RunSubmitted`."""

    run: int
    tasks: Sequence[int]
    #: The objects of these tasks that still exist. This column and the next two have one entry for each replica.
    objects: Sequence[int]
    nbytes: Sequence[int]
    #: By replica: the host that has it, "" for the controller.
    hosts: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class AttemptsFound:
    """A host goes on with attempts of an earlier run of the same tasks. The host's `HostConnected` came before."""

    host: str
    run: int
    tasks: Sequence[int]
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True, eq=False)
class AttemptsUnknown:
    """An earlier run handed over tasks that must not run twice, and ended before it saw how they ended."""

    run: int
    tasks: Sequence[int]
    #: By task: the host that the task was handed to, and the attempt.
    hosts: Sequence[str]
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True)
class RunClosed:
    """The shell is done with a run, so the core may forget all that concerns it."""

    run: int


@dataclass(frozen=True, slots=True)
class HostExpected:
    """The shell is connecting to a host. Tasks that only this host could run wait for it."""

    host: str


@dataclass(frozen=True, slots=True)
class HostDelayed:
    """The shell does not connect to an expected host for now; ``reason`` says why, and for how long."""

    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostConnected:
    """A host's agent is ready. If the host was there with a lower ``epoch``, the work of that epoch is lost."""

    host: str
    offer: Offer
    #: Version of the host's Python; the core reads the first two numbers.
    python: str
    rtt_s: float
    epoch: int = 0
    price_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class HostLost:
    """A connected host is lost, or an expected host will not come."""

    host: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class HostSuspected:
    """A host has been silent for a while. It gets no new work until it is heard again."""

    host: str


@dataclass(frozen=True, slots=True)
class HostRecovered:
    """A suspected host is heard again."""

    host: str


@dataclass(frozen=True, slots=True)
class HostDrained:
    """The caller wants a host to get no new work and to finish what runs.

    The core answers with `ReleaseHost` or `RefuseDrain`.
    """

    host: str


@dataclass(frozen=True, slots=True)
class CapabilitiesChanged:
    """A host's offer has changed. Running tasks go on."""

    host: str
    offer: Offer


@dataclass(frozen=True, slots=True)
class SharedChanged:
    """The inventory's shared amounts have changed. ``amounts`` has the new ones by name, in parts."""

    amounts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TasksStarted:
    """Tasks run now, so they cannot be recalled any more."""

    host: str
    run: int
    tasks: Sequence[int]
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True)
class TasksFinished:
    """Tasks returned results."""

    host: str
    run: int
    tasks: Sequence[int]
    attempts: Sequence[int]
    durations_s: Sequence[float]
    #: By task: bytes of each of its objects, the whole result first, then its elements by number; -1: not stored.
    sizes: Sequence[Sequence[int]]
    #: By task: True if the controller got the bytes with the report.
    held: Sequence[bool]


@dataclass(frozen=True, slots=True)
class TasksRecalled:
    """The agent returned tasks that had not started."""

    host: str
    run: int
    tasks: Sequence[int]
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """An attempt of a task failed."""

    host: str
    run: int
    task: int
    attempt: int
    kind: FailureKind
    #: True if the task's options allow another attempt after a failure of its own code.
    retryable: bool
    #: What the shell wants back with `AnnounceTasksEnded`.
    failure: object
    #: For ``disk``: bytes that found no room, 0 if not known.
    need: int = 0
    #: True if the task's code may have run. False if an argument found no room, so that the code was not called.
    called: bool = True


@dataclass(frozen=True, slots=True)
class ObjectsStored:
    """Copies of objects arrived. ``host`` may be the controller."""

    host: str
    run: int
    objects: Sequence[int]
    nbytes: Sequence[int]


@dataclass(frozen=True, slots=True)
class CopyFailed:
    """A copy of an object did not arrive. ``missing`` is True if the source does not have the object."""

    host: str
    run: int
    object: int
    source: str
    missing: bool = True


@dataclass(frozen=True, slots=True)
class PlacementsProposed:
    """A custom allocator answered. Keys are task numbers, or the ids that the frontier showed."""

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
    """The caller wants objects that were not among the outputs. Objects that no longer exist are not made again."""

    run: int
    objects: Sequence[int]


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The caller wants tasks and what depends on them cancelled; ``tasks`` None: the whole run."""

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
