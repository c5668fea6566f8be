"""What a caller may say about one function beside its arguments: read, checked and interned here."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict

from handout.errors import GraphError
from handout.graph.output import Input
from handout.resources.cost import Cost, CostLike, as_costs
from handout.resources.did_you_mean import nearest

__all__ = [
    "INLINE_ALLOWS",
    "OPTION_NAMES",
    "PLAIN",
    "Options",
    "RetryOn",
    "TaskOptions",
    "check_options",
    "intern_options",
    "is_whole",
]

RetryOn = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]


class Options(TypedDict, total=False):
    """The options of a function, by their reserved names."""

    #: Unique in its graph; generated and readable (``train``, ``train-2``) when left out.
    id: str
    #: What it needs; a list means variants in order of preference.
    cost: CostLike
    #: How often it is tried again when it raises.
    retries: int
    #: Which exceptions are worth another try; all by default.
    retry_on: RetryOn
    #: Seconds before the first retry; doubled for each further one.
    backoff_s: float
    #: Seconds that one attempt may take.
    timeout_s: float
    #: The host that must run it.
    host: str
    #: An output (or an id) whose function's host must run this one, too.
    collocate_with: Input[Any] | str
    #: No task of its own: runs inside each of its consumers.
    inline: bool
    #: Larger goes first.
    priority: float
    #: False: never run again once it was ended in the middle, whatever ``retries`` says: its host or its process was
    #: lost (`OutcomeUnknownError`), or it was over its ``timeout_s`` or its memory. What it raises itself is retried.
    idempotent: bool
    #: A result, or an element of it that travels by itself, of more bytes is refused with `ResultTooLargeError`.
    max_result_bytes: int
    #: True: ended with `MemoryExceededError` when it takes more memory than its cost says.
    enforce_memory: bool
    #: Never matched; shown to allocators, events and logs.
    labels: Mapping[str, Any]


OPTION_NAMES: Final = frozenset(Options.__annotations__)

#: What an inline function may have: it has no place and no attempts of its own.
INLINE_ALLOWS: Final = frozenset({"id", "inline", "labels"})


@dataclass(frozen=True, slots=True, eq=False)
class TaskOptions:
    """The options that matter once the graph runs. Interned per graph: compare by identity."""

    #: Variants in order of preference; the very objects that the caller gave. Never empty.
    costs: tuple[Cost, ...] = (Cost(),)
    #: None: as the run says.
    retries: int | None = None
    #: None: any exception.
    retry_on: RetryOn | None = None
    backoff_s: float = 0.0
    timeout_s: float | None = None
    host: str | None = None
    priority: float = 0.0
    idempotent: bool = True
    #: None: as the run says.
    enforce_memory: bool | None = None
    max_result_bytes: int | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)


#: The options of a function for which nothing was said.
PLAIN: Final = TaskOptions()


def check_options(given: Mapping[str, Any], owner: str) -> None:
    """Refuse options that no run could honour.

    Args:
        given: Options by name, as the caller wrote them.
        owner: Whose options they are, for the message.

    Raises:
        GraphError: An unknown name, a value of the wrong type or out of range, or an inline function that is
            pinned, priced or retried.
    """
    for name, value in given.items():
        rule = _RULES.get(name)
        if rule is None:
            raise GraphError(f"{owner}: unknown option {name!r}.", remedy=nearest(name, OPTION_NAMES))
        wanted, holds = rule
        if not holds(value):
            raise GraphError(f"{owner}: option {name}={value!r} is not {wanted}.", remedy=f"Give {wanted}.")
    if given.get("inline") and not given.keys() <= INLINE_ALLOWS:
        others = ", ".join(sorted(given.keys() - INLINE_ALLOWS))
        raise GraphError(
            f"{owner} is inline, so it runs inside each of its consumers, but it also has {others}.",
            remedy="Give these to the consumers, or leave out inline=True.",
        )


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, and not True or False."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_cost(value: Any) -> bool:
    # What is inside is read, and complained about, by the resources' own parser.
    return isinstance(value, Cost | Mapping) or (isinstance(value, Sequence) and not isinstance(value, str | bytes))


def _is_retry_on(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(each, type) and issubclass(each, Exception) for each in value)
    return issubclass(value, Exception) if isinstance(value, type) else callable(value)


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


def intern_options(given: Mapping[str, Any], known: dict[Hashable, tuple[TaskOptions, object]]) -> TaskOptions:
    """The `TaskOptions` of some checked options; the same object for the same options.

    A loop that writes ``cost={"gpu": 1}`` a million times gets one object, and one reading of its cost.

    Args:
        given: Options by name; ``id``, ``inline`` and ``collocate_with`` are not for here.
        known: What was interned before, each with the objects that its key names by identity, to keep them alive.
    """
    kept: list[object] = []
    key = tuple([(name, _key_of(value, kept)) for name, value in given.items()])
    found = known.get(key)
    if found is not None:
        return found[0]
    fields = dict(given)
    if "cost" in fields:
        fields["costs"] = as_costs(fields.pop("cost"))
    if "labels" in fields:
        fields["labels"] = dict(fields["labels"])
    options = TaskOptions(**fields)
    known[key] = (options, kept)
    return options


_SCALARS: Final = frozenset({int, float, str, bool, type(None)})


def _key_of(value: Any, kept: list[object]) -> Hashable:
    """Plain data by content (with its types: True is not 1 here), the rest by identity, noted in ``kept``."""
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
