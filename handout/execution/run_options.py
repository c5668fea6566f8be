"""The options of a run: their types and documentation, and the check of a caller's values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import Any, Final, Literal, TypedDict

from handout.allocators import Allocator
from handout.errors import HandoutError
from handout.graph import Given, Options, Output
from handout.resources import InventoryLike, nearest_name
from handout.transport.timings import Timings

__all__ = ["ClusterOptions", "RunOptions", "check_run_options"]


class RunOptions(TypedDict, total=False):
    """Options of one run: keyword arguments of `execute`, `start`, `run`, `Cluster.execute` and `Cluster.start`.

    `ClusterOptions` has the further options of `execute`, `start` and `run`, such as the inventory.

    Attributes:
        allocator: Async function that chooses the host of each task. Default: the allocator of the cluster, or else
            `locality`.
        outputs: Outputs whose values the run brings back. Functions that none of these need do not run. Default:
            each result that no other function takes.
        given: Values that replace outputs in this run, by output or by id. The functions behind them do not run unless
            something else needs them. `Results` of an earlier run are such a mapping. Default: none.
        retries: How many more attempts follow one that raised, for functions without ``retries`` of their own. Default:
            0.
        on_failure: ``"fail_fast"`` cancels the run at the first failure and raises it. ``"continue"`` finishes every
            function that does not depend on a failed one. Default: ``"fail_fast"``.
        max_result_bytes: Largest size in bytes of a result, or of an element of a result that is sent without the rest
            of it. Holds for functions without ``max_result_bytes`` of their own. A larger one fails its task with
            `ResultTooLargeError`. Default: no limit.
        max_memory: Bytes of results that the controller holds in memory. Results beyond it lie in files of a private
            folder, which is removed with the `Results`. Default: 1 GiB.
        enforce_memory: True: a task that takes more memory than its cost says is ended with `MemoryExceededError`.
            Holds for functions without ``enforce_memory`` of their own. Default: False.
        speculate: True: a task that takes far longer than other tasks of its function is attempted a second time, on
            another host with free room. The first attempt to finish counts and the second one is ended. A function with
            ``idempotent=False`` is never attempted a second time. Default: False.
        max_concurrency: Largest number of tasks that are handed to hosts at one time. Default: no limit.
        timeout_s: Seconds that the whole run may take. After that the run is cancelled and raises `RunTimeoutError`.
            Default: no limit.
        priority: Orders the runs of one cluster that are active at one time: tasks of the run with the larger number go
            first. Default: 0.
        journal: File that records the run. A run that is started again with the same file takes every committed result
            from it and does not run these functions again. `JournalError` is raised if the file cannot be used.
            Default: none.
        journal_results: Which results a journal commits. ``"all"`` copies every result that another function or the
            caller takes. ``"outputs"`` copies only results that the caller takes, and a resumed run makes the others
            again. Default: ``"all"``.

    Raises:
        HandoutError: An option has an unknown name or a value of the wrong type or range. Nothing was run.

    Example:
        ```python
        results = await handout.execute(graph, retries=2, timeout_s=3600, journal="run.db")
        ```
    """

    allocator: Allocator | None
    outputs: Iterable[Output[Any]] | None
    given: Given
    retries: int
    on_failure: Literal["fail_fast", "continue"]
    max_result_bytes: int
    max_memory: int
    enforce_memory: bool
    speculate: bool
    max_concurrency: int
    timeout_s: float
    priority: float
    journal: str | PathLike[str]
    journal_results: Literal["all", "outputs"]


class ClusterOptions(RunOptions, total=False):
    """Options of one run on a cluster of its own: keyword arguments of `execute`, `start` and `run`.

    These are all options of `RunOptions`, and in addition the options below.

    Attributes:
        inventory: Hosts that the run may use: an `Inventory`, a list of hosts, or the path of a TOML file. Default:
            this machine alone.
        require: How many hosts must be reached before the run begins: ``"any"`` for one, ``"all"``, or a number. The
            remaining hosts join later. `HostError` is raised if fewer can be reached. Default: ``"any"``.
        timings: Seconds of silence after which a host is lost, and the other times of the connection. Default:
            `Timings()`.

    Raises:
        HandoutError: As for `RunOptions`; also for a wrong ``require`` or ``timings``.
        InventoryError: The inventory cannot be read.
        HostError: Fewer hosts than required could be reached.

    Example:
        ```python
        results = await handout.execute(graph, inventory="hosts.toml", require="all")
        ```
    """

    inventory: InventoryLike
    require: Literal["any", "all"] | int
    timings: Timings | None


#: Largest absolute value of a number. A float represents whole numbers up to it exactly, and a timer of the event loop
#: can wait for that many seconds.
_MOST: Final = 1e10


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST


#: By option: a phrase that says which values it takes, and a function that is True for such a value. The cluster checks
#: the options of `ClusterOptions` itself.
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


def _remedy_for_unknown(name: str) -> str:
    """Return what the caller can do about an option that no run has."""
    if name in ClusterOptions.__annotations__:
        return f"{name}= is an option of Cluster, and of execute, start and run without a cluster."
    if name in Options.__annotations__:
        return f"{name}= is an option of a function: graph.add(..., {name}=...)."
    known = sorted(ClusterOptions.__annotations__)
    nearest = nearest_name(name, known)
    return f"Did you mean {nearest}=?" if nearest else f"Options are {', '.join(known)}."


def check_run_options(options: Mapping[str, Any]) -> None:
    """Check the options of a run before it begins.

    Raises:
        HandoutError: An option has an unknown name, or a value of the wrong type or range.
    """
    for name, value in options.items():
        if name not in RunOptions.__annotations__:
            raise HandoutError(f"A run has no option {name}=.", remedy=_remedy_for_unknown(name))
        wanted, is_right = _RULES.get(name, ("", lambda _: True))
        if not is_right(value):
            raise HandoutError(f"{name}={value!r} is not {wanted}.", remedy="Correct it. Nothing was run.")
