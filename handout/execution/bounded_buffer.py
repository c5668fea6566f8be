"""The newest of what came, up to a bound: memory must not grow with what tasks print, or with what readers miss."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

__all__ = ["BoundedBuffer"]

T = TypeVar("T")


class BoundedBuffer(Generic[T]):
    """A queue that drops its oldest items when it is full, and counts them.

    Args:
        most: What the sizes of all items may add up to.
        size: The size of one; by default each counts as one.
    """

    __slots__ = ("_most", "_size", "dropped", "items", "total")

    def __init__(self, most: int, size: Callable[[T], int] = lambda _: 1) -> None:
        self._most = most
        self._size = size
        #: Oldest first.
        self.items: deque[T] = deque()
        self.total = 0
        #: Items that had to go since this was last set to 0.
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self.items or self.dropped)

    def extend(self, items: Iterable[T]) -> None:
        """Take items in; the oldest make room."""
        for item in items:
            self.items.append(item)
            self.total += self._size(item)
        while self.total > self._most and self.items:
            self.take()
            self.dropped += 1

    def take(self) -> T:
        """The oldest item, which is kept no more."""
        item = self.items.popleft()
        self.total -= self._size(item)
        return item
