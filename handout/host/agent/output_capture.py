"""Handles what tasks print.

In this module, the output of a task is what the task writes to its two standard streams: standard output and standard
error. Each stream of a worker is a pipe to the agent. The agent finds out which task wrote which bytes, limits how many
of the bytes it sends to the controller, and keeps the last lines of standard error in case the task fails.

A task may print without end. The agent always reads the pipes, so that a task never waits for a slow link to the
controller. At most `MAX_UNSENT` bytes of each stream of a task wait to be sent. If there are more, the agent drops and
counts the oldest lines.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Callable

#: A worker writes a mark before each piece of a task's output. The mark begins with the worker's nonce: random bytes,
#: so that nothing else in the stream looks like a mark. The nonce is followed by three values in this format: the low
#: half of the task's number, the high half of the task's number, and the number of bytes in the piece.
_MARK = struct.Struct("<QQI")
_HALF_BITS = 64
NONCE_SIZE = 16
MARK_SIZE = NONCE_SIZE + _MARK.size

#: At most this many bytes of one stream of a task wait to be sent.
MAX_UNSENT = 64 << 10
#: The agent keeps the last bytes of a task's standard error, up to this many, in case the task fails.
_TAIL_BYTES = 16 << 10
#: The report of a task's failure contains at most this many lines of standard error.
TAIL_LINES = 20
#: The report about a crashed or killed task contains at most this many lines of its stack.
_STACK_LINES = 40
#: Matches the line with which faulthandler begins the stack of a thread. This module of Python prints the stacks of all
#: threads when a process crashes.
_THREAD = re.compile(r"(Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):$")
#: A line of a stack that begins with one of these strings shows a call in the worker's own code.
_OWN_FRAMES = ('  File "handout/host/', '  File "handout/serialization/')
#: While a task runs, the agent sends at most this many bytes per second of each of its streams.
_RATE = 256 << 10
#: While a task runs, at least this many seconds pass between two messages with output of the same stream.
_INTERVAL_S = 0.05
#: The agent sends whole lines. While a task runs, it sends an unfinished last line only if more than this many bytes of
#: the stream wait to be sent.
_MAX_PARTIAL_LINE = 8 << 10
_READ_SIZE = 256 << 10


def new_nonce() -> bytes:
    """Return a new nonce for one worker: a NUL byte, which text does not contain, then random bytes other than NUL."""
    return b"\0" + bytes(byte or 1 for byte in os.urandom(NONCE_SIZE - 1))


def mark(nonce: bytes, number: int, size: int) -> bytes:
    """Return the mark that a worker writes before ``size`` bytes of output of task ``number``."""
    return nonce + _MARK.pack(number & (1 << _HALF_BITS) - 1, number >> _HALF_BITS, size)


class Pipe:
    """Reads one standard stream of one worker. The marks in the stream say which task wrote which bytes.

    C code and subprocesses bypass Python's streams, so there are no marks before their output. The agent assigns such
    output to the running task.

    Args:
        fd: The end of the pipe that is read.
        nonce: The beginning of the worker's marks.
        running: Returns the number of the task that runs now. Returns 0 if the worker has a shared loop, in which it
            may run several tasks at the same time.
    """

    def __init__(self, fd: int, nonce: bytes, running: Callable[[], int]) -> None:
        self.fd = fd
        self._nonce = nonce
        self._running = running
        #: The number of the task that the last mark names.
        self._owner = 0
        #: How many of the next bytes belong to the piece of output that the last mark announces.
        self._owned_bytes = 0
        #: The beginning of a mark, if the rest of the mark has not arrived yet.
        self._partial_mark = b""
        os.set_blocking(fd, False)

    def read(self) -> list[tuple[int, bytes]] | None:
        """Read new output.

        Returns:
            Pairs of the number of a task and the bytes that this task wrote. None at the end of the stream.
        """
        running = self._running()
        try:
            data = os.read(self.fd, _READ_SIZE)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        return list(self._split(self._partial_mark + data if self._partial_mark else data, running))

    def _split(self, data: bytes, running: int) -> Iterator[tuple[int, bytes]]:
        self._partial_mark = b""
        start, end = 0, len(data)
        while start < end:
            if self._owned_bytes:
                piece = data[start : start + self._owned_bytes]
                self._owned_bytes -= len(piece)
                start += len(piece)
                yield self._owner, piece
                continue
            next_mark = data.find(self._nonce, start)
            if next_mark < 0:
                next_mark = self._find_partial_mark(data, start)
            if next_mark > start:
                # These bytes have no mark. If the worker has a shared loop, the agent cannot know which task wrote the
                # bytes, and assigns them to the task that the last mark names.
                yield running or self._owner, data[start:next_mark]
            if next_mark == end:
                return
            if end - next_mark < MARK_SIZE:
                self._partial_mark = data[next_mark:]
                return
            low, high, self._owned_bytes = _MARK.unpack_from(data, next_mark + NONCE_SIZE)
            self._owner = high << _HALF_BITS | low
            start = next_mark + MARK_SIZE

    def _find_partial_mark(self, data: bytes, start: int) -> int:
        """If the data ends within a nonce, return where that nonce begins. Otherwise return the length of the data."""
        # Only the first byte of a nonce is NUL, and text contains no NUL.
        at = data.rfind(b"\0", max(start, len(data) - NONCE_SIZE + 1))
        if at >= 0 and self._nonce.startswith(data[at:]):
            return at
        return len(data)

    def close(self) -> None:
        """Close the stream."""
        os.close(self.fd)


def split_stack(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the lines that a task wrote from the stacks that faulthandler wrote.

    Returns:
        The lines that the task wrote, and the lines of the stacks. The stack of the current thread comes first. In each
        stack, the worker's own code, which called the task, is left out.
    """
    written: list[str] = []
    current: list[str] = []
    others: list[str] = []
    block: list[str] | None = None
    skipping = False
    for line in lines:
        if _THREAD.match(line):
            block = current if line.startswith("Current") else others
            skipping = False
            block.append(line)
        elif block is not None and line.startswith("  "):
            skipping = skipping or line.startswith(_OWN_FRAMES)
            if not skipping:
                block.append(line)
        elif line or block is None:
            block = None
            written.append(line)
    while written and not written[-1].strip():
        written.pop()
    return written, current + others


