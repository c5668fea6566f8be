"""Warns of a keyword argument that looks like a misspelt option, and goes to a function that takes any keyword."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Iterable

from handout.graph.function_options import AMOUNTS, OPTION_NAMES
from handout.resources.did_you_mean import nearest_name

__all__ = ["warn_of_near_options"]


def warn_of_near_options(name: str, keywords: Iterable[str]) -> None:
    """Warn of keywords that `Graph.add` passes to a function, but that may be meant for `Graph.add`.

    The warning shows the line of the program that called Handout.

    Args:
        name: The name of the function.
        keywords: The keywords that go to the function, without those that are names of its parameters.
    """
    for keyword in keywords:
        if instead := _instead_of(keyword):
            text = (
                f"graph.add passes {keyword}= to {name!r}, which takes any keyword argument. "
                f"Did you mean {instead}? If the function takes {keyword}=, bind it without this warning: "
                f"functools.partial({name}, {keyword}=...)."
            )
            warnings.warn(text, UserWarning, stacklevel=_frames_to_the_program())


@functools.lru_cache(1024)  # comparing the spellings takes 50 us
def _instead_of(keyword: str) -> str:
    if keyword in AMOUNTS:
        return f"cost={{{keyword!r}: ...}}"
    near = nearest_name(keyword, OPTION_NAMES)
    return f"the option {near}=" if near else ""


def _frames_to_the_program() -> int:
    """Return the ``stacklevel`` with which a warning shows the line of the program that called Handout."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "handout":
        level, frame = level + 1, frame.f_back
    return level
