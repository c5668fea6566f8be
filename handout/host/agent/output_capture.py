"""The agent's side of the output of tasks: it finds which task wrote it, limits it, and keeps its end for failures.

A task may print without end. The agent always reads the pipe, so that no task waits for a slow link. At most `KEPT`
bytes of a stream wait to be sent. If there are more, the agent drops the oldest lines and counts them.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Callable

#: A mark in a pipe follows the worker's nonce. It has the number of a task (its low half first), and how many of the
#: next bytes that task wrote.
_MARK = struct.Struct("<QQI")
_HALF = 64
NONCE_SIZE = 16
MARK_SIZE = NONCE_SIZE + _MARK.size

#: Bytes of one stream of a task that wait to be sent, at most.
KEPT = 64 << 10
#: Bytes of a task's standard error that are remembered for its failure.
_TAIL = 16 << 10
#: Lines of a task's standard error that its failure has, at most.
TAIL_LINES = 20
#: Lines of a task's stack that its failure has, at most.
_STACK_LINES = 40
#: The line with which faulthandler begins the stack of a thread.
_THREAD = re.compile(r"(Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):$")
_OURS = ('  File "handout/host/', '  File "handout/serialization/')
#: Bytes a second of one stream of a task that are sent, at most.
_RATE = 256 << 10
#: Seconds between the messages of one stream of a task, at least.
_INTERVAL_S = 0.05
#: Bytes of an unfinished line that waits for its end, at most.
_LONG_LINE = 8 << 10
_READ = 256 << 10


def new_nonce() -> bytes:
    """Return a new nonce, with which all marks of one worker begin: a NUL byte, then random bytes that are not NUL.

    Text has no NUL byte. So the last NUL byte of some data is where an incomplete mark begins, if there is one.
    """
    return b"\0" + bytes(byte or 1 for byte in os.urandom(NONCE_SIZE - 1))


def mark(nonce: bytes, number: int, size: int) -> bytes:
    """Return the mark that stands before bytes that a task wrote."""
    return nonce + _MARK.pack(number & (1 << _HALF) - 1, number >> _HALF, size)


class Pipe:
    """One standard stream of one worker. The marks in it say which task wrote which bytes.

    Bytes without a mark were not written through Python's streams. They belong to the task that runs.

    Args:
        fd: The reading end.
        nonce: The beginning of the worker's marks.
        running: Returns the number of the task that runs now, or 0 if several run.
    """

    def __init__(self, fd: int, nonce: bytes, running: Callable[[], int]) -> None:
        self.fd = fd
        self._nonce = nonce
        self._running = running
        #: The task of the last mark.
        self._owner = 0
        #: How many of the next bytes belong to that task.
        self._left = 0
        self._held = b""
        os.set_blocking(fd, False)

    def read(self) -> list[tuple[int, bytes]] | None:
        """Return the output that can be read now, as (number of the task, bytes); None at the end of the stream."""
        running = self._running()
        try:
            data = os.read(self.fd, _READ)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        return list(self._cut(self._held + data if self._held else data, running))

    def _cut(self, data: bytes, running: int) -> Iterator[tuple[int, bytes]]:
        self._held = b""
        start, end = 0, len(data)
        while start < end:
            if self._left:
                piece = data[start : start + self._left]
                self._left -= len(piece)
                start += len(piece)
                yield self._owner, piece
                continue
            at = data.find(self._nonce, start)
            raw = at if at >= 0 else self._incomplete(data, start)
            if raw > start:
                # The agent cannot know which task of a shared loop wrote it, and takes the task of the last mark.
                yield running or self._owner, data[start:raw]
            if raw == end:
                return
            if end - raw < MARK_SIZE:
                self._held = data[raw:]
                return
            low, high, self._left = _MARK.unpack_from(data, raw + NONCE_SIZE)
            self._owner = high << _HALF | low
            start = raw + MARK_SIZE

    def _incomplete(self, data: bytes, start: int) -> int:
        """Return where an incomplete mark begins at the end of the data, or the length of the data if there is none."""
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
        The lines of the task, and the lines of the stacks. The stack of the current thread comes first. Frames of the
        worker's own code, below those of the task, are left out.
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
            skipping = skipping or line.startswith(_OURS)
            if not skipping:
                block.append(line)
        elif line or block is None:
            block = None
            written.append(line)
    while written and not written[-1].strip():
        written.pop()
    return written, current + others


class Stream:
    """The output of one task, on one of its two streams, that has not been sent yet."""

    __slots__ = ("attempt_id", "dropped", "due", "fd", "tail", "text")

    def __init__(self, attempt_id: int, fd: int) -> None:
        self.attempt_id = attempt_id
        self.fd = fd
        self.text = bytearray()
        self.tail = bytearray()
        self.dropped = 0
        #: When the next message may be sent, in seconds of the monotonic clock.
        self.due = 0.0

    def add(self, data: bytes) -> None:
        """Add output. Drop the oldest lines if there is too much."""
        self.text += data
        if self.fd == 2:
            self.tail += data[-_TAIL:]
            del self.tail[:-_TAIL]
        self.cut(KEPT)

    def cut(self, nbytes: int) -> None:
        """Drop the oldest lines until at most ``nbytes`` bytes are left."""
        excess = len(self.text) - nbytes
        if excess > 0:
            end = self.text.find(b"\n", excess) + 1 or len(self.text)
            self.dropped += self.text.count(b"\n", 0, end) or 1
            del self.text[:end]

    def take(self, now: float, whole: bool) -> bytes | None:
        """Return the lines to send now, or None.

        Args:
            now: Seconds of the monotonic clock.
            whole: True if the task has ended. All output is then sent, including an unfinished line.
        """
        if not whole and now < self.due:
            return None
        end = len(self.text) if whole or len(self.text) > _LONG_LINE else self.text.rfind(b"\n") + 1
        if not end and not self.dropped:
            return None
        data = bytes(self.text[:end])
        del self.text[:end]
        self.due = now + max(_INTERVAL_S, len(data) / _RATE)
        return data

    def last_lines(self) -> tuple[list[str], list[str]]:
        """Return the last lines that the task wrote, and the lines of the stack that faulthandler wrote, if any."""
        written, stack = split_stack(self.tail.decode("utf-8", "replace").splitlines())
        return written[-TAIL_LINES:], stack[:_STACK_LINES]


class Logs:
    """The output of all tasks of this host that has not been sent yet.

    Args:
        send: Called with attempt id, descriptor (1 or 2), count of dropped lines, and bytes.
        room: Returns True if the session has room for more output.
    """

    def __init__(self, send: Callable[[int, int, int, bytes], None], room: Callable[[], bool]) -> None:
        self._send = send
        self.room = room
        self._streams: dict[tuple[int, int], Stream] = {}

    @property
    def waiting(self) -> bool:
        """True if any output waits to be sent."""
        return bool(self._streams)

    def has(self, attempt_id: int) -> bool:
        """Return True if a task has printed output that has not been sent."""
        return (attempt_id, 1) in self._streams or (attempt_id, 2) in self._streams

    def add(self, attempt_id: int, fd: int, data: bytes) -> None:
        """Add output of a task."""
        stream = self._streams.get((attempt_id, fd))
        if stream is None:
            stream = self._streams[attempt_id, fd] = Stream(attempt_id, fd)
        stream.add(data)

    def tail(self, attempt_id: int) -> tuple[list[str], list[str]]:
        """Return the last lines of a task's standard error, and those of the stack that faulthandler wrote, if any."""
        stream = self._streams.get((attempt_id, 2))
        return stream.last_lines() if stream is not None else ([], [])

    def shorten(self, attempt_id: int, nbytes: int) -> None:
        """Drop all but the last ``nbytes`` bytes of a task's output, because the output of many tasks waits."""
        for fd in (1, 2):
            stream = self._streams.get((attempt_id, fd))
            if stream is not None:
                stream.cut(nbytes)

    def discard(self, attempt_id: int) -> None:
        """Drop the output of a task that did not run."""
        for fd in (1, 2):
            self._streams.pop((attempt_id, fd), None)

    def end(self, attempt_id: int, now: float) -> None:
        """Send all output of a task that has ended."""
        for fd in (1, 2):
            stream = self._streams.pop((attempt_id, fd), None)
            if stream is not None:
                self._emit(stream, now, True)

    def flush(self, now: float) -> None:
        """Send the output of running tasks that is due, as long as the session has room."""
        for stream in self._streams.values():
            if (stream.text or stream.dropped) and self.room():
                self._emit(stream, now, False)

    def _emit(self, stream: Stream, now: float, whole: bool) -> None:
        data = stream.take(now, whole)
        if data is not None and (data or stream.dropped):
            self._send(stream.attempt_id, stream.fd, stream.dropped, data)
            stream.dropped = 0
