"""Handles what tasks print: finds the task of each piece, limits the amount, and keeps the last lines for failures.

A task may print without end. The agent always reads the pipes, so that a task never waits for a slow link. At most
`MAX_UNSENT` bytes of a task's stream wait to be sent. If there are more, the agent drops and counts the oldest lines.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Callable

#: A mark in a pipe is the worker's nonce, then the number of a task (its low half first), then the count of the bytes
#: after the mark that this task wrote.
_MARK = struct.Struct("<QQI")
_HALF_BITS = 64
NONCE_SIZE = 16
MARK_SIZE = NONCE_SIZE + _MARK.size

#: Bytes of one stream of a task that wait to be sent, at most.
MAX_UNSENT = 64 << 10
#: Bytes of a task's standard error that the agent keeps for its failure, at most.
_TAIL_BYTES = 16 << 10
#: Lines of standard error that a task's failure contains, at most.
TAIL_LINES = 20
#: Lines of stack that the failure of a crashed or killed task contains, at most.
_STACK_LINES = 40
#: The line with which faulthandler begins the stack of a thread.
_THREAD = re.compile(r"(Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):$")
#: A line of a stack that begins with one of these is a frame of the worker.
_OWN_FRAMES = ('  File "handout/host/', '  File "handout/serialization/')
#: Bytes a second of one stream of a task that are sent, at most.
_RATE = 256 << 10
#: Seconds between the messages of one stream of a task, at least.
_INTERVAL_S = 0.05
#: Bytes of an unfinished line that waits for its end, at most.
_MAX_PARTIAL_LINE = 8 << 10
_READ_SIZE = 256 << 10


def new_nonce() -> bytes:
    """Return a new nonce for the marks of one worker: a NUL, which text does not contain, then other bytes."""
    return b"\0" + bytes(byte or 1 for byte in os.urandom(NONCE_SIZE - 1))


def mark(nonce: bytes, number: int, size: int) -> bytes:
    """Return the mark that a worker writes before ``size`` bytes of a task."""
    return nonce + _MARK.pack(number & (1 << _HALF_BITS) - 1, number >> _HALF_BITS, size)


class Pipe:
    """Reads one standard stream of one worker, and finds by the marks in it which task wrote which bytes.

    C code and subprocesses bypass Python's streams, so their bytes have no mark. The agent assigns them to the running
    task.

    Args:
        fd: The reading end.
        nonce: The beginning of the worker's marks.
        running: Returns the number of the task that runs now; 0 in a shared loop, where several may run.
    """

    def __init__(self, fd: int, nonce: bytes, running: Callable[[], int]) -> None:
        self.fd = fd
        self._nonce = nonce
        self._running = running
        #: The task of the last mark, and how many of the next bytes belong to it.
        self._owner = 0
        self._owned_bytes = 0
        #: The beginning of a mark whose rest has not arrived.
        self._partial_mark = b""
        os.set_blocking(fd, False)

    def read(self) -> list[tuple[int, bytes]] | None:
        """Return new output as pairs of task number and bytes; None at the end of the stream."""
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
                # For a shared loop, the agent cannot know the task of these bytes. It assumes that of the last mark.
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
        """Return the position of a nonce whose rest has not arrived; without one, return the end of the data."""
        # Only the first byte of a nonce is NUL, and text has none.
        at = data.rfind(b"\0", max(start, len(data) - NONCE_SIZE + 1))
        if at >= 0 and self._nonce.startswith(data[at:]):
            return at
        return len(data)

    def close(self) -> None:
        """Close the stream."""
        os.close(self.fd)


def split_stack(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the lines that a task wrote from the stacks that faulthandler wrote.

    The stack of the current thread comes first. Frames of the worker, which called the task, are left out.
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
    """Output of one task to one of its two streams that has not been sent yet."""

    __slots__ = ("attempt_id", "dropped", "fd", "send_at", "tail", "text")

    def __init__(self, attempt_id: int, fd: int) -> None:
        self.attempt_id = attempt_id
        self.fd = fd
        self.text = bytearray()
        #: The last bytes of the task's standard error, sent or not.
        self.tail = bytearray()
        #: Lines that were dropped since the last message.
        self.dropped = 0
        #: When the next message may be sent, in seconds of the monotonic clock.
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
        """Return the lines to send now, or None.

        Args:
            now: Seconds of the monotonic clock.
            ended: True if the task has ended. Everything is then sent, also an unfinished line.
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
        """Return the last lines that the task wrote, and its stack if faulthandler wrote one, innermost frame first."""
        written, stack = split_stack(self.tail.decode("utf-8", "replace").splitlines())
        return written[-TAIL_LINES:], stack[:_STACK_LINES]


class Logs:
    """Output of all tasks of this host that has not been sent yet.

    Args:
        send: Called with the attempt id, the descriptor (1 or 2), the count of dropped lines, and the bytes.
        room: Returns True if the session has room for more output.
    """

    def __init__(self, send: Callable[[int, int, int, bytes], None], room: Callable[[], bool]) -> None:
        self._send = send
        self.room = room
        self._outputs: dict[tuple[int, int], TaskOutput] = {}

    @property
    def waiting(self) -> bool:
        """True if a task that runs has printed, so that `flush` may have output to send."""
        return bool(self._outputs)

    def has(self, attempt_id: int) -> bool:
        """Return True if a task has printed and `end` has not been called for it."""
        return (attempt_id, 1) in self._outputs or (attempt_id, 2) in self._outputs

    def add(self, attempt_id: int, fd: int, data: bytes) -> None:
        """Add output of a task."""
        output = self._outputs.get((attempt_id, fd))
        if output is None:
            output = self._outputs[attempt_id, fd] = TaskOutput(attempt_id, fd)
        output.add(data)

    def tail(self, attempt_id: int) -> tuple[list[str], list[str]]:
        """Return the last lines of a task's standard error, and its stack if faulthandler wrote one."""
        output = self._outputs.get((attempt_id, 2))
        return output.last_lines() if output is not None else ([], [])

    def shorten(self, attempt_id: int, nbytes: int) -> None:
        """Keep only the last ``nbytes`` bytes of each stream of a task, because output of many tasks is unsent."""
        for fd in (1, 2):
            output = self._outputs.get((attempt_id, fd))
            if output is not None:
                output.shorten(nbytes)

    def discard(self, attempt_id: int) -> None:
        """Drop the output of a task that did not run."""
        for fd in (1, 2):
            self._outputs.pop((attempt_id, fd), None)

    def end(self, attempt_id: int, now: float) -> None:
        """Send all output of a task that has ended."""
        for fd in (1, 2):
            output = self._outputs.pop((attempt_id, fd), None)
            if output is not None:
                self._emit(output, now, True)

    def flush(self, now: float) -> None:
        """Send output of running tasks that may be sent now, as long as the session has room."""
        for output in self._outputs.values():
            if (output.text or output.dropped) and self.room():
                self._emit(output, now, False)

    def _emit(self, output: TaskOutput, now: float, ended: bool) -> None:
        data = output.take(now, ended)
        if data is not None and (data or output.dropped):
            self._send(output.attempt_id, output.fd, output.dropped, data)
            output.dropped = 0
