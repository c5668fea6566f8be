"""A queue of bounded size, for events and for the lines that tasks print."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

__all__ = ["BoundedBuffer"]

T = TypeVar("T")


class BoundedBuffer(Generic[T]):
    """A queue that drops its oldest items when it is full, and counts the dropped ones.

    Args:
        most: The largest sum of the sizes of all items that the queue may hold.
        size: Returns the size of an item. By default each item has size 1.
        count: Returns by how much `dropped` grows if an item is dropped. By default 1.
    """

    __slots__ = ("_count", "_most", "_size", "dropped", "items", "total")

    def __init__(
        self, most: int, size: Callable[[T], int] = lambda _: 1, count: Callable[[T], int] = lambda _: 1
    ) -> None:
        self._most = most
        self._size = size
        self._count = count
        #: The items, oldest first.
        self.items: deque[T] = deque()
        #: The sum of the sizes of all items.
        self.total = 0
        #: The sum of ``count`` of the items that were dropped since the owner of the buffer last set this number to 0.
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self.items or self.dropped)

    def extend(self, items: Iterable[T]) -> None:
        """Append items. Then drop the oldest items until the sum of all sizes is at most ``most``."""
        for item in items:
            self.items.append(item)
            self.total += self._size(item)
        while self.total > self._most and self.items:
            self.dropped += self._count(self.take())

    def take(self) -> T:
        """Remove and return the oldest item."""
        item = self.items.popleft()
        self.total -= self._size(item)
        return item
