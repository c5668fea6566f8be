"""What the tasks of a run have printed: the last of it is kept, and those who follow a task hear the rest."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from handout.execution.bounded_buffer import BoundedBuffer

__all__ = ["LogReader", "RunLogs"]

#: Bytes of memory that the kept output of one task, of a whole run, and of one reader's backlog may take.
MAX_TASK = 256 << 10
MAX_RUN = 32 << 20
MAX_READER = 1 << 20
#: What keeping anything of a task costs by itself.
_OVERHEAD = 1 << 10


class LogReader:
    """One who follows the output of a task.

    Args:
        wake: Called when there is more.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._lines: BoundedBuffer[str] = BoundedBuffer(MAX_READER, sys.getsizeof)
        self._wake = wake

    def hear(self, lines: Sequence[str], dropped: int = 0) -> None:
        """More was printed; who is slow loses the oldest of it."""
        self._lines.dropped += dropped
        self._lines.extend(lines)
        self._wake()

    def take(self) -> Iterator[str]:
        """What has come and was not taken; where lines are missing, a line says how many."""
        lines = self._lines
        while lines:
            if lines.dropped:
                dropped, lines.dropped = lines.dropped, 0
                yield f"[{dropped} lines dropped]"
            else:
                yield lines.take()


class RunLogs:
    """The output of all tasks of one run."""

    def __init__(self) -> None:
        #: By task; the one that printed last stands last.
        self._kept: OrderedDict[int, BoundedBuffer[str]] = OrderedDict()
        #: Lines of those of which nothing is kept any more.
        self._forgotten: dict[int, int] = {}
        self._readers: dict[int, list[LogReader]] = {}
        #: Bytes kept for all tasks together.
        self.total = 0

    def add(self, task: int, lines: Sequence[str]) -> None:
        """A task has printed. Beyond the bound of the run, what the one printed that was silent for longest goes."""
        kept = self._kept.get(task)
        if kept is None:
            kept = self._kept[task] = BoundedBuffer(MAX_TASK, sys.getsizeof)
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

    def _forget_one(self) -> None:
        task, kept = self._kept.popitem(last=False)
        self.total -= kept.total + _OVERHEAD
        self._forgotten[task] = kept.dropped + len(kept.items)

    def follow(self, task: int, wake: Callable[[], None]) -> LogReader:
        """A reader of a task's output, from the oldest line that is kept; `unfollow` must come after."""
        reader = LogReader(wake)
        kept = self._kept.get(task)
        if kept is not None:
            reader.hear(list(kept.items), kept.dropped)
        elif task in self._forgotten:
            reader.hear((), self._forgotten[task])
        self._readers.setdefault(task, []).append(reader)
        return reader

    def unfollow(self, task: int, reader: LogReader) -> None:
        """The reader has had enough."""
        self._readers[task].remove(reader)
        if not self._readers[task]:
            del self._readers[task]
