"""The functions that every system runs, and the shape of the figures."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence


def nothing(x: int) -> int:
    """A task that costs nothing."""
    return x


def successor(x: int) -> int:
    """A link of a chain."""
    return x + 1


def total(parts: Sequence[int]) -> int:
    """A fan-in."""
    return sum(parts)


def blob(size: int) -> bytes:
    """Bytes to carry, made where the task runs; not all alike, so that nothing is gained by compressing."""
    return os.urandom(1 << 20) * (size >> 20)


def length(data: bytes) -> int:
    """Takes bytes, gives back next to nothing."""
    return len(data)


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median(work: Callable[[], float], repeats: int) -> float:
    """The median of several measurements."""
    return statistics.median(work() for _ in range(repeats))
