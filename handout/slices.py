"""Cuts the work that grows with a graph into slices, so that the event loop can do other work between two slices.

The controller must answer its hosts while it prepares or ends a large run. If it does not answer for
``host_timeout_s``, the hosts take it for dead, and end the tasks of all its runs. So a function whose work grows with
the graph is a generator. It yields after each slice of its work, and returns its result at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable
from itertools import islice
from threading import Lock
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

__all__ = ["SLICE", "SharedWork", "Slices", "at_once", "column", "empty", "is_slice_end"]

T = TypeVar("T")
A = TypeVar("A")
K = TypeVar("K", bound=Hashable)

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


class SharedWork(Generic[K, T]):
    """Does work only once although several callers need its result at the same time, such as runs that begin together.

    Each caller does the next slices of the work when it has its turn. So no caller waits for another one, which may
    have been cancelled, or may get no turn while `at_once` runs.
    """

    def __init__(self) -> None:
        self._started: dict[K, _Started[T]] = {}

    def __contains__(self, key: K) -> bool:
        """Return True if the work with this key has begun and has not ended."""
        return key in self._started

    def do(self, key: K, work: Callable[[], Slices[T]]) -> Slices[T]:
        """Do the work, or the rest of the work with this key that another caller has begun. Return its result."""
        started = self._started.get(key)
        if started is None:
            started = self._started[key] = _Started(work())
        try:
            while not started.advance():
                yield
        finally:
            if self._started.get(key) is started:
                del self._started[key]
        return started.result()


class _Started(Generic[T]):
    """Work that has begun."""

    def __init__(self, work: Slices[T]) -> None:
        self._work = work
        #: Callers in several threads may advance the work.
        self._lock = Lock()
        self._has_ended = False
        self._result: T | None = None
        self._error: BaseException | None = None

    def advance(self) -> bool:
        """Do one slice. Return True if the work has ended."""
        with self._lock:
            if not self._has_ended:
                try:
                    next(self._work)
                except StopIteration as end:
                    self._has_ended, self._result = True, end.value
                except BaseException as error:  # also a KeyboardInterrupt, after which the work cannot go on
                    self._has_ended, self._error = True, error
            return self._has_ended

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return cast(T, self._result)
