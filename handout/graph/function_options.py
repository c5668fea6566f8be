"""The options of a function: their types and documentation, their check, and their checked form, `TaskOptions`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict

from handout.errors import GraphError
from handout.graph.output import Input, is_function
from handout.resources.cost import Cost, CostLike, as_costs
from handout.resources.did_you_mean import suggestion
from handout.resources.numbers import is_finite_number, is_whole
from handout.resources.requirement import Requirement, compile_cost
from handout.serialization.user_objects import brief, is_coroutine_function

__all__ = [
    "AMOUNTS",
    "OF_RUNS",
    "OPTION_NAMES",
    "PLAIN",
    "Options",
    "RetryOn",
    "TaskOptions",
    "check_options",
    "instead_of_option",
    "intern_options",
]

RetryOn = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]


class Options(TypedDict, total=False):
    """Options of one function. They are keyword arguments of `Graph.add`, `Graph.map`, `Graph.reduce`, `function` and
    `options`.

    Attributes:
        id: Name of the function, unique in its graph. Default: a name that Handout makes from the name of the function,
            such as ``train`` for the first use and ``train-2`` for the second.
        cost: What the task needs while it runs: a `Cost`, a mapping such as ``{"cpu": 4, "memory": "2 GB"}``, or a list
            of these. A list holds variants in order of preference. The cost is read when the function is added to the
            graph. Default: one CPU core.
        retries: Largest number of further attempts after the function raised, or took too much time or memory. Attempts
            that ended because a host was lost or a worker died do not count. Default: the ``retries`` of the run, which
            is 0 by default.
        retry_on: The exceptions after which the task is retried: an exception class or a tuple of these, which matches
            what ``except`` would catch, or a predicate that takes the exception and returns a bool. The predicate runs
            in the controller's process, and cannot be async. Default: all exceptions, but not the failed import of a
            package that the host lacks. For this error, `Exception` is not enough: name `ModuleNotFoundError` or
            `ImportError`.
        backoff_s: Seconds to wait before the second attempt. Each later wait is twice as long as the one before, up to
            60 seconds. Default: 0.
        timeout_s: Seconds that one attempt may run. After that, the host ends the processes of the attempt with
            SIGTERM, then SIGKILL, and the attempt fails with `TaskTimeoutError`. Default: no limit.
        host: Name of the host that must run the task. Default: any host that covers the cost.
        collocate_with: The output or the id of another function. Both functions run on the same host. Default: none.
        inline: True: the function does not become a task. Instead, each task that takes the function's result calls the
            function itself. An inline function can have no other options than ``id`` and ``labels``. Default: False.
        priority: If several tasks of a run are ready, tasks with a larger number are placed first. Default: 0.
        idempotent: False: repeating the task may do harm. If an attempt ends before the function returns or raises, the
            task is not retried, whatever ``retries`` says. The task fails with `OutcomeUnknownError` if the host was
            lost or the worker died, with `TaskTimeoutError` if the attempt took too much time, and with
            `MemoryExceededError` if the attempt took too much memory. If the function raises an exception, ``retries``
            holds as usual. Default: True.
        max_result_bytes: Largest size, in bytes, of the result, and of each element of the result that travels as an
            object of its own. If one of them is larger, the task fails with `ResultTooLargeError`. Default: the
            ``max_result_bytes`` of the run. A run has no limit by default.
        enforce_memory: True: if the task takes more memory than its cost says, the host ends the attempt, which fails
            with `MemoryExceededError`. Every variant of the cost must then name ``memory``. Default: the
            ``enforce_memory`` of the run, which is False by default.
        labels: Facts about the task for allocators, which find them in `Task.labels`. Handout itself never reads them.
            Default: none.

    Raises:
        GraphError: An option has an unknown name, or a value of the wrong type or range.
        CostError: The cost cannot be read.

    Example:
        ```python
        graph.add(train, data, cost={"gpu": 1, "memory": "8 GB"}, retries=2, timeout_s=3600)
        ```
    """

    id: str
    cost: CostLike
    retries: int
    retry_on: RetryOn
    backoff_s: float
    timeout_s: float
    host: str
    collocate_with: Input[Any] | str
    inline: bool
    priority: float
    idempotent: bool
    max_result_bytes: int
    enforce_memory: bool
    labels: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class TaskOptions:
    """The checked options of a task, with its compiled cost. All code that runs after `Graph.add` reads this form.

    The fields are those of `Options`, with two differences: ``requirements`` replaces ``cost``, and ``id``, ``inline``
    and ``collocate_with`` are missing, because the graph itself handles them.

    Tasks of one graph with equal options share one object, so two objects are compared by identity.
    """

    #: The compiled variants of ``cost``, in order of preference. There is at least one.
    requirements: tuple[Requirement, ...] = (compile_cost(Cost()),)
    #: None: the run's option of the same name holds. The same is true of ``max_result_bytes`` and ``enforce_memory``.
    retries: int | None = None
    #: None: the task is retried after any exception.
    retry_on: RetryOn | None = None
    backoff_s: float = 0.0
    timeout_s: float | None = None
    host: str | None = None
    priority: float = 0.0
    idempotent: bool = True
    max_result_bytes: int | None = None
    enforce_memory: bool | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)


#: Amounts that belong into a cost. Other tools take some of them as options.
AMOUNTS: Final = frozenset({"cpu", "memory", "gpu", "gpu_memory", "disk"})
#: Options by which other tools limit how many functions run at one time.
_OF_POOLS: Final = frozenset({"max_workers", "n_jobs", "num_workers", "workers"})
#: Options that only a run has, for remedies. The room of the runs declares them.
OF_RUNS: Final = frozenset(
    {
        "allocator", "given", "inventory", "journal", "journal_results", "keep", "max_concurrency", "max_memory",
        "on_failure", "outputs", "require", "speculate", "timings",
    }
)  # fmt: skip

#: The options of a function for which the caller gave no options.
PLAIN: Final = TaskOptions()


def instead_of_option(name: str) -> str:
    """Return the remedy for a keyword that was meant as an option of a function, but is none."""
    if name in AMOUNTS:
        return f"An amount is a part of the cost: cost={{{name!r}: ...}}."
    if name in _OF_POOLS:
        return (
            "The cost of the functions says how many of them run on a host at one time. For a limit of its own, write "
            "Cluster(..., max_concurrency=...)."
        )
    if name in OF_RUNS:
        return f"{name}= is an option of a run: handout.execute(graph, {name}=...)."
    return suggestion(name, OPTION_NAMES)


def check_options(given: Mapping[str, Any], owner: str) -> None:
    """Check the options of a function.

    Args:
        given: The options as the caller wrote them, by name.
        owner: The words that name the function in messages, such as ``function 'train'``.

    Raises:
        GraphError: An option has an unknown name, or a value of the wrong type or range. Or the function is inline and
            has an option that only a task can have.
    """
    for name, value in given.items():
        rule = _RULES.get(name)
        if rule is None:
            raise GraphError(f"{owner}: unknown option {name!r}.", remedy=instead_of_option(name))
        wanted, holds = rule
        if not holds(value):
            raise GraphError(f"{owner}: option {name}={brief(value)} is not {wanted}.", remedy="Correct this option.")
    if given.get("inline") and not given.keys() <= _INLINE_ALLOWS:
        others = ", ".join(sorted(given.keys() - _INLINE_ALLOWS))
        raise GraphError(
            f"{owner} is inline and runs inside the functions that take its result, so it cannot have these options: "
            f"{others}.",
            remedy="Give these options to the functions that take the result, or leave out inline=True.",
        )


#: Options that an inline function may have. All other options are about tasks, and an inline function is not a task.
_INLINE_ALLOWS: Final = frozenset({"id", "inline", "labels"})


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_cost(value: Any) -> bool:
    # `as_costs` checks the values inside, and names the wrong value in its error.
    return isinstance(value, Cost | Mapping) or (isinstance(value, Sequence) and not isinstance(value, str | bytes))


def _is_retry_on(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(each, type) and issubclass(each, Exception) for each in value)
    if isinstance(value, type):
        return issubclass(value, Exception)
    return is_function(value) and not is_coroutine_function(value)  # a coroutine would count as True


#: For each option: a phrase that describes the allowed values, and a function that returns True for an allowed value.
_RULES: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "id": ("a text that is not empty", _is_text),
    "cost": ("a Cost, a mapping, or a list of these", _is_cost),
    "retries": ("a whole number from 0 up", lambda value: is_whole(value) and value >= 0),
    "retry_on": (
        "an exception class, a tuple of these, or a function without async that takes the exception",
        _is_retry_on,
    ),
    "backoff_s": ("a finite number of seconds from 0 up", lambda value: is_finite_number(value) and value >= 0),
    "timeout_s": ("a finite number of seconds above 0", lambda value: is_finite_number(value) and value > 0),
    "host": ("the name of a host", _is_text),
    "collocate_with": ("an output or the id of a function", lambda value: isinstance(value, Input) or _is_text(value)),
    "inline": ("True or False", _is_bool),
    "priority": ("a finite number", is_finite_number),
    "idempotent": ("True or False", _is_bool),
    "max_result_bytes": ("a whole number of bytes from 1 up", lambda value: is_whole(value) and value > 0),
    "enforce_memory": ("True or False", _is_bool),
    "labels": ("a mapping", lambda value: isinstance(value, Mapping)),
}


#: The names that `Graph.add` takes as options.
OPTION_NAMES: Final = frozenset(_RULES)


def intern_options(given: Mapping[str, Any], known: dict[Hashable, tuple[TaskOptions, object]]) -> TaskOptions:
    """Return checked options as `TaskOptions`. Equal options give the same object.

    A loop that adds a million functions with ``cost={"gpu": 1}`` therefore compiles that cost only once.

    Args:
        given: The checked options by name, without ``id``, ``inline`` and ``collocate_with``.
        known: The results of earlier calls, by a key that is made from ``given``. This call adds its own result. If a
            key contains the ``id()`` of an object, the entry also holds the object, so that no other object can get the
            same ``id()``.

    Raises:
        CostError: The cost cannot be read.
    """
    kept: list[object] = []
    key = tuple([(name, _key_of(value, kept)) for name, value in given.items()])
    found = known.get(key)
    if found is not None:
        return found[0]
    fields = dict(given)
    if "cost" in fields:
        fields["requirements"] = tuple(map(compile_cost, as_costs(fields.pop("cost"))))
    if "labels" in fields:
        fields["labels"] = dict(fields["labels"])
    options = TaskOptions(**fields)
    known[key] = (options, kept)
    return options


_SCALARS: Final = frozenset({int, float, str, bool, type(None)})


def _key_of(value: Any, kept: list[object]) -> Hashable:
    """Return a dictionary key that is equal for equal option values.

    Plain data is compared by type and content, so True and 1 differ. Any other value is compared by its ``id()``, and
    is appended to ``kept`` so that it stays alive.
    """
    kind = type(value)
    if kind in _SCALARS:
        return (kind, value)
    if kind is dict:
        return (kind, *[(name, _key_of(each, kept)) for name, each in value.items()])
    if kind is list or kind is tuple:
        return (kind, *[_key_of(each, kept) for each in value])
    if kind is set or kind is frozenset:
        return (kind, frozenset(value))
    kept.append(value)
    return (kind, id(value))
