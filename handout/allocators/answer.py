"""Reads the answers of allocators, which are the caller's code and may return anything."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite, nan
from numbers import Real
from typing import Any

from handout.errors import AllocatorError

__all__ = ["named", "read_answer", "read_pause"]


def read_answer(answer: Any) -> tuple[dict[str, str], float | None]:
    """Return an allocator's placements, and the seconds after which the allocator wants to be asked again.

    Raises:
        AllocatorError: The answer is no mapping from ids to names of hosts.
    """
    if not isinstance(answer, Mapping):
        raise AllocatorError(
            f"the allocator returned {type(answer).__name__}, which is no mapping of tasks to hosts.",
            remedy="Return a draft, or a dict such as {task.id: host.name}.",
        )
    placements = dict(answer)
    for id, host in placements.items():
        if not isinstance(id, str) or not isinstance(host, str):
            raise AllocatorError(
                f"the allocator placed {named(id)} on {named(host)}, and one of these is no text.",
                remedy="Return ids of tasks with names of hosts, such as {task.id: host.name}.",
            )
    ask_again_s = getattr(answer, "ask_again_s", None)
    return placements, None if ask_again_s is None else read_pause(ask_again_s)


def read_pause(seconds: Any) -> float:
    """Return the number of seconds after which an allocator wants to be asked again, at least 0.

    Raises:
        AllocatorError: It is not a finite number.
    """
    try:
        pause_s = float(seconds) if isinstance(seconds, Real) else nan
    except OverflowError:
        pause_s = inf
    if not isfinite(pause_s):
        raise AllocatorError(
            f"the allocator wants to be asked again in {named(seconds)}, which is no finite number of seconds.",
            remedy="Give ask_again a finite number of seconds.",
        )
    return max(0.0, pause_s)


def named(value: Any) -> str:
    """Return a text or a float as a message shows it. Any other object is named by its type: its repr may be huge."""
    return repr(value) if isinstance(value, str | float) else f"an object of type {type(value).__name__}"
