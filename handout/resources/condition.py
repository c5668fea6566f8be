"""Conditions of a cost. A condition asks a host for something that a task needs but does not consume."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from handout.errors import CostError
from handout.resources.names import COUNTS, SIZES
from handout.resources.units import format_amount, read_amount

#: Operator: the host must offer True or a positive amount under the name.
HAS: Final = "has"
#: Operator: the host must offer the same text, or a set that contains the text.
IS: Final = "is"

_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_COMPARISON = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(.*?)\s*", re.DOTALL)
_VERSION = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition: what a host must offer under one name.

    Attributes:
        name: The capability.
        op: `HAS`, `IS`, or a comparison such as ``">="``.
        text: The right side of the condition, as the user wrote it. But for ``memory``, ``gpu_memory`` and ``disk``, it
            is the amount with a unit, even if the user wrote none.
        parts: The right side as an amount in parts (1/10,000 of a unit). None: the right side is not an amount.
        sized: True: the amount is a size in bytes.
    """

    name: str
    op: str
    text: str = ""
    parts: int | None = None
    sized: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        """Return the condition as messages show it: ``has_cuda``, ``camera=basler``, ``compute_capability>=8.6``."""
        if self.op == HAS:
            return self.name
        return f"{self.name}{'=' if self.op == IS else self.op}{self.text}"

    def met_by_amount(self, parts: int) -> bool:
        """Return True if a host that offers this amount meets the condition."""
        if self.op == HAS:
            return parts > 0
        if self.op == IS or self.parts is None:
            return False
        return _COMPARE[self.op](parts, self.parts)

    def met_by_text(self, said: str) -> bool:
        """Return True if this text, which the host offers alone or in a set, meets the condition."""
        if self.op == HAS:
            return False
        if self.op == IS:
            return said == self.text or (self.name == "python" and _same_python(said, self.text))
        if self.name == "python" and self.op in ("==", "!="):
            return _same_python(said, self.text) is (self.op == "==")
        ours, theirs = _version(self.text), _version(said)
        if ours is not None and theirs is not None:
            return _COMPARE[self.op](theirs, ours)
        # Text has no order, so only == and != apply to it.
        return self.op in ("==", "!=") and _COMPARE[self.op](said, self.text)


def read_conditions(name: str, text: str) -> tuple[Condition, ...] | None:
    """Return the comparisons in a text such as ``">=8.6"`` or ``">=3.10, <3.13"``, or None for other text.

    Raises:
        CostError: A comparison has no right side, or its right side cannot be compared in this way.
    """
    if _COMPARISON.fullmatch(text) is None:
        return None
    return tuple(_read_one(name, part, text) for part in text.split(","))


def _read_one(name: str, part: str, text: str) -> Condition:
    match = _COMPARISON.fullmatch(part)
    if match is None or not match[2]:
        raise _refuse(name, text, f"{part.strip()!r} is no comparison")
    op, operand = match[1], match[2]
    if name == "python":
        if _version(operand) is None:
            raise _refuse(name, text, f"{operand!r} is no version of Python")
        return Condition(name, op, operand)
    try:
        parts, sized = read_amount(operand, size=name in SIZES, name=name)
    except CostError as error:
        if name in SIZES or name in COUNTS:
            raise
        if op not in ("==", "!=") and _version(operand) is None:
            raise _refuse(name, text, f"{operand!r} is neither an amount nor a version") from error
        return Condition(name, op, operand)
    if name in SIZES:
        operand = format_amount(parts, size=True)
    return Condition(name, op, operand, parts, sized)


def _version(text: str) -> tuple[int, ...] | None:
    """Return a version as numbers, so that 3.9 comes before 3.10. None: the text is not a version.

    Trailing zeros are dropped, so that 2.0 equals 2.
    """
    if _VERSION.fullmatch(text) is None:
        return None
    pieces = [int(piece) for piece in text.split(".")]
    while len(pieces) > 1 and not pieces[-1]:
        pieces.pop()
    return tuple(pieces)


def _same_python(said: str, asked: str) -> bool:
    """Return True if a host's version of Python matches the version that a cost asks for, as 3.11.7 matches 3.11."""
    return said.split(".")[: asked.count(".") + 1] == asked.split(".")


def _refuse(name: str, text: str, why: str) -> CostError:
    return CostError(
        f"{name}={text!r} cannot be read: {why}.",
        remedy="Write a comparison such as '>=8.6', or several with commas between them.",
        name=name,
        value=text,
    )
