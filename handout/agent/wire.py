"""Frames: how bytes become messages, without any I/O. Used by both ends of a link.

A frame is a fixed prefix, a header and a payload::

    magic "HO" | version u8 | kind u8 | header length u32 | payload length u32 | number u64 | crc32 u32

all little-endian. The checksum covers the rest of the prefix and the header, so that a length that was not
meant is noticed before anything is allocated for it. A payload is never copied where that can be avoided and
never parsed here. Four kinds:

``HELLO``    JSON header; opens a connection, before anything else.
``MESSAGE``  JSON header and payload; numbered, kept by its sender until acknowledged.
``CHUNK``    a piece of a bulk stream: (stream, offset, window); not numbered, resumable by offset.
``BEAT``     acknowledges and proves life: (last message number, bulk bytes received, age of the last byte heard).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Union

Buffer = Union[bytes, bytearray, memoryview]

MAGIC = b"HO"
VERSION = 1

HELLO, MESSAGE, CHUNK, BEAT = 1, 2, 3, 4

#: A header beyond this is refused unread: a batch of 100,000 tasks needs about 10 MiB.
MAX_HEADER = 64 << 20
#: A payload beyond this is refused unread; larger things are streams.
MAX_PAYLOAD = 64 << 20

_PREFIX = struct.Struct("<2sBBIIQ")
_CHECK = struct.Struct("<I")
_CHUNK = struct.Struct("<IQI")
_BEAT = struct.Struct("<QQI")
PREFIX_SIZE = _PREFIX.size + _CHECK.size

_dumps = json.JSONEncoder(separators=(",", ":")).encode


class ProtocolError(ValueError):
    """The other side sent what the protocol does not allow."""


class Hello(NamedTuple):
    """What a side says first."""

    fields: dict[str, Any]


class Message(NamedTuple):
    """A control message: ``fields["m"]`` names it."""

    number: int
    fields: dict[str, Any]
    payload: Buffer


class Piece(NamedTuple):
    """Some bytes of a bulk stream. A chunk may arrive as several pieces; ``last`` marks the stream's end."""

    stream: int
    offset: int
    data: Buffer
    #: Bytes that the sender has in flight at most: says how often it wants to hear of progress.
    window: int
    last: bool


class Beat(NamedTuple):
    """What the other side has received so far."""

    number: int
    received: int
    #: Milliseconds since the other side last heard anything from this one, when it sent this.
    age_ms: int


Frame = Union[Hello, Message, Piece, Beat]

#: Set in a chunk's ``window`` word where the chunk ends its stream.
_LAST = 1 << 31


def _frame(kind: int, header: bytes, payload_size: int, number: int) -> bytes:
    prefix = _PREFIX.pack(MAGIC, VERSION, kind, len(header), payload_size, number)
    return prefix + _CHECK.pack(zlib.crc32(header, zlib.crc32(prefix))) + header


def encode_hello(fields: dict[str, Any]) -> bytes:
    """The bytes that open a connection."""
    return _frame(HELLO, _dumps(fields).encode(), 0, 0)


def encode_message(number: int, fields: dict[str, Any], payload: Sequence[Buffer] = ()) -> list[Buffer]:
    """One control message as segments, to be written in order.

    Raises:
        ProtocolError: It is larger than a frame may be.
    """
    header = _dumps(fields).encode()
    size = sum(len(p) for p in payload)
    if len(header) > MAX_HEADER or size > MAX_PAYLOAD:
        raise ProtocolError(f"message {fields.get('m')!r} of {len(header)} + {size} bytes is over the frame limit")
    return [_frame(MESSAGE, header, size, number), *payload]


def encode_chunk(stream: int, offset: int, data: Buffer, window: int, last: bool) -> list[Buffer]:
    """One chunk of a bulk stream as segments; ``data`` is not copied."""
    header = _CHUNK.pack(stream, offset, window | (_LAST if last else 0))
    return [_frame(CHUNK, header, len(data), 0), data]


