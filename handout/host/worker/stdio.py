"""A worker's standard streams: pipes to the agent, with marks that tell which task wrote the bytes behind them.

Output that bypasses Python's streams (of C code, of subprocesses) has no mark: the agent takes it for the output of the
task that runs. A task that writes nothing costs nothing.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, Callable

from handout.host.agent.output_capture import mark


class Marked(io.RawIOBase):
    """Writes to a pipe, each behind a mark that tells the task and the size.

    Args:
        fd: The pipe.
        nonce: The beginning of the marks.
        owner: Returns the number of the task that writes.
    """

    def __init__(self, fd: int, nonce: bytes, owner: Callable[[], int]) -> None:
        super().__init__()
        self._fd = fd
        self._nonce = nonce
        self._owner = owner

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the pipe, for code that writes to it itself."""
        return self._fd

    def isatty(self) -> bool:
        """Return False: it is a pipe."""
        return False

    def write(self, data: Any) -> int:
        """Write all of the data; return its size in bytes."""
        view = memoryview(data).cast("B")
        size = len(view)
        head = mark(self._nonce, self._owner(), size)
        # In one call, so that the output of a fork of this process cannot come between the mark and its line.
        done = os.writev(self._fd, [head, view])
        if done < len(head) + size:
            # A signal interrupted the write.
            rest = memoryview(head + bytes(view))[done:]
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        return size


class Streams:
    """Replaces ``sys.stdout`` and ``sys.stderr`` of a worker, and restores them after each task.

    Args:
        nonce: The beginning of the marks.
        owner: Returns the number of the task that writes.
    """

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
        """Write what a task left in the buffers, and restore streams that it replaced or closed."""
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
