"""What a run is made of, as columns: tasks, objects, and the profiles that tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from handout.resources.requirement import Requirement

__all__ = ["CONTROLLER", "OnFailure", "Profile", "RunSpec", "Speculation"]

#: Stands for the controller wherever a host's name is expected.
CONTROLLER = ""

OnFailure = Literal["fail_fast", "continue"]


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """What many tasks have in common that matters to placement and retries."""

    #: Alternatives in order of preference.
    requirements: tuple[Requirement, ...]
    retries: int = 0
    #: Seconds before the first retry; doubled each time, at most 60 s.
    backoff_s: float = 0.0
    #: The only host that may run its tasks, or None.
    host: str | None = None
    #: False: a task of the profile is never run again once it may have run.
    idempotent: bool = True
    #: The version of Python that the host must have, such as "3.11", or None.
    python: str | None = None
    #: The name under which its durations are remembered from run to run.
    fn_name: str = ""


@dataclass(frozen=True, slots=True)
class Speculation:
    """When a task is slow, compared with other tasks of its profile."""

    #: Least number of tasks of the profile that must have finished.
    peers: int = 10
    #: A task is slow only if it has run for this many times the 95th percentile of the profile's durations.
    factor: float = 3.0
    #: A task is slow only if it has run for this many seconds. Below that, a second attempt would take longer.
    least_s: float = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class RunSpec:
    """One run. Columns by task number have ``count`` entries, columns by object number at least as many.

    Object ``t`` is the whole result of task ``t``. Numbers from ``count`` on are elements of results, whose producer is
    the task with that result, and values that the controller has, whose producer is -1.
    """

    count: int
    profiles: Sequence[Profile]
    #: By task: index in ``profiles``.
    profile: Sequence[int]
    #: By task: function number, the key of expected durations.
    fn: Sequence[int]
    #: By task: distinct object numbers.
    inputs: Sequence[tuple[int, ...]]
    #: By object: the task that makes it, -1 if the controller has it.
    producer: Sequence[int]
    #: By object: bytes if known, else -1.
    nbytes: Sequence[int]
    #: Objects that the caller wants; they are copied to the controller.
    outputs: Sequence[int] = ()
    #: Objects that stay on their hosts after the run.
    keep: Sequence[int] = ()
    #: By task: higher goes first; None: all are 0.
    priority: Sequence[float] | None = None
    #: By task: collocation group, -1 for none.
    group: Sequence[int] | None = None
    on_failure: OnFailure = "fail_fast"
    #: Most tasks of the run that may be handed over at a time.
    max_concurrency: int | None = None
    #: Name of a built-in allocator; None: a custom one, asked with `AskAllocator`.
    allocator: str | None = "locality"
    allocator_timeout_s: float = 30.0
    #: By task: what the graph's author attached to it.
    labels: Sequence[Mapping[str, Any]] | None = None
    #: By task: the user's ids, for errors, explanations and allocators; None: the numbers are used.
    ids: Sequence[str] | None = None
    #: When a task gets a second attempt beside the first; None: never.
    speculation: Speculation | None = None
    #: Added to each task's priority; orders concurrent runs.
    run_priority: float = 0.0
