"""Frames: how bytes become messages, without any I/O. Used by both ends of a link.

A frame is a fixed prefix, a header and a payload::

    magic "HO" | version u8 | kind u8 | header length u32 | payload length u32 | number u64 | crc32 u32 | crc32 u32

All numbers are little-endian. The first checksum covers the prefix before it, so that a receiver notices a damaged
length before it allocates anything or waits for bytes. The second checksum covers the header, and the payload of a
message. Chunks have no checksum of their payload, because SSH checks all bytes. A payload is never parsed here, and
copied only where that cannot be avoided. There are four kinds of frames:

``HELLO``    a JSON header; the first frame of a connection.
``MESSAGE``  a JSON header and a payload; numbered, and kept by its sender until it is acknowledged.
``CHUNK``    a part of a stream: (stream, offset, window); not numbered. A stream resumes at an offset.
``BEAT``     acknowledgement and heartbeat: (last message number, bytes received, age of the last byte received).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn, Union

Buffer = Union[bytes, bytearray, memoryview]

MAGIC = b"HO"
VERSION = 1

HELLO, MESSAGE, CHUNK, BEAT = 1, 2, 3, 4

#: Bytes of a message's header, at most. The receiver refuses a larger one unread. A batch of 100,000 tasks needs about
#: 10 MiB.
MAX_HEADER = 64 << 20
#: Bytes of a payload, at most. The receiver refuses a larger one unread. Larger objects travel as streams.
MAX_PAYLOAD = 64 << 20
#: Bytes of a hello's header, at most. The header has the offset of each incoming stream, about 20 bytes for each.
MAX_HELLO = 32 << 20

_PREFIX = struct.Struct("<2sBBIIQ")
_CHECKS = struct.Struct("<II")
_CHUNK = struct.Struct("<IQI")
_BEAT = struct.Struct("<QQI")
PREFIX_SIZE = _PREFIX.size + _CHECKS.size

_dumps = json.JSONEncoder(separators=(",", ":")).encode


class ProtocolError(ValueError):
    """The peer sent bytes or a message that the protocol does not allow."""


class Hello(NamedTuple):
    """The first frame of a connection, in each direction."""

    fields: dict[str, Any]


class Message(NamedTuple):
    """A message, whose header `handout.protocol.codec` reads."""

    number: int
    fields: dict[str, Any]
    payload: Buffer


class Piece(NamedTuple):
    """Some bytes of a stream. A chunk may arrive as several pieces; ``last`` marks the stream's end."""

    stream: int
    offset: int
    data: Buffer
    #: Bytes that the sender has in flight, at most. The receiver acknowledges each quarter of it.
    window: int
    last: bool


class Beat(NamedTuple):
    """Acknowledges what a side has received, and is its heartbeat."""

    number: int
    received: int
    #: Milliseconds from the time when the peer last received bytes until it sent this beat.
    age_ms: int


Frame = Union[Hello, Message, Piece, Beat]

#: The bit of a chunk's ``window`` that marks the last chunk of a stream.
_LAST = 1 << 31


def _frame(kind: int, header: bytes, payload_size: int, number: int, payload: Sequence[Buffer] = ()) -> bytes:
    prefix = _PREFIX.pack(MAGIC, VERSION, kind, len(header), payload_size, number)
    check = zlib.crc32(header)
    for part in payload:
        check = zlib.crc32(part, check)
    return prefix + _CHECKS.pack(zlib.crc32(prefix), check) + header


def encode_hello(fields: dict[str, Any]) -> bytes:
    """Return a hello as bytes."""
    return _frame(HELLO, _dumps(fields).encode(), 0, 0)


def encode_message(number: int, fields: dict[str, Any], payload: Sequence[Buffer] = ()) -> list[Buffer]:
    """Return a message as segments, to be written in order.

    Raises:
        ProtocolError: The message is larger than a frame may be.
    """
    header = _dumps(fields).encode()
    size = sum(len(p) for p in payload)
    if len(header) > MAX_HEADER or size > MAX_PAYLOAD:
        raise ProtocolError(f"message {fields.get('m')!r} of {len(header)} + {size} bytes is over the frame limit")
    return [_frame(MESSAGE, header, size, number, payload), *payload]


def encode_chunk(stream: int, offset: int, data: Buffer, window: int, last: bool) -> list[Buffer]:
    """Return a chunk of a stream as segments; ``data`` is not copied."""
    header = _CHUNK.pack(stream, offset, window | (_LAST if last else 0))
    return [_frame(CHUNK, header, len(data), 0), data]


def encode_beat(beat: Beat) -> bytes:
    """Return a beat as bytes."""
    return _frame(BEAT, _BEAT.pack(beat.number, beat.received, min(beat.age_ms, 0xFFFFFFFF)), 0, 0)


