"""The events that the shell reports to the core.

The core (`handout.scheduler.core`) makes all decisions and does no I/O. The shell is the part of the controller around
the core. It does the I/O, and contains the driver (`handout.execution.shell.driver`), which passes the events to the
core. The core ignores events that come too late to matter, and counts them in `Core.stale`.

``run`` is the number of a run, and ``host`` is the name of a host, or "" for the controller. ``tasks`` and ``objects``
are numbers within the run. ``attempts`` are the numbers of the attempts that the event is about. Frequent events have
columns: sequences of the same length, with one entry for each task or object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from handout.errors import AllocatorError
from handout.resources import Offer
from handout.scheduler.run_spec import Profile, RunSpec
from handout.scheduler.state.runs import Run

__all__ = [
    "AllocatorFailed",
    "AttemptsFound",
    "AttemptsUnknown",
    "CancelRequested",
    "CapabilitiesChanged",
    "CopyFailed",
    "Event",
    "FailureKind",
    "HostAbandoned",
    "HostConnected",
    "HostDelayed",
    "HostDrained",
    "HostExpected",
    "HostLost",
    "HostRecovered",
    "HostRemoved",
    "HostSuspected",
    "ObjectsReleased",
    "ObjectsStored",
    "ObjectsVanished",
    "OutputsWanted",
    "PlacementsProposed",
    "ResultsCommitted",
    "RunClosed",
    "RunSubmitted",
    "SharedChanged",
    "TaskFailed",
    "TasksAdded",
    "TasksFinished",
    "TasksRecalled",
    "TasksStarted",
    "ValueCooled",
    "ValueWarmed",
]

FailureKind = Literal[
    "raised", "unserializable", "too_large", "exited", "died", "timeout", "memory", "cancelled", "input", "disk", "host"
]

#: The capabilities of a host of which nothing is declared and nothing is known.
NOTHING = Offer({})


@dataclass(frozen=True, slots=True, eq=False)
class RunSubmitted:
    """The caller has submitted a graph to run."""

    run: int
    spec: RunSpec
    #: The state of the run. `prepare_run` has made it in slices, before the run was submitted.
    #: The state now belongs to the core. None: the core makes the state.
    state: Run | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TasksAdded:
    """The caller has added tasks to an open run. The columns have one entry for each new task, unless noted otherwise.

    The new tasks get the numbers that follow those of the run's tasks, and the new values get the numbers that follow
    those of the run's objects.
    """

    run: int
    #: The profiles of the new tasks that no earlier task of the run has. They follow the profiles that the run has.
    new_profiles: Sequence[Profile]
    #: For each task: the index of its profile.
    profiles: Sequence[int]
    #: For each task: the number of its function, as in `RunSpec.fn`. Numbers that are new follow the largest known one.
    fns: Sequence[int]
    #: For each task: the numbers of the values that it takes, each number once.
    inputs: Sequence[tuple[int, ...]]
    #: For each new value: its size in bytes. The controller has the value, unless it is in ``borrowed``.
    nbytes: Sequence[int]
    #: For each task: the id, and the labels.
    ids: Sequence[str]
    labels: Sequence[Mapping[str, Any]]
    #: New values that another run keeps, as in `RunSpec.borrowed`.
    borrowed: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    #: New values by which hosts make warm values, as in `RunSpec.warm`.
    warm: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ObjectsReleased:
    """The caller does not need objects any more that a run has kept."""

    run: int
    objects: Sequence[int]


@dataclass(frozen=True, slots=True, eq=False)
class ResultsCommitted:
    """An earlier run finished these tasks: it committed their results, or hosts still have all objects of the tasks.

    This event follows directly after `RunSubmitted`.
    """

    run: int
    tasks: Sequence[int]
    #: This column and the next two have one entry for each replica of the tasks' objects that still exists. Here, the
    #: entry is the number of the object.
    objects: Sequence[int]
    #: For each replica: its size in bytes.
    nbytes: Sequence[int]
    #: For each replica: the name of the host that has it, "" for the controller.
    hosts: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class AttemptsFound:
    """A host still has attempts that an earlier run handed over. The host's `HostConnected` comes before this event."""

    host: str
    run: int
    tasks: Sequence[int]
    attempts: Sequence[int]
    #: For each attempt: the number that the task was told; 0 if it is not known. Empty: none of them is known.
    shown: Sequence[int] = ()


@dataclass(frozen=True, slots=True, eq=False)
class AttemptsUnknown:
    """An earlier run handed over tasks that must not run twice, and ended before it learned how these tasks ended."""

    run: int
    tasks: Sequence[int]
    #: For each task: the host that the task was handed to.
    hosts: Sequence[str]
    #: For each task: the number of the attempt.
    attempts: Sequence[int]
    #: For each task: the number of the attempt that users know. Empty: none of them is known.
    shown: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class RunClosed:
    """The shell does not need a run any more. The core forgets the run."""

    run: int


@dataclass(frozen=True, slots=True)
class HostExpected:
    """The shell is connecting to a host of the inventory. Tasks that only this host can run wait for it."""

    host: str
    #: The capabilities that the inventory declares. What the agent probes is unknown.
    declared: Offer = NOTHING
    price_per_hour: float = 0.0
    #: For this many seconds after the host is lost, or after its first start has failed, tasks that a custom allocator
    #: has placed there wait for it.
    patience_s: float = 0.0


