"""The lines that a run's tasks print. The last lines are kept, and readers of a task get new lines as they arrive."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from handout.execution.bounded_buffer import BoundedBuffer

__all__ = ["LogReader", "RunLogs"]

#: Bytes of memory for the kept lines of one task.
MAX_TASK = 256 << 10
#: Bytes of memory for the kept lines of a whole run.
MAX_RUN = 32 << 20
#: Bytes of memory for the lines that one reader has not taken yet.
MAX_READER = 1 << 20
#: Bytes of memory that a task with kept lines takes, apart from the lines.
_OVERHEAD = 1 << 10


@dataclass(frozen=True, slots=True)
class Gap:
    """Takes the place of lines that the agent dropped, because the task printed faster than they could be sent."""

    lines: int


def _new_buffer(most: int) -> BoundedBuffer[str | Gap]:
    return BoundedBuffer(most, sys.getsizeof, _lines_of)


def _lines_of(item: str | Gap) -> int:
    return item.lines if isinstance(item, Gap) else 1


class LogReader:
    """The lines of one task that one reader has not taken yet.

    Args:
        wake: Called when lines have arrived.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._lines = _new_buffer(MAX_READER)
        self._wake = wake

    def hear(self, lines: Sequence[str | Gap], dropped: int = 0) -> None:
        """Add lines. If all lines take more than `MAX_READER` bytes, drop the oldest lines.

        Args:
            lines: The new lines.
            dropped: How many lines were dropped before the new lines.
        """
        self._lines.dropped += dropped
        self._lines.extend(lines)
        self._wake()

    def take(self) -> Iterator[str]:
        """Yield the lines that were not taken yet. A line ``[n lines dropped]`` takes the place of dropped lines."""
        lines = self._lines
        while lines:
            dropped, lines.dropped = lines.dropped, 0
            line = lines.take() if lines.items else None
            while isinstance(line, Gap):
                dropped += line.lines
                line = lines.take() if lines.items else None
            if dropped:
                yield f"[{dropped} line{'s' if dropped > 1 else ''} dropped]"
            if line is not None:
                yield line


class RunLogs:
    """The kept lines of all tasks of one run, and the readers of these tasks."""

    def __init__(self) -> None:
        #: The kept lines of each task. The tasks are ordered by the time of their last line, the earliest time first.
        self._kept: OrderedDict[int, BoundedBuffer[str | Gap]] = OrderedDict()
        #: For each task that has no kept lines any more, how many of its lines were dropped.
        self._forgotten: dict[int, int] = {}
        self._readers: dict[int, list[LogReader]] = {}
        #: Bytes kept for all tasks together.
        self.total = 0

    def add(self, task: int, lines: Sequence[str | Gap], dropped: int = 0) -> None:
        """Add lines of a task. If the lines of all tasks take more than `MAX_RUN` bytes, drop the lines of some tasks.

        The tasks whose last lines came earliest lose all their lines.

        Args:
            task: The task.
            lines: The new lines.
            dropped: How many lines the agent dropped before the new lines.
        """
        if dropped:
            lines = [Gap(dropped), *lines]
        kept = self._kept.get(task)
        if kept is None:
            kept = self._kept[task] = _new_buffer(MAX_TASK)
            kept.dropped = self._forgotten.pop(task, 0)
            self.total += _OVERHEAD
        self._kept.move_to_end(task)
        self.total -= kept.total
        kept.extend(lines)
        self.total += kept.total
        while self.total > MAX_RUN:
            self._forget_one()
        for reader in self._readers.get(task, ()):
            reader.hear(lines)

    def forget(self, task: int) -> None:
        """Drop the kept lines of a task whose lines no caller will read."""
        kept = self._kept.pop(task, None)
        if kept is not None:
            self.total -= kept.total + _OVERHEAD
        self._forgotten.pop(task, None)

    def _forget_one(self) -> None:
        task, kept = self._kept.popitem(last=False)
        self.total -= kept.total + _OVERHEAD
        self._forgotten[task] = kept.dropped + sum(map(_lines_of, kept.items))

    def follow(self, task: int, wake: Callable[[], None]) -> LogReader:
        """Return a reader that begins with the oldest kept line of a task. The caller must call `unfollow` later."""
        reader = LogReader(wake)
        kept = self._kept.get(task)
        if kept is not None:
            reader.hear(list(kept.items), kept.dropped)
        elif task in self._forgotten:
            reader.hear((), self._forgotten[task])
        self._readers.setdefault(task, []).append(reader)
        return reader

    def unfollow(self, task: int, reader: LogReader) -> None:
        """Remove a reader."""
        self._readers[task].remove(reader)
        if not self._readers[task]:
            del self._readers[task]
