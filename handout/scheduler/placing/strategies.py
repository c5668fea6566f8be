"""The built-in allocators as the core runs them: how each ranks the hosts that have room for a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from handout.scheduler.state.hosts import HostRecord

__all__ = ["STRATEGIES", "Strategy"]


@dataclass(frozen=True, slots=True)
class Strategy:
    """The rule of one built-in allocator. `handout.allocators` has the rule as an async callable of the same name."""

    #: Rank of a host for any task, lowest first.
    rank: Callable[[HostRecord], float]
    #: True if the time to copy a task's inputs to a host counts before the rank.
    weighs_bytes: bool = False


def _index(host: HostRecord) -> float:
    return float(host.index)


STRATEGIES: Final = {
    "first_available": Strategy(_index),
    "load_balanced": Strategy(HostRecord.load),
    "locality": Strategy(HostRecord.load, weighs_bytes=True),
}
