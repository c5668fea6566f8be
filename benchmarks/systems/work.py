"""The functions that every system runs, and the shape of the figures."""

from __future__ import annotations

import os
import pickle
import statistics
import time
from collections.abc import Callable, Sequence
from typing import SupportsIndex


def nothing(x: int) -> int:
    """A task that costs nothing."""
    return x


def successor(x: int) -> int:
    """A link of a chain."""
    return x + 1


def total(parts: Sequence[int]) -> int:
    """A fan-in."""
    return sum(parts)


class Array:
    """What numpy's arrays are to a pickler: an object whose buffer need not be copied to make it anew."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type[Array], tuple[object]]:
        # Some peers pickle with an older protocol here or there; numpy, too, falls back to a copy then.
        return Array, (pickle.PickleBuffer(self.data) if protocol.__index__() >= 5 else bytes(self.data),)

    def __len__(self) -> int:
        return len(self.data)


def blob(size: int) -> bytes:
    """Bytes to carry, made where the task runs; not all alike, so that nothing is gained by compressing."""
    return os.urandom(1 << 20) * (size >> 20)


def array(size: int) -> Array:
    """The same as an array."""
    return Array(blob(size))


def length(data: bytes | Array) -> int:
    """Takes bytes, gives back next to nothing."""
    return len(data)


#: What the bytes both ways are carried as, and by which function they are made.
KINDS: dict[str, Callable[[int], bytes | Array]] = {"bytes": blob, "array": array}


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median(work: Callable[[], float], repeats: int) -> float:
    """The median of several measurements."""
    return statistics.median(work() for _ in range(repeats))
