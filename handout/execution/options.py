"""What a caller may say about a run as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from handout.allocators import Allocator
from handout.errors import HandoutError
from handout.graph import Output
from handout.resources import InventoryLike, nearest_name
from handout.transport.timings import Timings

if TYPE_CHECKING:
    from handout.execution.results import Results

__all__ = ["ClusterOptions", "RunOptions", "check_run_options"]


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
    #: For functions that say nothing themselves: results of more bytes are refused with `ResultTooLargeError`.
    max_result_bytes: int
    #: Bytes of results that the controller holds in memory; what is more lies in files. 1 GiB by default.
    max_memory: int
    #: For functions that say nothing themselves: whether a task that takes more memory than its cost says is
    #: ended with `MemoryExceededError`; False by default.
    enforce_memory: bool
    #: Whether a task that takes far longer than its peers is attempted a second time, on another host that is free:
    #: the first to finish counts, the other is ended. Never where ``idempotent=False``. False by default.
    speculate: bool
    #: Tasks with hosts at once, at most.
    max_concurrency: int
    #: Seconds for the whole run; over it, it is cancelled and `RunTimeoutError` raised.
    timeout_s: float
    #: Orders concurrent runs of one cluster; larger goes first.
    priority: float
    #: File to record the run in, and to resume it from: what it has committed is not run again.
    journal: str | PathLike[str]
    #: What a journal commits: ``"all"`` (the default) copies every result that something takes behind the run,
    #: ``"outputs"`` only what the caller gets; what else is needed after a crash is then made again.
    journal_results: Literal["all", "outputs"]


class ClusterOptions(RunOptions, total=False):
    """Options of one run on a cluster of its own."""

    #: The hosts; None for this machine alone.
    inventory: InventoryLike
    #: How many of them must be reached.
    require: Literal["any", "all"] | int
    #: What silence means: how soon a host is lost, and what it keeps until when.
    timings: Timings | None


#: Numbers of an option: what a float can count, and a timer wait for.
_MOST: Final = 1e10


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST


#: What is wrong about a value, and whether it is right; of options that need a look before the run begins.
_RULES: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "allocator": (
        "an async function of frontier and view, such as handout.locality",
        lambda value: value is None or callable(value),
    ),
    "outputs": ("a list of outputs", lambda value: value is None or isinstance(value, Iterable)),
    "given": ("a mapping of outputs or ids to values", lambda value: value is None or isinstance(value, Mapping)),
    "retries": ("a whole number from 0 up", lambda value: _is_whole(value, 0)),
    "on_failure": ("'fail_fast' or 'continue'", lambda value: value in ("fail_fast", "continue")),
    "max_result_bytes": ("a whole number of bytes from 1 up", lambda value: _is_whole(value, 1)),
    "max_memory": ("a whole number of bytes from 0 up", lambda value: _is_whole(value, 0)),
    "enforce_memory": ("True or False", lambda value: isinstance(value, bool)),
    "speculate": ("True or False", lambda value: isinstance(value, bool)),
    "max_concurrency": ("a whole number from 1 up", lambda value: value is None or _is_whole(value, 1)),
    "timeout_s": (
        "a finite number of seconds above 0",
        lambda value: value is None or (_is_number(value) and value > 0),
    ),
    "priority": ("a number", _is_number),
    "journal": ("a path", lambda value: value is None or isinstance(value, str | PathLike)),
    "journal_results": ("'all' or 'outputs'", lambda value: value in ("all", "outputs")),
}


#: Options that are refused so far.
_LATER: Final = ("keep",)


def check_run_options(options: Mapping[str, Any]) -> None:
    """Refuse what would be ignored, or would keep a run from ever ending.

    Raises:
        HandoutError: An option does not exist, or its value is none that it can have.
    """
    for name, value in options.items():
        if name not in RunOptions.__annotations__:
            known = [each for each in ClusterOptions.__annotations__ if each not in _LATER]
            nearest = nearest_name(name, known)
            raise HandoutError(
                f"{name}= is no option of a run.",
                remedy=f"Did you mean {nearest}=?" if nearest else f"There are {', '.join(known)}.",
            )
        wanted, is_right = _RULES.get(name, ("", lambda _: True))
        if not is_right(value):
            raise HandoutError(f"{name}={value!r} is not {wanted}.", remedy="Correct it; nothing was run.")
    if options.get("keep"):
        raise HandoutError("keep= is not there yet: nothing outlives its run.", remedy="Ask for it in outputs=[...].")
