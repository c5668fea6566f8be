"""The standard output and standard error of a worker, which are pipes to the agent.

Before each piece of text that a task prints, the worker writes a mark that names the task. C code and subprocesses
bypass Python's streams, so there is no mark before what they print. The agent assigns such text to the running task.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, Callable

from handout.host.agent.output_capture import mark


class MarkedPipe(io.RawIOBase):
    """A raw stream that writes to a pipe. Before each piece of data, the stream writes a mark.

    The mark contains the number of the task that printed the data, and the size of the data.

    Args:
        fd: Descriptor of the pipe.
        nonce: The random bytes that each mark begins with.
        writing_task: Returns the number of the task that writes.
    """

    def __init__(self, fd: int, nonce: bytes, writing_task: Callable[[], int]) -> None:
        super().__init__()
        self._fd = fd
        self._nonce = nonce
        self._writing_task = writing_task

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the pipe, for code that bypasses this object."""
        return self._fd

    def isatty(self) -> bool:
        """Return False, because this is a pipe."""
        return False

    def write(self, data: Any) -> int:
        """Write all of the data, and return the size of the data in bytes."""
        view = memoryview(data).cast("B")
        size = len(view)
        head = mark(self._nonce, self._writing_task(), size)
        # One call writes the mark and the data, so that a process that a task has forked does not write between them.
        written = os.writev(self._fd, [head, view])
        if written < len(head) + size:
            # A signal interrupted the call after it had written a part of the bytes.
            rest = memoryview(head + bytes(view))[written:]
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        return size


class Streams:
    """Installs ``sys.stdout`` and ``sys.stderr`` of a worker, and installs new ones if a task has replaced them.

    Args:
        nonce: The random bytes that each mark begins with.
        writing_task: Returns the number of the task that writes.
    """

    def __init__(self, nonce: bytes, writing_task: Callable[[], int]) -> None:
        self._nonce = nonce
        self._writing_task = writing_task
        sys.stdin = sys.__stdin__ = open(os.devnull, encoding="utf-8")  # type: ignore[misc]
        self._install()

    def _make(self, fd: int) -> io.TextIOWrapper:
        buffered = io.BufferedWriter(MarkedPipe(fd, self._nonce, self._writing_task), 8192)
        return io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace", line_buffering=True)

    def _install(self) -> None:
        self._out, self._err = self._make(1), self._make(2)
        sys.stdout = sys.__stdout__ = self._out  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self._err  # type: ignore[misc]

    def flush(self) -> None:
        """Write what a task left in the buffers. Install new streams if the task has replaced or closed a stream."""
        out, err = sys.stdout, sys.stderr
        try:
            out.flush()
            err.flush()
        except (OSError, ValueError, AttributeError):
            pass
        if out is not self._out or err is not self._err or self._out.closed or self._err.closed:
            try:
                self._out.flush()
                self._err.flush()
            except (OSError, ValueError):
                pass
            self._install()
