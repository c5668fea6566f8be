"""Cuts the work that grows with a graph into slices, so that the event loop can do other work between two slices.

The controller must answer its hosts while it prepares or ends a large run. If it does not answer for
``host_timeout_s``, the hosts take it for dead, and end the tasks of all its runs. So a function whose work grows with
the graph is a generator. It yields after each slice of its work, and returns its result at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from itertools import islice
from typing import Any, Final, TypeAlias, TypeVar

__all__ = ["SLICE", "Slices", "at_once", "column", "empty", "is_slice_end"]

T = TypeVar("T")
A = TypeVar("A")

Slices: TypeAlias = Generator[None, None, T]
"""Work that yields between two slices, and returns its result."""

#: A generator yields after this many tasks or objects, or more often. Handling 256 tasks takes less than 2 ms of CPU
#: time in the slowest of these generators, so that a caller can put several such slices into one of 10 ms.
SLICE: Final = 256
#: `column` makes this many entries in a slice. An entry takes much less time than a task.
_ENTRIES: Final = 8 * SLICE
#: `empty` removes this many entries in a slice.
_REMOVED: Final = 1 << 15


def is_slice_end(number: int) -> bool:
    """Return True if a loop that counts tasks or objects from 0 should yield now. A short loop never yields."""
    return number % SLICE == SLICE - 1


def at_once(work: Slices[T]) -> T:
    """Do all of the work without a pause, and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def column(make: Callable[[A], T], items: Iterable[A]) -> Slices[list[T]]:
    """Return a list with ``make(item)`` for each item. ``make`` should take less than a microsecond."""
    made: list[T] = []
    rest = iter(items)
    while part := [make(item) for item in islice(rest, _ENTRIES)]:
        made += part
        yield
    return made


def empty(entries: list[Any]) -> Slices[None]:
    """Remove all entries of a list, because to free the memory of a long list at once takes long."""
    while entries:
        del entries[-_REMOVED:]
        yield
