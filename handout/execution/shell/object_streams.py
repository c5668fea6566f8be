"""Streams of objects to, from and through the controller. A stream carries the bytes of one object, piece by piece.

A source gives the bytes that are sent, and a sink takes the bytes that arrive. The objects are not unpickled here.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from handout.errors import DamagedFileError
from handout.execution.shell.run_objects import SpillFile
from handout.journal import checksums
from handout.journal.object_files import PAUSE_S, TRIES, ObjectFile, damaged_file
from handout.protocol.frames import Buffer, ProtocolError
from handout.protocol.session import Source
from handout.transport.conversation import GrowingSource

__all__ = ["BytesSource", "CheckedSource", "Fetches", "Gathered", "Relay", "Room", "Sink", "warn_no_room"]

logger = logging.getLogger("handout")

#: An object that is relayed from host to host waits in memory, up to this many bytes. If more bytes arrive, the object
#: waits in a file, so that a slow target host does not fill the memory of the controller.
_RELAY_MEMORY = 8 << 20


class BytesSource(Source):
    """The source of an object that the controller has. The object's bytes are in segments, which are never joined."""

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
        """See `Source`. Most reads are in order, so the search for a segment begins at the segment of the last read."""
        if not self._segments or offset >= self.size:
            return b""
        if self._starts[self._at] > offset:
            self._at = 0
        while self._at + 1 < len(self._starts) and self._starts[self._at + 1] <= offset:
            self._at += 1
        start = offset - self._starts[self._at]
        return self._segments[self._at][start : start + size]


class _FirstReads:
    """Gives each byte of an object to a checksum once, in order. Bytes may be read again after a broken connection.

    Args:
        add: Adds the next bytes to the checksum.
    """

    def __init__(self, add: Callable[[Buffer], object]) -> None:
        self._add = add
        #: How many bytes the checksum covers.
        self.covered = 0

    def read(self, offset: int, data: Buffer) -> None:
        """Take bytes that were read, with their offset in the object."""
        end = offset + len(data)
        if end > self.covered:
            self._add(memoryview(data)[self.covered - offset :])
            self.covered = end


class CheckedSource(GrowingSource):
    """The source of an object that the controller has in a file.

    The digest of the bytes is computed while they are sent. If it is not the object's digest, the last bytes are not
    sent, so that the agent never has the damaged object.

    Args:
        file: The file.
        failed: Called once, in a later turn of the event loop, if the bytes are damaged or the file cannot be read. The
            error is an `OSError` if too many files stayed open.
        waits: Called with the error each time that the file cannot be opened now, because too many files are open.
    """

    def __init__(
        self,
        file: ObjectFile,
        failed: Callable[[DamagedFileError | OSError], None],
        waits: Callable[[OSError], None] = lambda error: None,
    ) -> None:
        super().__init__()
        self.size = file.nbytes
        self._file = file
        self._failed = failed
        self._waits = waits
        self._computed = checksums.new_digest()
        self._first_reads = _FirstReads(self._computed.update)
        self._has_failed = False
        self._tries = TRIES

    def read(self, offset: int, size: int) -> Buffer:
        """See `Source`. Once the file has turned out to be damaged or unreadable, there are no more bytes."""
        if self._has_failed:
            return b""
        try:
            data = self._file.read(offset, size)
            self._first_reads.read(offset, data)
            if self._first_reads.covered == self.size and self._computed.hexdigest() != self._file.digest:
                raise damaged_file(self._file.path)
        except (DamagedFileError, OSError) as error:
            self._tries -= 1
            if isinstance(error, OSError) and self._tries > 0:
                # A lack of descriptors says nothing about the object, so the object is not lost.
                self._waits(error)
                asyncio.get_running_loop().call_later(PAUSE_S, lambda: self.on_more())
            else:
                self._has_failed = True
                asyncio.get_running_loop().call_soon(self._failed, error)
            return b""
        self._tries = TRIES
        return data


class Sink(Protocol):
    """Takes the bytes of an incoming object."""

    def begin(self, size: int) -> None:
        """Take the size of the object. This is called before the first bytes come."""
        ...

    def write(self, data: Buffer) -> None:
        """Take the next bytes."""
        ...

    def end(self) -> None:
        """Finish the object, because all of its bytes have come."""
        ...

    def fail(self, missing: bool) -> None:
        """Give up, because the object will not come. ``missing`` is True if the host does not have the object."""
        ...


class Room(Protocol):
    """The memory and the files for arriving objects."""

    def claim(self, nbytes: int) -> bool:
        """Reserve ``nbytes`` of memory and return True. If not enough memory is left, return False."""
        ...

    def release(self, nbytes: int) -> None:
        """Free ``nbytes`` of reserved memory."""
        ...

    def new_file(self) -> SpillFile:
        """Return a new file, for an object that does not fit into memory."""
        ...


