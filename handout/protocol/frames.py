"""Encodes and decodes frames. This module does no I/O.

Controller and agent exchange messages and streams as frames. Agent and worker do so too, but exchange only messages,
whose number is always 0. A frame consists of a prefix, a header and a payload. These are the fields of the prefix (u32
is an unsigned integer of 32 bits)::

    magic "HO" | version u8 | kind u8 | header length u32 | payload length u32 | number u64 | crc32 u32 | crc32 u32

All numbers are little-endian. The first checksum covers the fields before it. With this checksum, a receiver notices a
damaged length before it allocates memory or waits for bytes. The second checksum covers the header and, in a message,
the payload. The payload of a chunk has no checksum, because SSH checks all bytes. This module never parses a payload,
and copies a payload only where it must.

The peer is the process at the other end of a connection. There are four kinds of frames:

``HELLO``    The first frame that each side sends on a connection. The header is JSON, and there is no payload.
``MESSAGE``  The header is JSON. Between controller and agent, messages are numbered, and the sender keeps a message
             until the peer acknowledges it.
``CHUNK``    The payload is some bytes of a stream. The header is (number of the stream, offset of the bytes in the
             stream, window). `Piece` explains the window. A chunk is not numbered, because after a broken connection
             the stream goes on at the offset that the receiver has reached.
``BEAT``     The acknowledgement of what the sender of the beat has received. It is also sent as the heartbeat. The
             header is (number of the last message received, bytes received, milliseconds since bytes were received).
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

#: The largest header of a message, in bytes. The receiver refuses a larger header without reading it. A message that
#: hands over 100,000 tasks has a header of about 10 MiB.
MAX_HEADER = 64 << 20
#: The largest payload of a frame, in bytes. The receiver refuses a larger payload without reading it. Objects that are
#: larger travel as streams, in several frames.
MAX_PAYLOAD = 64 << 20
#: The largest header of a hello, in bytes. The header lists all incoming streams, with about 20 bytes for each; see
#: `messages.Progress`.
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
    """The first frame that each side sends on a connection."""

    fields: dict[str, Any]


class Message(NamedTuple):
    """A message. `handout.protocol.codec` turns ``fields`` into an object of one of the types in `messages`."""

    number: int
    fields: dict[str, Any]
    payload: Buffer


class Piece(NamedTuple):
    """Some bytes of a stream. A chunk may arrive as several pieces."""

    stream: int
    offset: int
    data: Buffer
    #: About how many bytes the sender may send before it must wait for an acknowledgement. The receiver sends an
    #: acknowledgement each time that it has received a quarter of this number of bytes, or sooner.
    window: int
    #: True if this is the last piece of the stream.
    last: bool


class Beat(NamedTuple):
    """Acknowledges what the sender of the beat has received. It is also the sender's heartbeat."""

    #: Number of the last message that the sender of the beat has received.
    number: int
    #: How many bytes the sender of the beat has received on this connection.
    received: int
    #: Milliseconds from the time when the sender of the beat last received bytes until it sent the beat.
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
    """Return a message as segments: buffers that must be written one after another, in this order.

    Raises:
        ProtocolError: The header or the payload is too large for a frame.
    """
    header = _dumps(fields).encode()
    size = sum(len(p) for p in payload)
    if len(header) > MAX_HEADER or size > MAX_PAYLOAD:
        raise ProtocolError(
            f"message {fields.get('m')!r} is over the frame limit: "
            f"its header has {len(header)} bytes and its payload has {size} bytes"
        )
    return [_frame(MESSAGE, header, size, number, payload), *payload]


def encode_chunk(stream: int, offset: int, data: Buffer, window: int, last: bool) -> list[Buffer]:
    """Return a chunk of a stream as segments, without a copy of ``data``."""
    header = _CHUNK.pack(stream, offset, window | (_LAST if last else 0))
    return [_frame(CHUNK, header, len(data), 0), data]


def encode_beat(beat: Beat) -> bytes:
    """Return a beat as bytes."""
    return _frame(BEAT, _BEAT.pack(beat.number, beat.received, min(beat.age_ms, 0xFFFFFFFF)), 0, 0)


class Decoder:
    """Turns the bytes of one connection into frames. The bytes may arrive in pieces that begin and end anywhere.

    A decoder holds at most one message in memory. It yields the payload of a chunk in several `Piece` objects, as the
    bytes arrive.

    Args:
        greets: True if the first frame must be a hello, and no later frame may be a hello.
    """

    def __init__(self, *, greets: bool = False) -> None:
        self._greets = greets
        self._greeted = False
        self._held = bytearray()
        #: How many bytes ``_held`` must have before the next frame can be parsed.
        self._need = PREFIX_SIZE
        #: The chunk whose payload is arriving, as (stream, offset, window, last).
        self._chunk = (0, 0, 0, False)
        #: How many bytes of the payload of this chunk are still to come.
        self._left = 0

    def feed(self, data: Buffer) -> Iterator[Frame]:
        """Take bytes, and yield the frames that these bytes complete.

        The caller must handle each frame before it asks for the next one. If a frame is bad, the decoder yields all
        frames before the bad one, and only then raises the error.

        Raises:
            ProtocolError: The bytes break the protocol. The caller must close the connection.
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
        """Parse the frame at the start of ``view``. If it is a chunk, parse only the prefix and the header.

        Returns:
            The number of bytes that were parsed, and the frame. If some of the bytes to parse have not arrived yet, the
            number is 0 and the frame is None. For a chunk with a payload, the frame is None, because `feed` yields the
            payload.
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
        """Check the kind and the sizes that a prefix names, before the receiver waits for the rest of the frame.

        Raises:
            ProtocolError: A frame of this kind may not have these sizes, or may not come at this point.
        """
        allowed = _SIZES.get(kind)
        if allowed is None or not allowed[0] <= header_size <= allowed[1] or payload_size > allowed[2]:
            raise ProtocolError(
                f"a frame of kind {kind} with a header of {header_size} bytes and a payload of {payload_size} bytes "
                "is not allowed"
            )
        if self._greets and (kind == HELLO) is self._greeted:
            raise ProtocolError(
                "a second hello came" if self._greeted else f"a frame of kind {kind} came before the hello"
            )


#: Maps each kind of frame to three sizes in bytes: of the smallest header, the largest header and the largest payload.
_SIZES = {
    HELLO: (2, MAX_HELLO, 0),
    MESSAGE: (2, MAX_HEADER, MAX_PAYLOAD),
    CHUNK: (_CHUNK.size, _CHUNK.size, MAX_PAYLOAD),
    BEAT: (_BEAT.size, _BEAT.size, 0),
}


def _refuse_prefix(view: memoryview) -> NoReturn:
    if bytes(view[:2]) != MAGIC:
        raise ProtocolError(f"the bytes are not a Handout frame: they start with {bytes(view[:16])!r}")
    if view[2] != VERSION:
        raise ProtocolError(f"a frame has the protocol version {view[2]} instead of {VERSION}")
    raise ProtocolError("the checksum of a frame's prefix does not match")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed in JSON")


_decode = json.JSONDecoder(parse_constant=_no_constant).decode


def _fields(header: memoryview) -> dict[str, Any]:
    try:
        # The bytes are decoded here, because `json.loads` would also accept encodings other than UTF-8.
        fields = _decode(str(header, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a header is not JSON: {type(error).__name__}: {str(error)[:200]}") from None
    if not isinstance(fields, dict):
        raise ProtocolError("a header is not a JSON object")
    return fields
