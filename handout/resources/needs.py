"""Reads the entries of a cost: amounts that a task consumes, and conditions that its host must meet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from numbers import Real
from typing import Any, NoReturn

from handout.errors import CostError
from handout.resources.condition import HAS, IS, Condition, read_conditions
from handout.resources.names import KNOWN_AMOUNTS, SIZES
from handout.resources.units import PARTS, read_amount, split_number, unit_hint
from handout.serialization.user_objects import brief

#: One entry of a cost: the name, the value, and True if the field of this name is declared as a number.
Entry = tuple[str, Any, bool]


@dataclass(frozen=True, slots=True)
class Needs:
    """The amounts and conditions that were read from one cost.

    Attributes:
        amounts: The amounts in parts (1/10,000 of a unit), by name, including zeros.
        sizes: The names of the amounts that are sizes.
        conditions: The conditions that a host must meet.
    """

    amounts: dict[str, int]
    sizes: frozenset[str]
    conditions: tuple[Condition, ...]


def read_needs(entries: Iterable[Entry]) -> Needs:
    """Read the entries of a cost. ``cpu_intensive`` must not be among them, because it is only a hint.

    Raises:
        CostError: An entry cannot be read. The message names the entry and says what to write.
    """
    amounts: dict[str, int] = {}
    sizes: set[str] = set()
    conditions: list[Condition] = []
    for name, value, numeric in entries:
        value = value.value if isinstance(value, Enum) else value
        known = name in KNOWN_AMOUNTS
        if value is None or value is False:
            if known:
                amounts[name] = 0
        elif value is True:
            conditions.append(_must_have(name, known))
        elif isinstance(value, str):
            read = _read_text(name, value, numeric or known)
            if isinstance(read, tuple):
                conditions.extend(read)
            else:
                amounts[name] = read.parts
                if read.sized:
                    sizes.add(name)
        elif isinstance(value, Real) or known:
            if name == "python":
                _refuse(name, value, "as numbers, versions 3.10 and 3.1 are equal", f'Write "{value}" in quotes.')
            amounts[name], sized = read_amount(value, size=name in SIZES, name=name)
            if sized:
                sizes.add(name)
        else:
            _refuse_type(name, value)
    _check_gpu(amounts.get("gpu", 0))
    return Needs(amounts, frozenset(sizes), tuple(conditions))


@dataclass(frozen=True, slots=True)
class _Amount:
    parts: int
    sized: bool


def _read_text(name: str, text: str, numeric: bool) -> _Amount | tuple[Condition, ...]:
    conditions = read_conditions(name, text)
    if conditions is not None:
        return conditions
    if numeric:
        return _Amount(*read_amount(text, size=name in SIZES, name=name))
    if not text.strip():
        _refuse(name, text, "the text is empty", "To ask for nothing, leave the name out or write None.")
    split = split_number(text)
    # From here on, only the text itself can tell that it is an amount. A number in quotes is text, such as a version or
    # the number of a rack. But a number with a unit of size is an amount, except under ``python``.
    if split is not None and split[1] and name != "python":
        parts = as_size(name, text, split[1])
        if parts is not None:
            return _Amount(parts, True)
    return (Condition(name, IS, text),)


def as_size(name: str, text: str, word: str) -> int | None:
    """Return the amount in a text such as ``"2 GB"``, in parts. None: the text has no unit of size.

    Args:
        name: Name of the amount, for error messages.
        text: A number, followed by ``word``.
        word: What may be a unit of size.

    Raises:
        CostError: ``word`` is a misspelled unit of size, such as ``gb``.
    """
    hint = unit_hint(word)
    if hint and len(word) > 1:
        _refuse(name, text, f"its unit {word!r} is unknown", f"Did you mean '{hint}'?")
    try:
        parts, sized = read_amount(text, size=False, name=name)
    except CostError:
        return None
    return parts if sized else None


def _must_have(name: str, known: bool) -> Condition:
    if known:
        _refuse(name, True, "an amount is needed", f"Write how much, or {name}='>0' for a host that has some.")
    if name == "python":
        _refuse(name, True, "a version is needed", "Write one, such as '3.11' or '>=3.10'.")
    return Condition(name, HAS)


def _check_gpu(parts: int) -> None:
    if parts > PARTS and parts % PARTS:
        _refuse(
            "gpu",
            parts / PARTS,
            "a task uses either a fraction of one device or whole devices",
            "Write a whole number, or a fraction below 1.",
        )


def _refuse_type(name: str, value: Any) -> NoReturn:
    if isinstance(value, list | tuple | set | frozenset):
        _refuse(
            name,
            value,
            "a cost asks for one value under each name",
            f"If any of several values will do, give a list of costs: [{{'{name}': ...}}, {{'{name}': ...}}].",
        )
    _refuse(
        name,
        value,
        f"a value of type {type(value).__name__} means nothing in a cost",
        "Write a number, a size such as '2 GB', a comparison such as '>=8.6', True, or text.",
    )


def _refuse(name: str, value: Any, why: str, remedy: str) -> NoReturn:
    raise CostError(f"{name}={brief(value)} cannot be read: {why}.", remedy=remedy, name=name, value=value)