class Gathered:
    """A sink that collects a whole object: in memory, or in a file if there is no room in memory.

    Args:
        done: Called when the object is complete, with its bytes or the file that has them, and with its size in bytes.
        failed: Called if the object does not come. The argument is True if the host does not have the object.
        room: Gives memory, or a file, for the arriving object.
    """

    def __init__(
        self,
        done: Callable[[Buffer | SpillFile, int], None],
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
        self._file: SpillFile | None = None

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
            raise ProtocolError(f"an object of {self._size} bytes was sent with at least {end} bytes")
        if self._file is not None:
            self._file.write(data)
        else:
            self._data[self._at : end] = data
        self._at = end

    def end(self) -> None:
        """See `Sink`."""
        if self._at < self._size:
            raise ProtocolError(f"an object of {self._size} bytes ended after {self._at} bytes")
        self._give_back()
        self._done(self._data if self._file is None else self._file, self._size)

    def fail(self, missing: bool) -> None:
        """See `Sink`."""
        self._give_back()
        if self._file is not None:
            self._file.remove()
        self._failed(missing)

    def _give_back(self) -> None:
        self._room.release(self._claimed)
        self._claimed = 0


class Relay(GrowingSource):
    """Receives an object from one host as a sink, and at the same time sends it to another host as a source.

    Args:
        start: Begins to send the object. Returns a function that stops sending it.
        failed: Called if the object does not come. The argument is True if the host does not have the object.
    """

    def __init__(self, start: Callable[[Relay], Callable[[], None]], failed: Callable[[bool], None]) -> None:
        super().__init__()
        self._start = start
        self._failed = failed
        self._stop: Callable[[], None] = self.close
        self._arrived = 0
        self._closed = False
        #: The checksums of the bytes that were written to the file, and of those that were read back from it.
        self._crc_in, self._crc_out = 0, 0
        self._is_damaged = False
        self._first_reads = _FirstReads(self._add_read)
        self._file = tempfile.SpooledTemporaryFile(max_size=_RELAY_MEMORY, prefix="handout-")  # noqa: SIM115

    def begin(self, size: int) -> None:
        """See `Sink`."""
        self.size = size
        self._stop = self._start(self)

    def write(self, data: Buffer) -> None:
        """See `Sink`."""
        if self._closed:
            return
        if self._arrived + len(data) > self.size:
            raise ProtocolError(f"an object of {self.size} bytes was sent with {self._arrived + len(data)} bytes")
        self._file.seek(self._arrived)
        self._file.write(bytes(data))
        self._crc_in = zlib.crc32(data, self._crc_in)
        self._arrived += len(data)
        self.on_more()

    def end(self) -> None:
        """See `Sink`."""
        if not self._closed and self._arrived < self.size:
            # Without this error, the target host would wait for the missing bytes for ever.
            raise ProtocolError(f"an object of {self.size} bytes ended after {self._arrived} bytes")
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
        data = self._file.read(size)
        self._first_reads.read(offset, data)
        if self._first_reads.covered == self.size and self._crc_in != self._crc_out:
            if not self._is_damaged:
                self._is_damaged = True
                logger.warning("An object is copied again, because a temporary file of the controller is damaged.")
                asyncio.get_running_loop().call_soon(self._damaged)
            return b""  # without its last bytes, the target host never has the damaged object
        return data

    def _add_read(self, data: Buffer) -> None:
        self._crc_out = zlib.crc32(data, self._crc_out)

    def _damaged(self) -> None:
        if not self._closed:
            self.fail(False)

    def close(self) -> None:
        """See `Source`."""
        self._closed = True
        try:
            self._file.close()
        except OSError:
            pass  # the disk is full, but the file is no longer needed


@dataclass(slots=True)
class Fetches:
    """The objects that the controller has requested from one agent, and that have not arrived completely."""

    #: The sinks of the requests that the agent has not answered, by object key and in the order of the requests.
    waiting: dict[int, list[Sink]] = field(default_factory=dict)
    #: Maps the number of each incoming stream to the sink for its bytes.
    arriving: dict[int, Sink] = field(default_factory=dict)

    def expect(self, key: int, sink: Sink) -> None:
        """Note that the controller requests an object from the agent."""
        self.waiting.setdefault(key, []).append(sink)

    def announced(self, key: int, stream: int, size: int) -> None:
        """Handle the message that the agent begins to send an object."""
        sink = self._next(key)
        if sink is not None:
            self.arriving[stream] = sink
            with self._given_up_without_room(stream, sink):
                sink.begin(size)

    def piece(self, stream: int, data: Buffer, last: bool) -> None:
        """Handle bytes of an object."""
        sink = self.arriving.get(stream)
        if sink is None:
            return
        with self._given_up_without_room(stream, sink):
            if len(data):
                sink.write(data)
            if last:
                sink.end()
                self.arriving.pop(stream, None)

    def missing(self, key: int) -> None:
        """Handle the message that the agent does not have an object."""
        sink = self._next(key)
        if sink is not None:
            sink.fail(True)

    def lost(self) -> None:
        """Give up all objects, because the agent is lost."""
        sinks = [*self.arriving.values(), *(s for queue in self.waiting.values() for s in queue)]
        self.arriving.clear()
        self.waiting.clear()
        for sink in sinks:
            sink.fail(False)

    @contextmanager
    def _given_up_without_room(self, stream: int, sink: Sink) -> Iterator[None]:
        """If the controller has no room for an object, give up only this object, and keep the link to the agent."""
        try:
            yield
        except (OSError, MemoryError) as error:
            warn_no_room("an arriving object", error)
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


def warn_no_room(what: str, error: Exception) -> None:
    """Warn that the controller could not store an object."""
    logger.warning(
        "The controller could not store %s. Check the free memory and disk space of this machine, and if too "
        "many files are open, the limit that `ulimit -n` shows. The error was %s: %s",
        what,
        type(error).__name__,
        str(error),  # the error itself would keep the run in memory for as long as a handler keeps the log record
    )