class TaskOutput:
    """The part of a task's output to one standard stream that the agent has not sent yet."""

    __slots__ = ("attempt_id", "dropped", "fd", "send_at", "tail", "text")

    def __init__(self, attempt_id: int, fd: int) -> None:
        self.attempt_id = attempt_id
        self.fd = fd
        self.text = bytearray()
        #: The last bytes that the task wrote to its standard error. They stay here after they have been sent.
        self.tail = bytearray()
        #: How many lines the agent has dropped since the last message with output of this stream.
        self.dropped = 0
        #: While the task runs, the agent sends no further output before this time, in seconds of the monotonic clock.
        self.send_at = 0.0

    def add(self, data: bytes) -> None:
        """Add output. If more than `MAX_UNSENT` bytes wait, drop the oldest lines."""
        self.text += data
        if self.fd == 2:
            self.tail += data[-_TAIL_BYTES:]
            del self.tail[:-_TAIL_BYTES]
        self.shorten(MAX_UNSENT)

    def shorten(self, nbytes: int) -> None:
        """Drop the oldest lines until at most ``nbytes`` bytes are left."""
        excess = len(self.text) - nbytes
        if excess > 0:
            end = self.text.find(b"\n", excess) + 1 or len(self.text)
            self.dropped += self.text.count(b"\n", 0, end) or 1
            del self.text[:end]

    def take(self, now: float, ended: bool) -> bytes | None:
        """Remove and return the output to send now; None if there is nothing to send yet.

        Args:
            now: Seconds of the monotonic clock.
            ended: True if the task has ended. The method then returns all output, including an unfinished last line.
        """
        if not ended and now < self.send_at:
            return None
        end = len(self.text) if ended or len(self.text) > _MAX_PARTIAL_LINE else self.text.rfind(b"\n") + 1
        if not end and not self.dropped:
            return None
        data = bytes(self.text[:end])
        del self.text[:end]
        self.send_at = now + max(_INTERVAL_S, len(data) / _RATE)
        return data

    def last_lines(self) -> tuple[list[str], list[str]]:
        """Return the last lines that the task wrote, and the lines of the task's stack if faulthandler wrote one.

        In the stack, the innermost call comes first.
        """
        written, stack = split_stack(self.tail.decode("utf-8", "replace").splitlines())
        return written[-TAIL_LINES:], stack[:_STACK_LINES]


class Logs:
    """The unsent output of all tasks on this host.

    Args:
        send: Sends output to the controller. It is called with the attempt id, the descriptor of the stream (1 or 2),
            the number of lines that were dropped before this output, and the bytes.
        room: Returns True while the link to the controller has room for more output.
    """

    def __init__(self, send: Callable[[int, int, int, bytes], None], room: Callable[[], bool]) -> None:
        self._send = send
        self.room = room
        self._outputs: dict[tuple[int, int], TaskOutput] = {}

    @property
    def waiting(self) -> bool:
        """True if `flush` may have output to send: a task has printed, and `end` was not called for this task yet."""
        return bool(self._outputs)

    def has(self, attempt_id: int) -> bool:
        """Return True if a task has printed, and `end` was not called for this task yet."""
        return (attempt_id, 1) in self._outputs or (attempt_id, 2) in self._outputs

    def add(self, attempt_id: int, fd: int, data: bytes) -> None:
        """Add output of a task."""
        output = self._outputs.get((attempt_id, fd))
        if output is None:
            output = self._outputs[attempt_id, fd] = TaskOutput(attempt_id, fd)
        output.add(data)

    def tail(self, attempt_id: int) -> tuple[list[str], list[str]]:
        """Return the last lines of a task's standard error, and the lines of a stack if faulthandler wrote one."""
        output = self._outputs.get((attempt_id, 2))
        return output.last_lines() if output is not None else ([], [])

    def shorten(self, attempt_id: int, nbytes: int) -> None:
        """Of the unsent output of each stream of a task, keep at most the last ``nbytes`` bytes, to save memory."""
        for fd in (1, 2):
            output = self._outputs.get((attempt_id, fd))
            if output is not None:
                output.shorten(nbytes)

    def discard(self, attempt_id: int) -> None:
        """Drop the output of a task that did not run."""
        for fd in (1, 2):
            self._outputs.pop((attempt_id, fd), None)

    def end(self, attempt_id: int, now: float) -> None:
        """Send all unsent output of a task that has ended, and forget the task."""
        for fd in (1, 2):
            output = self._outputs.pop((attempt_id, fd), None)
            if output is not None:
                self._emit(output, now, True)

    def flush(self, now: float) -> None:
        """Send the output that is due now, as long as the link has room."""
        for output in self._outputs.values():
            if (output.text or output.dropped) and self.room():
                self._emit(output, now, False)

    def _emit(self, output: TaskOutput, now: float, ended: bool) -> None:
        data = output.take(now, ended)
        if data is not None and (data or output.dropped):
            self._send(output.attempt_id, output.fd, output.dropped, data)
            output.dropped = 0
