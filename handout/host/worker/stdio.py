"""A worker's standard streams: pipes to the agent, with marks that say which task wrote what follows.

Silent tasks cost nothing. What goes past Python's streams (C code, subprocesses) carries no mark: the agent then
goes by what was running.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, Callable

from handout.host.agent.output_capture import mark


class Marked(io.RawIOBase):
    """Raw writes to a pipe, each behind a mark that says whose it is and how long."""

    def __init__(self, fd: int, nonce: bytes, owner: Callable[[], int]) -> None:
        super().__init__()
        self._fd = fd
        self._nonce = nonce
        #: Gives the number of the task that is writing.
        self._owner = owner

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The pipe, for those who write to it themselves."""
        return self._fd

    def isatty(self) -> bool:
        """It is a pipe."""
        return False

    def write(self, data: Any) -> int:
        """Write all of it."""
        view = memoryview(data).cast("B")
        size = len(view)
        head = mark(self._nonce, self._owner(), size)
        # Together: a line with its mark is written whole, or a copy of this process could come between.
        done = os.writev(self._fd, [head, view])
        if done < len(head) + size:
            # A signal came between.
            rest = memoryview(head + bytes(view))[done:]
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        return size


class Streams:
    """What ``sys.stdout`` and ``sys.stderr`` of a worker are."""

    def __init__(self, nonce: bytes, owner: Callable[[], int]) -> None:
        self._nonce = nonce
        self._owner = owner
        sys.stdin = sys.__stdin__ = open(os.devnull, encoding="utf-8")  # type: ignore[misc]
        self._install()

    def _make(self, fd: int) -> io.TextIOWrapper:
        buffered = io.BufferedWriter(Marked(fd, self._nonce, self._owner), 8192)
        return io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace", line_buffering=True)

    def _install(self) -> None:
        self._out, self._err = self._make(1), self._make(2)
        sys.stdout = sys.__stdout__ = self._out  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self._err  # type: ignore[misc]

    def flush(self) -> None:
        """Write out what a task left in them, and undo what it did to them."""
        out, err = sys.stdout, sys.stderr
        try:
            out.flush()
            err.flush()
        except (OSError, ValueError, AttributeError):
            pass
        if out is not self._out or err is not self._err or self._out.closed or self._err.closed:
            self._restore()

    def _restore(self) -> None:
        try:
            self._out.flush()
            self._err.flush()
        except (OSError, ValueError):
            pass
        self._install()
