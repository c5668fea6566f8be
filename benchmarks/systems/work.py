"""The functions that every system runs, and how their time is measured."""

from __future__ import annotations

import os
import pickle
import statistics
import time
from collections.abc import Callable, Sequence
from typing import SupportsIndex


def nothing(x: int) -> int:
    """Return the argument: a task that costs nothing."""
    return x


def successor(x: int) -> int:
    """Return the next number: a link of a chain."""
    return x + 1


def total(parts: Sequence[int]) -> int:
    """Return the sum: a fan-in."""
    return sum(parts)


class Array:
    """Like an array of numpy to a pickler: an object whose buffer is not copied when it is unpickled."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type[Array], tuple[object]]:
        # Some systems pickle with an older protocol; numpy then falls back to a copy too.
        return Array, (pickle.PickleBuffer(self.data) if protocol.__index__() >= 5 else bytes(self.data),)

    def __len__(self) -> int:
        return len(self.data)


def blob(size: int) -> bytes:
    """Return bytes to carry, of a random pattern, so that compressing them gains nothing."""
    return os.urandom(1 << 20) * (size >> 20)


def array(size: int) -> Array:
    """Return the bytes of `blob` as an array."""
    return Array(blob(size))


def length(data: bytes | Array) -> int:
    """Return the length: takes many bytes and returns few."""
    return len(data)


#: The kinds of values that carry bytes in both directions, and the functions that make them.
KINDS: dict[str, Callable[[int], bytes | Array]] = {"bytes": blob, "array": array}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median(work: Callable[[], float], repeats: int) -> float:
    """Return the median of several measurements."""
    return statistics.median(work() for _ in range(repeats))