class Decoder:
    """Turns bytes into frames. It does not matter how the connection splits the bytes.

    A decoder holds at most one message in memory. It yields the payload of a chunk in pieces, as they come.

    Args:
        greets: True if the bytes must begin with a hello. There may then be no other hello.
    """

    def __init__(self, *, greets: bool = False) -> None:
        self._greets = greets
        self._greeted = False
        self._held = bytearray()
        #: Bytes that ``_held`` must have before the next frame can be parsed.
        self._need = PREFIX_SIZE
        #: The chunk whose payload is arriving: (stream, offset, window, last), and how many bytes are still to come.
        self._chunk = (0, 0, 0, False)
        self._left = 0

    def feed(self, data: Buffer) -> Iterator[Frame]:
        """Take bytes and yield the frames that they complete. The caller handles each before it asks for the next.

        Frames before a bad one are good: they are yielded before the error is raised.

        Raises:
            ProtocolError: The bytes are not this protocol; the connection must be closed.
        """
        view = memoryview(data)
        position, end = 0, len(view)
        while position < end:
            if self._left:
                take = min(self._left, end - position)
                yield self._piece(view[position : position + take])
                position += take
                continue
            source = view[position:]
            if self._held:
                take = min(self._need - len(self._held), end - position)
                self._held += view[position : position + take]
                position += take
                if len(self._held) < self._need:
                    return
                source = memoryview(bytes(self._held))
            used, frame = self._parse(source)
            if not used:
                if not self._held:
                    self._held += source
                    position = end
                continue
            if self._held:
                self._held.clear()
            else:
                position += used
            if frame is not None:
                yield frame

    def _piece(self, data: memoryview) -> Piece:
        stream, offset, window, last = self._chunk
        self._left -= len(data)
        self._chunk = (stream, offset + len(data), window, last)
        return Piece(stream, offset, data, window, last and self._left == 0)

    def _parse(self, view: memoryview) -> tuple[int, Frame | None]:
        """Parse one frame at the start of ``view``. If it is a chunk, parse only its header.

        Returns:
            The size of the frame, or 0 if its end has not arrived; and the frame, or None for the header of a chunk.
        """
        if len(view) < PREFIX_SIZE:
            self._need = PREFIX_SIZE
            return 0, None
        _, _, kind, header_size, payload_size, number = _PREFIX.unpack_from(view)
        prefix_check, check = _CHECKS.unpack_from(view, _PREFIX.size)
        if prefix_check != zlib.crc32(view[: _PREFIX.size]):
            _refuse_prefix(view)
        if bytes(view[:2]) != MAGIC or view[2] != VERSION:
            _refuse_prefix(view)
        self._check_kind(kind, header_size, payload_size)
        end = PREFIX_SIZE + header_size
        whole: int = end if kind == CHUNK else end + payload_size
        if len(view) < whole:
            self._need = whole
            return 0, None
        if check != zlib.crc32(view[PREFIX_SIZE:whole]):
            raise ProtocolError("the checksum of a frame does not match")
        header = view[PREFIX_SIZE:end]
        if kind == MESSAGE:
            return whole, Message(number, _fields(header), view[end:whole])
        if kind == BEAT:
            return whole, Beat(*_BEAT.unpack(header))
        if kind == HELLO:
            self._greeted = True
            return whole, Hello(_fields(header))
        stream, offset, window = _CHUNK.unpack(header)
        self._chunk = (stream, offset, window & (_LAST - 1), bool(window & _LAST))
        self._left = payload_size
        return whole, None if payload_size else self._piece(view[:0])

    def _check_kind(self, kind: int, header_size: int, payload_size: int) -> None:
        """Raise `ProtocolError` for sizes that a kind may not have, before the receiver waits for the bytes."""
        allowed = _SIZES.get(kind)
        if allowed is None or not allowed[0] <= header_size <= allowed[1] or payload_size > allowed[2]:
            raise ProtocolError(f"frame of kind {kind} with {header_size} + {payload_size} bytes is not allowed")
        if self._greets and (kind == HELLO) is self._greeted:
            raise ProtocolError("a second hello" if self._greeted else f"a frame of kind {kind} before the hello")


#: By kind: the fewest and the most bytes of a header, and the most bytes of a payload.
_SIZES = {
    HELLO: (2, MAX_HELLO, 0),
    MESSAGE: (2, MAX_HEADER, MAX_PAYLOAD),
    CHUNK: (_CHUNK.size, _CHUNK.size, MAX_PAYLOAD),
    BEAT: (_BEAT.size, _BEAT.size, 0),
}


def _refuse_prefix(view: memoryview) -> NoReturn:
    if bytes(view[:2]) != MAGIC:
        raise ProtocolError(f"not a Handout frame: starts with {bytes(view[:16])!r}")
    if view[2] != VERSION:
        raise ProtocolError(f"wire version {view[2]}, this side speaks {VERSION}")
    raise ProtocolError("the checksum of a frame's prefix does not match")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decode = json.JSONDecoder(parse_constant=_no_constant).decode


def _fields(header: memoryview) -> dict[str, Any]:
    try:
        # `json.loads` of bytes would accept other encodings than UTF-8.
        fields = _decode(str(header, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a header that is not JSON: {type(error).__name__}: {str(error)[:200]}") from None
    if not isinstance(fields, dict):
        raise ProtocolError("a header that is not an object")
    return fields
