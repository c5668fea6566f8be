"""The rules of the built-in allocators, as the core uses them to rank the hosts that have room for a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from handout.scheduler.state.hosts import HostRecord

__all__ = ["STRATEGIES", "Strategy"]


@dataclass(frozen=True, slots=True)
class Strategy:
    """The rule of one built-in allocator. The async callable in `handout.allocators` has the same name and rule."""

    #: Returns the rank of a host. The host with the lowest rank is tried first.
    rank: Callable[[HostRecord], float]
    #: True if the time that it takes to copy a task's inputs to a host counts more than the host's rank.
    weighs_bytes: bool = False


def _index(host: HostRecord) -> float:
    return float(host.index)


STRATEGIES: Final = {
    "first_available": Strategy(_index),
    "load_balanced": Strategy(HostRecord.load),
    "locality": Strategy(HostRecord.load, weighs_bytes=True),
}