@dataclass(frozen=True, slots=True)
class HostDelayed:
    """The shell pauses before its next try to connect to an expected host, or such a pause is over.

    ``reason`` says why the shell pauses, and for how long. An empty ``reason`` means that the pause is over.
    """

    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostConnected:
    """A host's agent is ready."""

    host: str
    offer: Offer
    #: The version of the host's Python. The core reads only the first two numbers of the version.
    python: str
    rtt_s: float
    #: The number of the agent. Each new agent on a host gets a higher number. If the core still has the host with an
    #: agent of a lower number, this earlier agent and all of its work are lost.
    epoch: int = 0
    price_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class HostLost:
    """A connected host is lost, or tasks must not wait any longer for an expected host, which may still join later."""

    host: str
    reason: str = ""
    #: True if the shell does not try to connect to the host again.
    final: bool = False


@dataclass(frozen=True, slots=True)
class HostAbandoned:
    """The shell has given up a host's agent. Until `HostLost`, tasks may still run there. The host gets no new work."""

    host: str


@dataclass(frozen=True, slots=True)
class HostRemoved:
    """A host is not in the inventory any more. If the core had it, `HostLost` comes before this event."""

    host: str


@dataclass(frozen=True, slots=True)
class HostSuspected:
    """The controller has not heard from a host for a while. The host gets no new work until `HostRecovered`."""

    host: str


@dataclass(frozen=True, slots=True)
class HostRecovered:
    """The controller has heard from a suspected host again."""

    host: str


@dataclass(frozen=True, slots=True)
class HostDrained:
    """The caller drains a host: the host gets no new work, and its running tasks go on.

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
    """The inventory's shared amounts have changed.

    ``amounts`` has the new amounts by name, each counted in parts (see `handout.resources.units.PARTS`).
    """

    amounts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TasksStarted:
    """Tasks have started, so they cannot be recalled any more."""

    host: str
    run: int
    tasks: Sequence[int]
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True)
class TasksFinished:
    """Tasks have finished with results."""

    host: str
    run: int
    tasks: Sequence[int]
    attempts: Sequence[int]
    durations_s: Sequence[float]
    #: For each task: the sizes in bytes of the objects that the task makes. The whole result comes first, then the
    #: elements of the result that are objects of their own, in the order of their numbers. A size is -1 if the object
    #: was not stored.
    sizes: Sequence[Sequence[int]]
    #: For each task: True if the controller got the bytes of the objects with the report.
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
    #: True if another attempt may help, according to the function's ``retry_on``. The core counts the retries.
    retryable: bool
    #: The shell's record of the failure. The core does not read it, and returns it in `AnnounceTasksEnded`.
    failure: object
    #: For the kind ``disk``: how many bytes the host had no room for, 0 if not known.
    need: int = 0
    #: True if the worker may have called the function. False, for example, if the host had no room for an argument.
    called: bool = True
    #: True if each further attempt on this host would fail in the same way, for example because a package is missing.
    recurs: bool = False
    #: If the host could not make a warm value for the task: the object by which it was to make it. Otherwise -1.
    recipe: int = -1


@dataclass(frozen=True, slots=True)
class ValueWarmed:
    """A host has made a warm value. ``seconds`` says how long it took."""

    host: str
    value: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ValueCooled:
    """A host does not have a warm value any more."""

    host: str
    value: str


@dataclass(frozen=True, slots=True)
class ObjectsStored:
    """Copies of objects have arrived on a host or in the controller."""

    host: str
    run: int
    objects: Sequence[int]
    nbytes: Sequence[int]


@dataclass(frozen=True, slots=True)
class ObjectsVanished:
    """A host does not have these objects any more, because another program has removed or damaged their files."""

    host: str
    run: int
    objects: Sequence[int]


@dataclass(frozen=True, slots=True)
class CopyFailed:
    """Copying an object from ``source`` to ``host`` failed. ``missing`` is True if ``source`` has no replica of it."""

    host: str
    run: int
    object: int
    source: str
    missing: bool = True


@dataclass(frozen=True, slots=True)
class PlacementsProposed:
    """A custom allocator has answered. ``placements`` maps each task's number, or its id, to the name of a host."""

    run: int
    request: int
    placements: Mapping[str, str]
    ask_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class AllocatorFailed:
    """A custom allocator has raised an exception, or its answer cannot be read. ``error`` says which."""

    run: int
    request: int
    error: AllocatorError


@dataclass(frozen=True, slots=True)
class OutputsWanted:
    """The caller wants objects that were not among the run's outputs.

    If no host has such an object and no unfinished task will make it, the core runs no finished task again to make it.
    """

    run: int
    objects: Sequence[int]


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The caller cancels tasks and all tasks that depend on them. If ``tasks`` is None, the whole run is cancelled."""

    run: int
    tasks: Sequence[int] | None = None


Event = (
    RunSubmitted
    | RunClosed
    | TasksAdded
    | ObjectsReleased
    | ResultsCommitted
    | AttemptsFound
    | AttemptsUnknown
    | HostExpected
    | HostDelayed
    | HostConnected
    | HostLost
    | HostAbandoned
    | HostRemoved
    | HostSuspected
    | HostRecovered
    | HostDrained
    | CapabilitiesChanged
    | SharedChanged
    | TasksStarted
    | TasksFinished
    | TasksRecalled
    | TaskFailed
    | ValueWarmed
    | ValueCooled
    | ObjectsStored
    | ObjectsVanished
    | CopyFailed
    | PlacementsProposed
    | AllocatorFailed
    | OutputsWanted
    | CancelRequested
)
