"""Checks what a task reports with ``handout.current().report``, and makes JSON of it.

JSON has no numbers for infinity and "not a number" (NaN), which a task may well report as its loss. Such a number
travels as a list of one text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Union

__all__ = ["MAX_BYTES", "Fact", "check_facts", "check_progress", "from_json", "to_json"]

Fact = Union[str, float, bool, None]

#: The names and the texts of one report have at most this many bytes together. A report is for people to look at, and
#: ten of them may travel for each task and second.
MAX_BYTES = 8 << 10
#: The size of a number, of True, of False or of None, for the sum that `MAX_BYTES` limits.
_SCALAR_BYTES = 8


def check_progress(progress: Any) -> float | None:
    """Return the progress as a `float`, or None.

    Raises:
        TypeError: The progress is not a number.
        ValueError: The progress is below 0, above 1, or no number (NaN).
    """
    if progress is None:
        return None
    kind = type(progress)  # not `isinstance`, which asks the value for its ``__class__``
    if issubclass(kind, bool) or not issubclass(kind, Real):
        raise TypeError(
            f"report() got a {kind.__name__} as its progress. The progress is a number from 0 to 1, such as "
            "report(done / total). Give other values names: report(loss=0.3)."
        )
    share = float(progress)
    if not 0.0 <= share <= 1.0:
        raise ValueError(
            f"report() got {share!r} as its progress. The progress is the share of the work that is done, from 0 to 1, "
            "such as report(done / total). Give a count a name instead: report(done=17)."
        )
    return share


def check_facts(facts: Mapping[str, Any]) -> dict[str, Fact]:
    """Return facts whose values are exactly of the types `str`, `int`, `float`, `bool` or None.

    Raises:
        TypeError: A fact is not one value.
        ValueError: The facts are too large.
    """
    checked: dict[str, Fact] = {}
    nbytes = 0
    for name, value in facts.items():
        fact = _plain(name, value)
        checked[name] = fact
        nbytes += len(name.encode("utf-8", "replace"))
        nbytes += len(fact.encode("utf-8", "replace")) if type(fact) is str else _SCALAR_BYTES
    if nbytes > MAX_BYTES:
        raise ValueError(
            f"report() got facts of {nbytes} bytes, but the facts of one report may have at most {MAX_BYTES} bytes. "
            "Print what is longer, or return it."
        )
    return checked


def _plain(name: str, value: Any) -> Fact:
    kind = type(value)
    if value is None or kind is bool:
        return value  # type: ignore[no-any-return]
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, int):
        return _small(int.__int__(value))
    if issubclass(kind, Real):  # NumPy registers its numbers with these classes
        return _small(int(value)) if issubclass(kind, Integral) else float(value)
    raise TypeError(
        f"report() got a {kind.__name__} as the fact {name!r}. A fact is one value: a str, a float, an int, a bool or "
        f"None. Give one number of it, such as report({name}=float(x)), and return the rest as the result."
    )


def _small(value: int) -> float:
    """Return an integer, or the nearest float if other languages and displays would not take the integer."""
    if abs(value) < 1 << 53:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def to_json(facts: Mapping[str, Fact]) -> dict[str, Any]:
    """Return checked facts as values of JSON."""
    return {name: value if _is_json(value) else [repr(value)] for name, value in facts.items()}


def _is_json(value: Fact) -> bool:
    return type(value) is not float or math.isfinite(value)


def from_json(facts: Any) -> dict[str, Fact]:
    """Return the facts that another process has sent, as `to_json` has made them.

    Raises:
        TypeError: A fact is not one value.
        ValueError: The facts are too large, or not facts.
    """
    if not isinstance(facts, dict):
        raise ValueError("the facts of a report are not a mapping")
    return check_facts({name: _number(value) if isinstance(value, list) else value for name, value in facts.items()})


def _number(value: list[Any]) -> float:
    (text,) = value
    number = float(text)
    if math.isfinite(number):
        raise ValueError(f"the fact {text!r} is not infinite")
    return number
