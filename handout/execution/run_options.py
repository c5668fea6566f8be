"""The options of a run: their types, their documentation, and a check of the values that a caller gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import Any, Final, Literal, TypedDict

from handout.allocators import Allocator
from handout.errors import HandoutError
from handout.execution.results import Results
from handout.graph import GivenValues, Options, Output
from handout.resources import InventoryLike, nearest_name
from handout.resources.numbers import is_finite_number, is_whole
from handout.serialization.user_objects import brief
from handout.transport.timings import Timings

__all__ = ["ClusterOptions", "Given", "RunOptions", "check_run_options"]

Given = GivenValues | Results
"""What a run takes instead of running functions.

A mapping of outputs, or of ids, to values: each value replaces its output, whatever the function of the output is. Or
the `Results` of an earlier run: the run uses the result of each function that is the same in both runs, with the same
arguments and inputs, and runs all other functions. An id alone makes no function the same."""


class RunOptions(TypedDict, total=False):
    """Options of one run: keyword arguments of `execute`, `start`, `run`, `Cluster.execute` and `Cluster.start`.

    `ClusterOptions` has the further options of `execute`, `start` and `run`, such as the inventory.

    Attributes:
        allocator: Async function that chooses the host of each task. Default: the allocator of the cluster, or
            `locality` if the cluster has none.
        outputs: Outputs whose values the run brings back. Functions that are not needed for these outputs do not run.
            Default: each result that no other function takes.
        keep: Outputs whose values stay on the hosts of the cluster after the run, as `Stored` objects that
            `Results.stored` returns. Only `Cluster.execute`, `Cluster.start` and `Cluster.run` have this option. An
            output in ``keep`` that no function takes is not brought back unless ``outputs`` names it. Default: none.
        given: A mapping of outputs, or of their ids, to the values that replace these outputs in this run. A function
            whose output is replaced runs only if another of its outputs is needed. The `Results` of an earlier run can
            be given too. Then the run uses the results of the functions that are the same in both runs, with the same
            arguments and inputs, and `Results.reused` says which these are. Default: none.
        retries: How often a function is attempted again after it raised an exception, or took too much time or memory.
            Applies to functions without ``retries`` of their own. Default: 0.
        on_failure: ``"fail_fast"`` cancels the run when the first function fails, and raises the function's exception.
            ``"continue"`` goes on with every function that does not depend on a failed function. Default:
            ``"fail_fast"``.
        max_result_bytes: Largest size in bytes of a result. If an element of a result is sent alone, the limit applies
            to the element. A task with a larger result fails with `ResultTooLargeError`. Applies to functions without
            ``max_result_bytes`` of their own. Default: no limit.
        max_memory: Largest number of bytes of results that the controller holds in memory. Further results are written
            to files in a private folder, which is removed together with the `Results`. Default: 1 GiB.
        enforce_memory: If True, a task is ended with `MemoryExceededError` when it takes more memory than its cost
            says. Applies to functions without ``enforce_memory`` of their own. Default: False.
        speculate: If True, a task that takes far longer than other tasks of its function gets a second attempt, on
            another host with free room. The attempt that finishes first counts, and the other attempt is ended. A
            function with ``idempotent=False`` never gets a second attempt in this way. Default: False.
        max_concurrency: Largest number of tasks that are handed over to hosts at one time. Default: no limit.
        timeout_s: Seconds that the whole run may take. After that the run is cancelled and raises `RunTimeoutError`.
            Default: no limit.
        priority: Orders the runs of one cluster that are active at the same time. The number is added to the priority
            of each task of the run, and tasks with a larger sum go first. Default: 0.
        journal: File in which the run is recorded. If the graph is run again with the same file, the new run takes
            every committed result from the file, and does not run the functions of these results again. `JournalError`
            is raised if the file cannot be used. Default: none.
        journal_results: Which results are copied to the journal. ``"all"`` means every result that another function or
            the caller takes. ``"outputs"`` means the results that the caller takes, and those results of functions with
            ``idempotent=False`` that another function takes. If a resumed run needs any other result, it makes this
            result again. Default: ``"all"``.

    Raises:
        HandoutError: An option has an unknown name or a value of the wrong type or range. Nothing was run.

    Example:
        ```python
        results = await handout.execute(graph, retries=2, timeout_s=3600, journal="run.db")
        ```
    """

    allocator: Allocator | None
    outputs: Iterable[Output[Any]] | None
    keep: Iterable[Output[Any]] | None
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
    """Options of one run with hosts of its own: keyword arguments of `execute`, `start` and `run`.

    These are all options of `RunOptions`, and in addition the options below.

    Attributes:
        inventory: Hosts that the run may use: an `Inventory`, a list of hosts, or the path of a TOML file. Default:
            this machine alone.
        require: How many hosts must be reached before the run begins: ``"any"`` for one, ``"all"``, or a number. The
            remaining hosts join later. `HostError` is raised if fewer hosts can be reached. Default: ``"any"``.
        timings: Time limits, such as the seconds of silence after which a host is lost. Default: `Timings()`.

    Raises:
        HandoutError: As for `RunOptions`. Also raised if ``require`` or ``timings`` has a wrong value.
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


#: Largest absolute value of an option that is a number. Floats are exact for all whole numbers up to this value, and a
#: timer of the event loop can wait for this many seconds.
_MOST: Final = 1e10


def _is_whole(value: Any, least: int) -> bool:
    return is_whole(value) and value >= least


def _is_number(value: Any) -> bool:
    return is_finite_number(value) and abs(value) <= _MOST


#: Maps each option to a phrase that describes its allowed values, and to a function that returns True for an allowed
#: value. The cluster checks the options that only `ClusterOptions` has.
_RULES: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "allocator": (
        "an async function of frontier and view, such as handout.locality",
        lambda value: value is None or callable(value),
    ),
    "outputs": ("a list of outputs", lambda value: value is None or isinstance(value, Iterable)),
    "keep": ("a list of outputs", lambda value: value is None or isinstance(value, Iterable)),
    "given": (
        "a mapping of outputs or ids to values, nor the Results of a run",
        lambda value: value is None or isinstance(value, Mapping),
    ),
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
        return f"{name}= is an option of Cluster(...), and of handout.execute, handout.start and handout.run."
    if name in Options.__annotations__:
        return f"{name}= is an option of a function: graph.add(..., {name}=...)."
    known = sorted(ClusterOptions.__annotations__)
    nearest = nearest_name(name, known)
    return f"Did you mean {nearest}=?" if nearest else f"The options are {', '.join(known)}."


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
            raise HandoutError(
                f"{name}={brief(value)} is not {wanted}.", remedy="Correct this option. Nothing was run."
            )
