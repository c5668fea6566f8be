"""Objects on their way to, or through, the controller: bytes that nobody here unpickles."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Protocol

from handout.protocol.frames import Buffer, ProtocolError
from handout.protocol.session import Source
from handout.transport.conversation import GrowingSource

__all__ = ["BytesSource", "Fetches", "Gathered", "Relay", "Room", "Sink"]

logger = logging.getLogger("handout")

#: A relayed object waits in memory up to this size, beyond it in a file: a slow target never fills the controller.
_RELAY_MEMORY = 8 << 20


class BytesSource(Source):
    """An object that is all here, as segments that are never joined."""

    def __init__(self, segments: list[Buffer]) -> None:
        self._segments: list[memoryview] = []
        self._starts: list[int] = []
        self.size = 0
        for segment in segments:
            view = memoryview(segment).cast("B")
            if len(view):
                self._segments.append(view)
                self._starts.append(self.size)
                self.size += len(view)
        self._at = 0

    def read(self, offset: int, size: int) -> Buffer:
        """See `Source`; reads are mostly in order, so the segment is remembered."""
        if not self._segments or offset >= self.size:
            return b""
        if self._starts[self._at] > offset:
            self._at = 0
        while self._at + 1 < len(self._starts) and self._starts[self._at + 1] <= offset:
            self._at += 1
        start = offset - self._starts[self._at]
        return self._segments[self._at][start : start + size]


class Sink(Protocol):
    """Where an incoming object's bytes go."""

    def begin(self, size: int) -> None:
        """The object is announced."""
        ...

    def write(self, data: Buffer) -> None:
        """The next bytes."""
        ...

    def end(self) -> None:
        """That was all."""
        ...

    def fail(self, missing: bool) -> None:
        """It will not come; ``missing``: its host does not have it."""
        ...


class Room(Protocol):
    """Memory for objects that are on their way: many may be at once."""

    def claim(self, nbytes: int) -> bool:
        """Take so much, where there is enough."""
        ...

    def release(self, nbytes: int) -> None:
        """Give it back."""
        ...

    def new_file(self) -> IO[bytes]:
        """A file with a name, for what there is not enough memory for."""
        ...


class Gathered:
    """A sink that hands over the whole object, in memory or (where there is no room for it) in a file.

    Args:
        done: Called with the object.
        failed: Called where it does not come.
        room: Where memory is had from, while the object is on its way.
    """

    def __init__(
        self,
        done: Callable[[Buffer | IO[bytes], int], None],
        failed: Callable[[bool], None],
        room: Room,
    ) -> None:
        self._done = done
        self._failed = failed
        self._room = room
        self._claimed = 0
        self._size = 0
        self._at = 0
        self._data = bytearray()
        self._file: IO[bytes] | None = None

    def begin(self, size: int) -> None:
        """See `Sink`."""
        self._size = size
        if self._room.claim(size):
            self._claimed = size
            self._data = bytearray(size)
        else:
            self._file = self._room.new_file()

    def write(self, data: Buffer) -> None:
        """See `Sink`."""
        end = self._at + len(data)
        if end > self._size:
            raise ProtocolError(f"an object of {self._size} bytes has at least {end}")
        if self._file is not None:
            self._file.write(data)
        else:
            self._data[self._at : end] = data
        self._at = end

    def end(self) -> None:
        """See `Sink`."""
        if self._at < self._size:
            raise ProtocolError(f"an object of {self._size} bytes ended after {self._at}")
        self._give_back()
        if self._file is not None:
            self._file.flush()
            self._done(self._file, self._size)
        else:
            self._done(self._data, self._size)

    def fail(self, missing: bool) -> None:
        """See `Sink`."""
        self._give_back()
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                pass  # what it held back does not fit either; closed it is
            os.unlink(self._file.name)
        self._failed(missing)

    def _give_back(self) -> None:
        self._room.release(self._claimed)
        self._claimed = 0


class Relay(GrowingSource):
    """A sink for one host's object that is another host's source, while it is still arriving.

    Args:
        start: Begins to send it; what it returns gives that up.
        failed: Called where it does not come.
    """

    def __init__(self, start: Callable[[Relay], Callable[[], None]], failed: Callable[[bool], None]) -> None:
        super().__init__()
        self._start = start
        self._failed = failed
        self._stop: Callable[[], None] = self.close
        self._arrived = 0
        self._closed = False
        self._file = tempfile.SpooledTemporaryFile(max_size=_RELAY_MEMORY, prefix="handout-")  # noqa: SIM115

    def begin(self, size: int) -> None:
        """See `Sink`."""
        self.size = size
        self._stop = self._start(self)

    def write(self, data: Buffer) -> None:
        """See `Sink`."""
        if self._closed:
            return
        self._file.seek(self._arrived)
        self._file.write(bytes(data))
        self._arrived += len(data)
        self.on_more()

    def end(self) -> None:
        """See `Sink`."""
        self.on_more()

    def fail(self, missing: bool) -> None:
        """See `Sink`."""
        self._stop()
        self._failed(missing)

    def read(self, offset: int, size: int) -> Buffer:
        """See `Source`."""
        size = min(size, self._arrived - offset)
        if size <= 0:
            return b""
        self._file.seek(offset)
        return self._file.read(size)

    def close(self) -> None:
        """See `Source`."""
        self._closed = True
        try:
            self._file.close()
        except OSError:
            pass  # a full disk: nobody reads it any more


@dataclass(slots=True)
class Fetches:
    """What was asked of one agent and has not come yet."""

    #: By object key: who waits for it, the first one first. One request is out per sink.
    waiting: dict[int, list[Sink]] = field(default_factory=dict)
    #: By incoming stream: its sink.
    arriving: dict[int, Sink] = field(default_factory=dict)

    def expect(self, key: int, sink: Sink) -> None:
        """A request for ``key`` goes out for ``sink``."""
        self.waiting.setdefault(key, []).append(sink)

    def announced(self, key: int, stream: int, size: int) -> None:
        """The agent begins to send ``key``."""
        sink = self._next(key)
        if sink is not None:
            self.arriving[stream] = sink
            with self._given_up_where_there_is_no_room(stream, sink):
                sink.begin(size)

    def piece(self, stream: int, data: Buffer, last: bool) -> None:
        """Some of its bytes."""
        sink = self.arriving.get(stream)
        if sink is None:
            return
        with self._given_up_where_there_is_no_room(stream, sink):
            if len(data):
                sink.write(data)
            if last:
                sink.end()
                self.arriving.pop(stream, None)

    def missing(self, key: int) -> None:
        """The agent does not have it."""
        sink = self._next(key)
        if sink is not None:
            sink.fail(True)

    def lost(self) -> None:
        """The agent is gone, and all that it was asked for with it."""
        sinks = [*self.arriving.values(), *(s for queue in self.waiting.values() for s in queue)]
        self.arriving.clear()
        self.waiting.clear()
        for sink in sinks:
            sink.fail(False)

    @contextmanager
    def _given_up_where_there_is_no_room(self, stream: int, sink: Sink) -> Iterator[None]:
        """What this machine has no room for must not end the conversation that brings it."""
        try:
            yield
        except (OSError, MemoryError) as error:
            logger.warning("An object could not be taken in here: %s: %s", type(error).__name__, error)
            self.arriving.pop(stream, None)
            sink.fail(False)

    def _next(self, key: int) -> Sink | None:
        queue = self.waiting.get(key)
        if not queue:
            return None
        sink = queue.pop(0)
        if not queue:
            del self.waiting[key]
        return sink
