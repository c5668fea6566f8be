"""What a run is made of, as columns: tasks, objects, and the profiles that tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from handout.resources.requirement import Requirement

__all__ = ["CONTROLLER", "OnFailure", "Profile", "RunSpec", "Speculation"]

#: Stands for the controller where a host's name is expected.
CONTROLLER = ""

OnFailure = Literal["fail_fast", "continue"]


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """What tasks have in common that matters to placement and retries; shared by many tasks."""

    #: Variants in order of preference: any one will do.
    requirements: tuple[Requirement, ...]
    retries: int = 0
    #: Pause before the first retry; doubled each time, at most 60 s.
    backoff_s: float = 0.0
    #: The only host that may run it, or None.
    host: str | None = None
    #: False: never run again once it may have run.
    idempotent: bool = True
    #: Minor version of Python that the host must have, such as "3.11", or None.
    python: str | None = None
    #: Under this name its duration is remembered from run to run.
    fn_name: str = ""


@dataclass(frozen=True, slots=True)
class Speculation:
    """When a task is slow. Its peers are those of its profile."""

    #: So many of them must have finished.
    peers: int = 10
    #: It has run for this many times their 95th percentile,
    factor: float = 3.0
    #: and for at least this long: sooner, a second attempt would not pay.
    least_s: float = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class RunSpec:
    """One run. Columns by task number hold ``count`` entries, columns by object number at least as many.

    Object ``t`` is the whole result of task ``t``; numbers from ``count`` on are elements of results
    (their producer is that task) and values that the controller has (producer -1).
    """

    count: int
    profiles: Sequence[Profile]
    #: By task: index in ``profiles``.
    profile: Sequence[int]
    #: By task: function number, the key of duration estimates.
    fn: Sequence[int]
    #: By task: distinct object numbers.
    inputs: Sequence[tuple[int, ...]]
    #: By object: task that makes it, -1 where the controller has it.
    producer: Sequence[int]
    #: By object: bytes where known, else -1.
    nbytes: Sequence[int]
    #: Objects that the caller wants; brought to the controller.
    outputs: Sequence[int] = ()
    #: Objects that stay on their hosts after the run.
    keep: Sequence[int] = ()
    priority: Sequence[float] | None = None
    #: By task: collocation group, -1 for none.
    group: Sequence[int] | None = None
    on_failure: OnFailure = "fail_fast"
    max_concurrency: int | None = None
    #: Name of a built-in allocator; None: a custom one, asked by `AskAllocator`.
    allocator: str | None = "locality"
    allocator_timeout_s: float = 30.0
    labels: Sequence[Mapping[str, Any]] | None = None
    #: By task: the user's ids, for errors, explanations and allocators; numbers stand in where absent.
    ids: Sequence[str] | None = None
    #: When a task gets a second attempt beside the first; None: never.
    speculation: Speculation | None = None
    #: Added to each task's priority; orders concurrent runs.
    run_priority: float = field(default=0.0)
