"""What a caller may say about a run as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from handout.allocators import Allocator
from handout.graph import Output
from handout.resources import InventoryLike

if TYPE_CHECKING:
    from handout.execution.results import Results

__all__ = ["ClusterOptions", "RunOptions"]


class RunOptions(TypedDict, total=False):
    """Options of one run."""

    #: Who goes where; None for the cluster's, else the built-in `locality`.
    allocator: Allocator | None
    #: What to bring back; by default every function's result that no other function takes.
    outputs: Iterable[Output[Any]] | None
    #: Objects that stay on the cluster's hosts, for later graphs.
    keep: Iterable[Output[Any]] | None
    #: Values that replace outputs for this run.
    given: Mapping[str, Any] | Mapping[Output[Any], Any] | Results
    #: For functions that say nothing themselves; 0 by default.
    retries: int
    #: ``"fail_fast"`` (the default) raises the first failure and cancels the rest, ``"continue"`` finishes
    #: what does not depend on it.
    on_failure: Literal["fail_fast", "continue"]
    #: Tasks with hosts at once, at most.
    max_concurrency: int
    #: Seconds for the whole run; over it, it is cancelled and `RunTimeoutError` raised.
    timeout_s: float
    #: Orders concurrent runs of one cluster; larger goes first.
    priority: float
    #: File to record the run in, and to resume it from.
    journal: str | PathLike[str]


class ClusterOptions(RunOptions, total=False):
    """Options of one run on a cluster of its own."""

    #: The hosts; None for this machine alone.
    inventory: InventoryLike
    #: How many of them must be reached.
    require: Literal["any", "all"] | int
