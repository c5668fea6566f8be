"""Turns amounts, written as text or numbers, into exact fixed-point integers, and back into text.

An amount is counted in *parts*: `PARTS` parts are one unit (one CPU core, one licence seat, one byte).
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Final

from handout.errors import CostError
from handout.resources.names import COUNTS
from handout.serialization.user_objects import brief

#: Number of parts in one unit.
PARTS: Final = 10_000
#: Number of bytes in a megabyte. A size without a unit is in megabytes.
MEGABYTE: Final = 10**6
#: Number of bytes in each unit of size, smallest unit first.
SIZE_UNITS: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "KiB": 2**10,
    "MB": 10**6,
    "MiB": 2**20,
    "GB": 10**9,
    "GiB": 2**30,
    "TB": 10**12,
    "TiB": 2**40,
    "PB": 10**15,
    "PiB": 2**50,
}

_NUMBER = re.compile(r"\s*([+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,2})?)\s*(.*?)\s*", re.DOTALL)
_UNITS_TEXT = "B, kB, MB, GB, TB, KiB, MiB, GiB or TiB"


def split_number(text: str) -> tuple[str, str] | None:
    """Return the number at the start of a text, and the text after it. None: there is no number at the start."""
    match = _NUMBER.fullmatch(text)
    return (match[1], match[2]) if match else None


def unit_hint(word: str) -> str:
    """Return the unit of size that was probably meant by ``word``, or "".

    A single letter can mean two units, such as ``GB`` and ``GiB``. The caller writes quotes around the hint, so a hint
    with two units contains the quotes between them.
    """
    if word in SIZE_UNITS:
        return ""
    shape = word.lower()
    if shape in ("k", "m", "g", "t", "p"):
        return f"{shape.upper() if shape != 'k' else 'k'}B' or '{shape.upper()}iB"
    return next((unit for unit in SIZE_UNITS if unit.lower() == shape), "")


def parse_amount(value: Any, *, size: bool, name: str = "amount") -> int:
    """Read an amount exactly.

    First, rounding errors of floats are removed, such as the error in ``0.1 * 3``. Then, what is smaller than one part
    is dropped, so that ``n`` shares of ``1/n`` always fit into one unit.

    Args:
        value: A number, or text such as ``"2 GB"`` or ``"0.5"``.
        size: True: the amount is a size. A number without a unit is in megabytes, and the result is in parts of a byte.
        name: Name of the amount, for error messages.

    Returns:
        The amount in parts; at least 1 for a value above 0.

    Raises:
        CostError: The value is not a number, is negative or not finite, or has an unknown unit.
    """
    parts, _ = read_amount(value, size=size, name=name)
    return parts


def read_amount(value: Any, *, size: bool, name: str = "amount") -> tuple[int, bool]:
    """Return an amount in parts, and True if the amount is a size. Any amount with a unit of size is a size."""
    if type(value) is int and value >= 0:
        return value * (MEGABYTE * PARTS if size else PARTS), size
    if isinstance(value, str | float):
        return _read_cached(value, size, name)
    return _to_parts(_exact(value, name, value), MEGABYTE if size else 1, name, value), size


@lru_cache(maxsize=1024)
def _read_cached(value: str | float, size: bool, name: str) -> tuple[int, bool]:
    """Read a text or float. Results are cached, because graphs repeat a few amounts and exact arithmetic is slow."""
    number, unit = value, MEGABYTE if size else 1
    if isinstance(value, str):
        split = split_number(value)
        if split is None:
            raise _refuse(name, value, "it is not an amount", f"Write a number{_or_size(size)}.")
        number, word = split
        if word:
            if name in COUNTS or word not in SIZE_UNITS:
                raise _refuse(name, value, f"its unit {word!r} is unknown", _unit_remedy(name, word, size))
            unit, size = SIZE_UNITS[word], True
    return _to_parts(_exact(number, name, value), unit, name, value), size


def _to_parts(exact: Fraction, unit: int, name: str, value: Any) -> int:
    if exact < 0:
        raise _refuse(name, value, "it is negative", "Write 0 or more.")
    return max(1, math.floor(round(exact * unit, 9) * PARTS)) if exact else 0


def format_amount(parts: int, *, size: bool, exact: bool = False) -> str:
    """Return an amount as text.

    Args:
        parts: The amount in parts.
        size: True: the amount is in bytes.
        exact: True: the text has all digits, so that reading it gives the same parts. False: the text may be rounded to
            four significant digits or to a whole number.
    """
    number = Fraction(parts, PARTS)
    if not size:
        return _decimal(number) if exact else _short(number)
    best = None
    for unit, nbytes in SIZE_UNITS.items():
        if unit == "KB" or not nbytes <= abs(number) < 10_000 * nbytes:
            continue
        scaled = number / nbytes
        if scaled * 1000 == int(scaled * 1000):
            best = f"{_decimal(scaled)} {unit}"
    if best is not None:
        return best
    if exact or abs(number) < 1000:
        return f"{_decimal(number)} B"
    unit = next(u for u in ("PB", "TB", "GB", "MB", "kB") if abs(number) >= SIZE_UNITS[u])
    return f"{_short(number / SIZE_UNITS[unit])} {unit}"


def _exact(number: Any, name: str, value: Any) -> Fraction:
    if isinstance(number, bool):
        raise _refuse(name, value, "True and False are not amounts", "Write a number.")
    try:
        if isinstance(number, Fraction | Decimal | str):
            return Fraction(number)
        if isinstance(number, Integral):
            return Fraction(int(number))
        if isinstance(number, Real):
            # repr() gives the shortest decimal form of a float, as the user wrote it. So 0.1 is exactly a tenth.
            return Fraction(repr(float(number)))
    except (ValueError, OverflowError):
        raise _refuse(name, value, "it is not finite", "Write a finite number.") from None
    raise _refuse(
        name,
        value,
        f"a value of type {type(value).__name__} is not an amount",
        "Write a number, or text such as '2 GB'.",
    )


def _decimal(number: Fraction) -> str:
    """Return a number with all its digits. There are finitely many, because its denominator divides a power of 10."""
    if number.denominator == 1:
        return str(number.numerator)
    return format(Decimal(number.numerator) / Decimal(number.denominator), "f").rstrip("0").rstrip(".")


def _short(number: Fraction) -> str:
    if number.denominator == 1 or abs(number) >= 10_000:
        return str(round(number))
    return f"{float(number):.4g}"


def _or_size(size: bool) -> str:
    return " of MB, or a size such as '2 GB'" if size else ""


def _unit_remedy(name: str, word: str, size: bool) -> str:
    if name in COUNTS:
        return f"{name} is counted, so write the number alone."
    if hint := unit_hint(word):
        return f"Did you mean '{hint}'?"
    return f"Units are {_UNITS_TEXT}." if size else "Write the number alone."


def _refuse(name: str, value: Any, why: str, remedy: str) -> CostError:
    return CostError(f"{name}={brief(value)} cannot be read: {why}.", remedy=remedy, name=name, value=value)
