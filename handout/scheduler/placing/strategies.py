"""The rules of the built-in allocators, as the core uses them to rank the hosts that have room for a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from handout.scheduler.state.hosts import HostRecord

__all__ = ["STRATEGIES", "Strategy"]


@dataclass(frozen=True, slots=True)
class Strategy:
    """The rule of one built-in allocator. `handout.allocators` has the same rule as an async callable."""

    #: Returns the rank of a host. The host of the lowest rank is tried first.
    rank: Callable[[HostRecord], float]
    #: True if the time to copy a task's inputs to the host counts more than the rank.
    weighs_bytes: bool = False


def _index(host: HostRecord) -> float:
    return float(host.index)


STRATEGIES: Final = {
    "first_available": Strategy(_index),
    "load_balanced": Strategy(HostRecord.load),
    "locality": Strategy(HostRecord.load, weighs_bytes=True),
}
