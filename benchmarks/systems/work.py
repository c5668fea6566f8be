"""The functions that every system runs, and the helpers that measure their time."""

from __future__ import annotations

import os
import pickle
import statistics
import time
from collections.abc import Callable, Sequence
from typing import SupportsIndex


def nothing(x: int) -> int:
    """Return the argument. This is the no-op task."""
    return x


def successor(x: int) -> int:
    """Return the next number. This is a task of a chain."""
    return x + 1


def total(parts: Sequence[int]) -> int:
    """Return the sum. This is a task that joins many results."""
    return sum(parts)


class Array:
    """An object that a pickler treats like a numpy array. With protocol 5, unpickling does not copy the buffer."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type[Array], tuple[object]]:
        # Some systems pickle with a protocol below 5. A numpy array then copies its buffer, so this object does it too.
        return Array, (pickle.PickleBuffer(self.data) if protocol.__index__() >= 5 else bytes(self.data),)

    def __len__(self) -> int:
        return len(self.data)


def blob(size: int) -> bytes:
    """Return bytes that repeat a random pattern of 1 MiB, which is too long for usual compression to gain anything."""
    return os.urandom(1 << 20) * (size >> 20)


def array(size: int) -> Array:
    """Return the bytes of `blob` as an array."""
    return Array(blob(size))


def length(data: bytes | Array) -> int:
    """Return the length. This is a task that takes many bytes and returns few."""
    return len(data)


#: The kinds of values that are sent in both directions, each with the function that makes it.
KINDS: dict[str, Callable[[int], bytes | Array]] = {"bytes": blob, "array": array}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median(work: Callable[[], float], repeats: int) -> float:
    """Call ``work`` several times, and return the median of the values that it returns."""
    return statistics.median(work() for _ in range(repeats))
