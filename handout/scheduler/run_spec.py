"""The description of a run for the core: columns of its tasks and objects, and the profiles that tasks share.

A column is a sequence that has one entry for each task ("by task") or for each object ("by object") of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from handout.resources.requirement import Requirement

__all__ = ["CONTROLLER", "OnFailure", "Profile", "RunSpec", "Speculation"]

#: The name of the controller in places where the name of a host is expected.
CONTROLLER = ""

OnFailure = Literal["fail_fast", "continue"]


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """The properties of tasks that matter for placement and retries. Many tasks may share one profile."""

    #: The variants of the cost, in order of preference.
    requirements: tuple[Requirement, ...]
    retries: int = 0
    #: Seconds before the first retry. The pause doubles for each further retry, up to 60 s.
    backoff_s: float = 0.0
    #: The only host that may run the tasks, or None.
    host: str | None = None
    #: If False, a task that may have run is not run again. The only exception is a retry after its function has raised.
    idempotent: bool = True
    #: The version of Python that the host must have, such as "3.11", or None.
    python: str | None = None
    #: The name of the function. The core remembers durations from run to run under this name.
    fn_name: str = ""


@dataclass(frozen=True, slots=True)
class Speculation:
    """The limits above which a task counts as slow, compared with other tasks of its profile."""

    #: No task is slow before this many tasks of the profile have finished.
    peers: int = 10
    #: A task is slow only if it has run for this many times the 95th percentile of the profile's durations.
    factor: float = 3.0
    #: A task is slow only if it has run for this many seconds. For shorter tasks, a second attempt saves no time.
    least_s: float = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class RunSpec:
    """The description of one run.

    A column by task has ``count`` entries, and a column by object has at least as many. Object ``t`` is the whole
    result of task ``t``. The objects from number ``count`` on are elements of results, and values that the controller
    has from the beginning. The producer of an element is the task that makes the whole result.

    An open run gets its tasks while it goes on; see `handout.scheduler.events.TasksAdded`. Its columns by task are
    empty lists at first, and its columns by object have ``count`` entries. The core appends to these lists.
    """

    #: The number of tasks. For an open run: the number of tasks that it can get.
    count: int
    profiles: Sequence[Profile]
    #: By task: the index of its profile in ``profiles``.
    profile: Sequence[int]
    #: By task: the number of its function. Expected durations are kept for each function.
    fn: Sequence[int]
    #: By task: the numbers of the objects that it takes, each number once.
    inputs: Sequence[tuple[int, ...]]
    #: By object: the task that makes it, or -1 for a value that the controller has from the beginning.
    producer: Sequence[int]
    #: By object: its size in bytes, or -1 if not known.
    nbytes: Sequence[int]
    #: Objects that the caller wants. They are copied to the controller.
    outputs: Sequence[int] = ()
    #: Objects that stay on their hosts after the run, until the shell releases them or closes the run. If such an
    #: object is lost, it is made again, also after the run's end.
    keep: Sequence[int] = ()
    #: Objects that another run keeps: the number of that run, and the number of the object there. No task of this run
    #: makes them, so their producer is -1.
    borrowed: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    #: Objects by which hosts make warm values: the identity of the value. A host that has made a value keeps it.
    warm: Mapping[int, str] = field(default_factory=dict)
    #: By task: its priority. Tasks of a higher priority go first. None: all priorities are 0.
    priority: Sequence[float] | None = None
    #: By task: the number of the group to which it belongs, or -1. All tasks of a group must run on one host. None:
    #: there are no groups.
    group: Sequence[int] | None = None
    on_failure: OnFailure = "fail_fast"
    #: The largest number of tasks of the run that may be handed over at a time. None: no limit.
    max_concurrency: int | None = None
    #: The name of a built-in allocator. None: there is a custom allocator, which the core asks with `AskAllocator`.
    allocator: str | None = "locality"
    allocator_timeout_s: float = 30.0
    #: By task: the labels that the author of the graph gave to it. None: there are no labels.
    labels: Sequence[Mapping[str, Any]] | None = None
    #: By task: its id, for errors, explanations and allocators. None: the task numbers are used instead.
    ids: Sequence[str] | None = None
    #: When a task gets a second attempt beside the first. None: no task gets one.
    speculation: Speculation | None = None
    #: The core adds this number to the priority of each task of the run. So the number orders the runs of a cluster.
    run_priority: float = 0.0
    #: True for an open run. The caller wants the result of each of its tasks, no task takes the result of another one,
    #: and a task has ended once the controller has its result. The run goes on until the shell closes it.
    is_open: bool = False

    @classmethod
    def open(cls, count: int, **fields: Any) -> RunSpec:
        """Return the description of an open run that has no task yet.

        Args:
            count: The number of tasks that the run can get.
            **fields: The fields that concern the run as a whole.
        """
        producer, nbytes = list(range(count)), [-1] * count
        return cls(count, [], [], [], [], producer, nbytes, labels=[], ids=[], is_open=True, **fields)