def encode_beat(beat: Beat) -> bytes:
    """An acknowledgement, which is also the heartbeat."""
    return _frame(BEAT, _BEAT.pack(beat.number, beat.received, min(beat.age_ms, 0xFFFFFFFF)), 0, 0)


class Decoder:
    """Turns any split of the byte stream into the same frames.

    Memory held is at most one control message; chunk payloads are handed on as they come.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        #: Bytes that ``_held`` must reach before it can be parsed further.
        self._need = PREFIX_SIZE
        #: The chunk whose payload is arriving: (stream, offset, window, last), and how much is left of it.
        self._chunk = (0, 0, 0, False)
        self._left = 0

    def feed(self, data: Buffer) -> list[Frame]:
        """Take bytes as they came, and return the frames that they complete.

        Raises:
            ProtocolError: The bytes are not this protocol; the connection must be closed.
        """
        frames: list[Frame] = []
        view = memoryview(data)
        position, end = 0, len(view)
        while position < end:
            if self._left:
                take = min(self._left, end - position)
                self._emit_piece(frames, view[position : position + take])
                position += take
                continue
            if not self._held:
                used = self._parse(view[position:], frames)
                if used:
                    position += used
                    continue
            take = min(self._need - len(self._held), end - position)
            self._held += view[position : position + take]
            position += take
            if len(self._held) >= self._need:
                held = memoryview(bytes(self._held))
                used = self._parse(held, frames)
                if used:
                    self._held.clear()
                    self._need = PREFIX_SIZE
        return frames

    def _emit_piece(self, frames: list[Frame], data: memoryview) -> None:
        stream, offset, window, last = self._chunk
        self._left -= len(data)
        self._chunk = (stream, offset + len(data), window, last)
        frames.append(Piece(stream, offset, data, window, last and self._left == 0))

    def _parse(self, view: memoryview, frames: list[Frame]) -> int:
        """Parse one frame (a chunk: its header) at the start of ``view``; 0 where it is not all there yet."""
        if len(view) < PREFIX_SIZE:
            self._need = PREFIX_SIZE
            return 0
        magic, version, kind, header_size, payload_size, number = _PREFIX.unpack_from(view)
        if magic != MAGIC:
            raise ProtocolError(f"not a Handout frame: starts with {bytes(view[:16])!r}")
        if version != VERSION:
            raise ProtocolError(f"wire version {version}, this side speaks {VERSION}")
        if not HELLO <= kind <= BEAT or header_size > MAX_HEADER or payload_size > MAX_PAYLOAD:
            raise ProtocolError(f"frame of kind {kind} with {header_size} + {payload_size} bytes is not allowed")
        whole: int = PREFIX_SIZE + header_size + (0 if kind == CHUNK else payload_size)
        if len(view) < whole:
            self._need = whole
            return 0
        header = view[PREFIX_SIZE : PREFIX_SIZE + header_size]
        (check,) = _CHECK.unpack_from(view, _PREFIX.size)
        if check != zlib.crc32(header, zlib.crc32(view[: _PREFIX.size])):
            raise ProtocolError("the checksum of a frame's header does not match")
        if kind == MESSAGE:
            frames.append(Message(number, _fields(header), view[PREFIX_SIZE + header_size : whole]))
        elif kind == BEAT:
            frames.append(Beat(*_unpack(_BEAT, header)))
        elif kind == HELLO:
            frames.append(Hello(_fields(header)))
        else:
            stream, offset, window = _unpack(_CHUNK, header)
            self._chunk = (stream, offset, window & (_LAST - 1), bool(window & _LAST))
            self._left = payload_size
            if not payload_size:
                self._emit_piece(frames, view[:0])
        return whole


def _unpack(layout: struct.Struct, header: memoryview) -> Any:
    if len(header) != layout.size:
        raise ProtocolError(f"a header of {len(header)} bytes where {layout.size} belong")
    return layout.unpack(header)


def _fields(header: memoryview) -> dict[str, Any]:
    try:
        fields = json.loads(bytes(header))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a header that is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ProtocolError("a header that is not an object")
    return fields
