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
from handout.host.worker.descriptors import identity

#: The encoding of the standard streams, and what happens to text that cannot be encoded.
_ENCODING, _ERRORS = "utf-8", "backslashreplace"


class MarkedPipe(io.RawIOBase):
    """A raw stream that writes to a pipe. Before each piece of data, the stream writes a mark.

    The mark contains the number of the task that printed the data, and the size of the data.

    Args:
        fd: Descriptor of the pipe.
        nonce: The random bytes that each mark begins with.
        writing_task: Returns the number of the task that writes.
        spare: A copy of the descriptor, to which the stream writes if ``fd`` does not refer to the pipe any more. None:
            the stream then writes to ``fd``, but without a mark. A task that has redirected its standard output with
            `os.dup2` expects this, and its file must contain only what it has printed.
    """

    def __init__(self, fd: int, nonce: bytes, writing_task: Callable[[], int], spare: int | None = None) -> None:
        super().__init__()
        self._fd = fd
        self._nonce = nonce
        self._writing_task = writing_task
        self._spare = spare
        self._file = identity(fd)

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
        fd, size = self._fd, len(view)
        head = mark(self._nonce, self._writing_task(), size)
        if not self._is_own():
            if self._spare is None:
                head = b""
            else:
                fd = self._spare
        # One call writes the mark and the data, so that a process that a task has forked does not write between them.
        written = _write(fd, [head, view])
        if written < len(head) + size:
            # A signal interrupted the call after it had written a part of the bytes.
            rest = memoryview(head + bytes(view))[written:]
            while rest:
                rest = rest[_write(fd, [rest]) :]
        return size

    def _is_own(self) -> bool:
        """Return True if the descriptor refers to the pipe. A task may have closed it, and opened a file instead."""
        try:
            return identity(self._fd) == self._file
        except OSError:
            return False


def _write(fd: int, pieces: list[Any]) -> int:
    """Write once, and return how many bytes were written. Wait while the pipe is full."""
    while True:
        try:
            return os.writev(fd, pieces)
        except BlockingIOError:
            os.set_blocking(fd, True)  # a task has changed this; `print` would raise an error


class Streams:
    """Installs the standard streams of a worker, and installs new ones if a task has replaced or closed one of them.

    Args:
        nonce: The random bytes that each mark begins with.
        writing_task: Returns the number of the task that writes.
        spares: Copies of the descriptors 1 and 2; see `MarkedPipe`.
    """

    def __init__(
        self, nonce: bytes, writing_task: Callable[[], int], spares: tuple[int, int] | tuple[None, None] = (None, None)
    ) -> None:
        self._nonce = nonce
        self._writing_task = writing_task
        self._spares = spares
        self._install()

    def _make(self, fd: int) -> io.TextIOWrapper:
        pipe = MarkedPipe(fd, self._nonce, self._writing_task, self._spares[fd - 1])
        buffered = io.BufferedWriter(pipe, 8192)
        return io.TextIOWrapper(buffered, encoding=_ENCODING, errors=_ERRORS, line_buffering=True)

    def _install(self) -> None:
        # The stream does not own the descriptor, so that a task that closes the stream leaves the descriptor open.
        self._in = open(0, encoding=_ENCODING, closefd=False)
        self._out, self._err = self._make(1), self._make(2)
        sys.stdin = sys.__stdin__ = self._in  # type: ignore[misc]
        sys.stdout = sys.__stdout__ = self._out  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self._err  # type: ignore[misc]

    def _are_installed(self) -> bool:
        """Return True if no stream was replaced, closed or changed."""
        try:
            return (
                sys.stdout is self._out is sys.__stdout__
                and sys.stderr is self._err is sys.__stderr__
                and sys.stdin is self._in is sys.__stdin__
                and _is_unchanged(self._out)
                and _is_unchanged(self._err)
                and not self._in.closed
            )
        except (AttributeError, ValueError):
            return False  # a name was deleted, or the buffer of a stream was detached

    def flush_replaced(self) -> None:
        """Write what a task left in a stream of its own. This calls user code."""
        for name, own in (("stdout", self._out), ("stderr", self._err)):
            stream = getattr(sys, name, None)
            if stream is not own:
                try:
                    stream.flush()  # type: ignore[union-attr]
                except BaseException:  # user code may raise anything, and the task has ended
                    pass

    def flush(self) -> None:
        """Write what tasks left in the buffers."""
        for stream in (self._out, self._err):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass  # the task has closed the stream, or its descriptor

    def restore(self) -> None:
        """Write what tasks left in the buffers. Install new streams if a task has replaced, closed or changed one."""
        self.flush()
        if not self._are_installed():
            self._install()


def _is_unchanged(stream: io.TextIOWrapper) -> bool:
    return not stream.closed and stream.encoding == _ENCODING and stream.errors == _ERRORS and stream.line_buffering
