"""Did you mean: the remedy for a mistyped name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

__all__ = ["nearest"]

#: Names compared at most: difflib takes microseconds for each, and a graph may have a million.
_COMPARED = 10_000


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names what was probably meant, or what there is."""
    names = sorted(islice(known, _COMPARED))
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    if not names:
        return "There are none."
    more = "" if len(names) <= 8 else f" and {len(names) - 8} more"
    return f"There are: {', '.join(names[:8])}{more}."
