"""Output of tasks on the agent's side: which task wrote it, the last of it, and how much of it goes on.

A task may print without end: at most :data:`KEPT` bytes wait for the link, the oldest lines go first and are
counted, and the pipe is always read, so that no task waits for a slow line.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Callable

#: A mark in a pipe: a secret of the worker's, then the number of a task (its low half first) and how many of the next
#: bytes are its.
_MARK = struct.Struct("<QQI")
_HALF = 64
NONCE_SIZE = 16
MARK_SIZE = NONCE_SIZE + _MARK.size

#: Bytes of one stream of a task that wait to be forwarded.
KEPT = 64 << 10
#: Bytes of a task's stderr remembered for its failure, and how many lines of it are told.
_TAIL = 16 << 10
TAIL_LINES = 20
#: Lines that are told of where it was, when it crashed or was ended.
_STACK_LINES = 40
#: How faulthandler begins what it writes of a thread.
_THREAD = re.compile(r"(Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):$")
_OURS = ('  File "handout/host/', '  File "handout/serialization/')
#: Bytes a second that one stream of a task may forward, and seconds between its messages.
_RATE = 256 << 10
_INTERVAL_S = 0.05
#: An unfinished line waits for its end, up to this length.
_LONG_LINE = 8 << 10
_READ = 256 << 10


def new_nonce() -> bytes:
    """What marks of one worker begin with: a NUL, which text has no use for, and none after it."""
    return b"\0" + bytes(byte or 1 for byte in os.urandom(NONCE_SIZE - 1))


def mark(nonce: bytes, number: int, size: int) -> bytes:
    """What comes before bytes that a task wrote."""
    return nonce + _MARK.pack(number & (1 << _HALF) - 1, number >> _HALF, size)


class Pipe:
    """One standard stream of one worker, cut by its marks.

    What lies outside of all marks was written past Python's streams: it goes to the task that runs.
    """

    def __init__(self, fd: int, nonce: bytes, running: Callable[[], int]) -> None:
        self.fd = fd
        self._nonce = nonce
        #: Number of the task that runs now.
        self._running = running
        #: The task that the next bytes are marked as, and how many these are.
        self._owner = 0
        self._left = 0
        self._held = b""
        os.set_blocking(fd, False)

    def read(self) -> list[tuple[int, bytes]] | None:
        """What is there, as (task, bytes); empty where nothing is, None at the end of the stream."""
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
                # What runs in a shared loop is not known: it goes to who wrote last.
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
        """Where a mark begins that is not all there yet, or the end."""
        at = data.rfind(b"\0", max(start, len(data) - NONCE_SIZE + 1))
        if at >= 0 and self._nonce.startswith(data[at:]):
            return at
        return len(data)

    def close(self) -> None:
        """Let the stream go."""
        os.close(self.fd)


def split_stack(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell what a task wrote from what faulthandler wrote of its threads, the one that ran first.

    The frames of the worker itself, below the task's, are left out.
    """
    said: list[str] = []
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
            said.append(line)
    while said and not said[-1].strip():
        said.pop()
    return said, current + others


class Stream:
    """One stream of one task on its way to the controller."""

    __slots__ = ("dropped", "due", "fd", "tail", "text", "ticket")

    def __init__(self, ticket: int, fd: int) -> None:
        self.ticket = ticket
        self.fd = fd
        self.text = bytearray()
        self.tail = bytearray()
        self.dropped = 0
        #: When the next message may leave.
        self.due = 0.0

    def add(self, data: bytes) -> None:
        """Take output; the oldest lines make room."""
        self.text += data
        if self.fd == 2:
            self.tail += data[-_TAIL:]
            del self.tail[:-_TAIL]
        self.cut(KEPT)

    def cut(self, nbytes: int) -> None:
        """Let the oldest lines go until no more than this is left."""
        excess = len(self.text) - nbytes
        if excess > 0:
            end = self.text.find(b"\n", excess) + 1 or len(self.text)
            self.dropped += self.text.count(b"\n", 0, end) or 1
            del self.text[:end]

    def take(self, now: float, whole: bool) -> bytes | None:
        """The lines to send now, if any.

        Args:
            now: Monotonic seconds.
            whole: The task has ended: everything, unfinished lines too.
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
        """The last lines that the task wrote, and where it was if that was written there, innermost first."""
        said, stack = split_stack(self.tail.decode("utf-8", "replace").splitlines())
        return said[-TAIL_LINES:], stack[:_STACK_LINES]


class Logs:
    """The output of all tasks of this host that has not left yet.

    Args:
        send: Takes (ticket, fd, lines dropped, bytes).
        room: Whether the link can take more output now.
    """

    def __init__(self, send: Callable[[int, int, int, bytes], None], room: Callable[[], bool]) -> None:
        self._send = send
        self.room = room
        self._streams: dict[tuple[int, int], Stream] = {}

    @property
    def waiting(self) -> bool:
        """Whether :meth:`flush` has anything to do, now or later."""
        return bool(self._streams)

    def has(self, ticket: int) -> bool:
        """Whether a task has printed anything."""
        return (ticket, 1) in self._streams or (ticket, 2) in self._streams

    def add(self, ticket: int, fd: int, data: bytes) -> None:
        """Take what a task wrote."""
        stream = self._streams.get((ticket, fd))
        if stream is None:
            stream = self._streams[ticket, fd] = Stream(ticket, fd)
        stream.add(data)

    def tail(self, ticket: int) -> tuple[list[str], list[str]]:
        """The last lines of a task's stderr, and where it was if that was written there."""
        stream = self._streams.get((ticket, 2))
        return stream.last_lines() if stream is not None else ([], [])

    def shorten(self, ticket: int, nbytes: int) -> None:
        """Keep only the last of what a task printed: many wait to be sent."""
        for fd in (1, 2):
            stream = self._streams.get((ticket, fd))
            if stream is not None:
                stream.cut(nbytes)

    def discard(self, ticket: int) -> None:
        """The task did not run: forget what was printed in its name."""
        for fd in (1, 2):
            self._streams.pop((ticket, fd), None)

    def end(self, ticket: int, now: float) -> None:
        """The task has ended: what it printed leaves, all of it."""
        for fd in (1, 2):
            stream = self._streams.pop((ticket, fd), None)
            if stream is not None:
                self._emit(stream, now, True)

    def flush(self, now: float) -> None:
        """Send what running tasks have printed, as far as it is due and there is room."""
        for stream in self._streams.values():
            if (stream.text or stream.dropped) and self.room():
                self._emit(stream, now, False)

    def _emit(self, stream: Stream, now: float, whole: bool) -> None:
        data = stream.take(now, whole)
        if data is not None and (data or stream.dropped):
            self._send(stream.ticket, stream.fd, stream.dropped, data)
            stream.dropped = 0
