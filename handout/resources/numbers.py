"""Checks of numbers that the caller gives. True and False are no numbers here, although they are ints in Python."""

from __future__ import annotations

from math import isfinite
from typing import Any

__all__ = ["is_finite_number", "is_whole"]


def is_whole(value: Any) -> bool:
    """Return True if the value is an int."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite_number(value: Any) -> bool:
    """Return True if the value is a float that is finite, or an int that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:
        return False
