"""The options of a function: their types and documentation, their check, and the form that the other modules read."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict

from handout.errors import GraphError
from handout.graph.output import Input
from handout.resources.cost import Cost, CostLike, as_costs
from handout.resources.did_you_mean import suggestion
from handout.resources.requirement import Requirement, compile_cost

__all__ = ["OPTION_NAMES", "PLAIN", "Options", "RetryOn", "TaskOptions", "check_options", "intern_options", "is_whole"]

RetryOn = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]


class Options(TypedDict, total=False):
    """Options of one function: keyword arguments of `Graph.add`, `Graph.map`, `Graph.reduce`, `function` and `options`.

    Attributes:
        id: Name of the function's task, unique in its graph. Default: generated from the function's name: ``train``,
            then ``train-2``.
        cost: What the task needs while it runs: a `Cost`, a mapping such as ``{"cpu": 4, "memory": "2 GB"}``, or a list
            of these, which are variants in order of preference. It is read when the function is added. Default: one
            core.
        retries: Largest number of further attempts after attempts that raised. Attempts that ended because a host was
            lost or a worker process died do not count. Default: the ``retries`` of the run, which is 0 by default.
        retry_on: Which exceptions are worth another attempt: an exception class, a tuple of these, or a function that
            takes the exception and returns a bool. The function runs in the caller's process. Default: all exceptions.
        backoff_s: Seconds before the second attempt. Each further pause is twice as long, up to 60 seconds. Default: 0.
        timeout_s: Seconds that one attempt may run. After that its processes are ended with SIGTERM, then SIGKILL, and
            the attempt fails with `TaskTimeoutError`. Default: no limit.
        host: Name of the host that must run the task. Default: any host that covers the cost.
        collocate_with: Output, or id, of another function. Both tasks run on the same host. Default: none.
        inline: True: the function is no task of its own. It is called inside each function that takes its result. Such
            a function takes no options except ``id`` and ``labels``. Default: False.
        priority: Of the tasks of a run that are ready at one time, those with larger numbers go first. Default: 0.
        idempotent: False: the task must not run twice. An attempt that was ended in the middle is then never repeated,
            whatever ``retries`` says. It fails with `OutcomeUnknownError` if its host or its process was lost, with
            `TaskTimeoutError` if it was over its time, and with `MemoryExceededError` if it was over its memory. An
            exception that the function raises is still retried. Default: True.
        max_result_bytes: Largest size in bytes of the result, or of an element of it that travels by itself. A larger
            one is not kept, and the task fails with `ResultTooLargeError`. Default: the ``max_result_bytes`` of the
            run, which is no limit by default.
        enforce_memory: True: a task that takes more memory than its cost says is ended with `MemoryExceededError`.
            Every variant of the cost must then name ``memory``. Default: the ``enforce_memory`` of the run, which is
            False by default.
        labels: Facts about the task for allocators, which find them in `Task.labels`. Handout itself never reads them.
            Default: none.

    Raises:
        GraphError: An option has an unknown name, or a value of the wrong type or range. `CostError`, a subclass, for
            a cost that cannot be read.

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
    """The options of a task, checked and with the cost compiled. All code after `Graph.add` reads this form.

    The fields are those of `Options`, without ``id``, ``inline`` and ``collocate_with``, which the graph itself
    honours. Tasks of one graph with equal options share one object, so compare by identity.
    """

    #: The variants of ``cost`` in order of preference, read when the function was added. Never empty.
    requirements: tuple[Requirement, ...] = (compile_cost(Cost()),)
    #: None: the value of the run holds. The same is true of ``max_result_bytes`` and ``enforce_memory``.
    retries: int | None = None
    #: None: any exception is worth another attempt.
    retry_on: RetryOn | None = None
    backoff_s: float = 0.0
    timeout_s: float | None = None
    host: str | None = None
    priority: float = 0.0
    idempotent: bool = True
    max_result_bytes: int | None = None
    enforce_memory: bool | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)


#: The options of a function that was given none.
PLAIN: Final = TaskOptions()


def check_options(given: Mapping[str, Any], owner: str) -> None:
    """Check the options of a function.

    Args:
        given: Options by name, as the caller wrote them.
        owner: The function that they belong to, for the message.

    Raises:
        GraphError: An option has an unknown name, or a value of the wrong type or range; or an inline function has
            options of a task.
    """
    for name, value in given.items():
        rule = _RULES.get(name)
        if rule is None:
            raise GraphError(f"{owner}: unknown option {name!r}.", remedy=suggestion(name, OPTION_NAMES))
        wanted, holds = rule
        if not holds(value):
            raise GraphError(f"{owner}: option {name}={value!r} is not {wanted}.", remedy=f"Give {wanted}.")
    if given.get("inline") and not given.keys() <= _INLINE_ALLOWS:
        others = ", ".join(sorted(given.keys() - _INLINE_ALLOWS))
        raise GraphError(
            f"{owner} is inline, so it runs inside each of its consumers, but it also has {others}.",
            remedy="Give these to the consumers, or leave out inline=True.",
        )


#: Options that an inline function may have. It is no task, so it has no host and no attempts.
_INLINE_ALLOWS: Final = frozenset({"id", "inline", "labels"})


def is_whole(value: Any) -> bool:
    """Return True for an int that is not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_cost(value: Any) -> bool:
    # `as_costs` checks what is inside, and its errors name the value.
    return isinstance(value, Cost | Mapping) or (isinstance(value, Sequence) and not isinstance(value, str | bytes))


def _is_retry_on(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(each, type) and issubclass(each, Exception) for each in value)
    return issubclass(value, Exception) if isinstance(value, type) else callable(value)


#: By option: a phrase that says which values it takes, and a function that is True for such a value.
_RULES: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "id": ("a text that is not empty", _is_text),
    "cost": ("a Cost, a mapping, or a list of them", _is_cost),
    "retries": ("a whole number from 0 up", lambda value: is_whole(value) and value >= 0),
    "retry_on": ("an exception class, a tuple of them, or a function of the exception", _is_retry_on),
    "backoff_s": ("a number of seconds from 0 up", lambda value: _is_number(value) and value >= 0),
    "timeout_s": ("a finite number of seconds above 0", lambda value: _is_number(value) and value > 0),
    "host": ("the name of a host", _is_text),
    "collocate_with": ("an output or the id of a function", lambda value: isinstance(value, Input) or _is_text(value)),
    "inline": ("True or False", _is_bool),
    "priority": ("a number", _is_number),
    "idempotent": ("True or False", _is_bool),
    "max_result_bytes": ("a whole number of bytes from 1 up", lambda value: is_whole(value) and value > 0),
    "enforce_memory": ("True or False", _is_bool),
    "labels": ("a mapping", lambda value: isinstance(value, Mapping)),
}


#: The names that `Graph.add` takes as options.
OPTION_NAMES: Final = frozenset(_RULES)


def intern_options(given: Mapping[str, Any], known: dict[Hashable, tuple[TaskOptions, object]]) -> TaskOptions:
    """Return the `TaskOptions` of some checked options: the same object for the same options.

    A loop that adds a million functions with ``cost={"gpu": 1}`` reads that cost once.

    Args:
        given: Options by name, without ``id``, ``inline`` and ``collocate_with``.
        known: The results of earlier calls, by key; this call adds its own. An entry also holds the objects whose
            ``id()`` is part of its key. While they live, no other object has the same ``id()``.

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

    Plain data is compared by type and content, so True and 1 differ. Any other value is compared by identity and is
    appended to ``kept``.
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
