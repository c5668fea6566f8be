"""Frames: bytes that arrive in any pieces give the same frames, and garbage gives an error and never a hang."""

from __future__ import annotations

import zlib
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handout.protocol import frames as wire
from handout.protocol.frames import Beat, Decoder, Hello, Message, Piece, ProtocolError


def _stream() -> bytes:
    parts = [
        wire.encode_hello({"token": "x"}),
        *wire.encode_message(1, {"m": "tasks", "attempt_ids": [1, 2]}, [b"abc", b"d" * 1000]),
        *wire.encode_chunk(7, 0, b"z" * 700, 65536, False),
        wire.encode_beat(Beat(1, 700, 20)),
        *wire.encode_message(2, {"m": "drop", "key": []}),
        *wire.encode_chunk(7, 700, b"", 65536, True),
    ]
    return b"".join(bytes(p) for p in parts)


def _joined(frames: list[wire.Frame]) -> list[object]:
    """Return the frames, with the pieces of each chunk joined into one."""
    joined: list[object] = []
    for frame in frames:
        if isinstance(frame, Piece):
            before = joined[-1] if joined else None
            if isinstance(before, Piece) and before.stream == frame.stream and not before.last and frame.offset:
                if before.offset + len(before.data) == frame.offset and len(frame.data):
                    data = bytes(before.data) + bytes(frame.data)
                    joined[-1] = Piece(frame.stream, before.offset, data, frame.window, frame.last)
                    continue
            joined.append(frame._replace(data=bytes(frame.data)))
        elif isinstance(frame, Message):
            joined.append(frame._replace(payload=bytes(frame.payload)))
        else:
            joined.append(frame)
    return joined


WHOLE = _joined(list(Decoder().feed(_stream())))


def test_a_stream_of_every_kind_of_frame_comes_back() -> None:
    assert [type(f) for f in WHOLE] == [Hello, Message, Piece, Beat, Message, Piece]
    assert WHOLE[1] == Message(1, {"m": "tasks", "attempt_ids": [1, 2]}, b"abc" + b"d" * 1000)
    assert WHOLE[2] == Piece(7, 0, b"z" * 700, 65536, False)
    assert WHOLE[5] == Piece(7, 700, b"", 65536, True)


@given(st.lists(st.integers(1, 400), max_size=40))
def test_any_split_gives_the_same_frames(sizes: list[int]) -> None:
    decoder, rest, frames = Decoder(), _stream(), []
    for size in sizes:
        frames += decoder.feed(rest[:size])
        rest = rest[size:]
    frames += decoder.feed(rest)
    assert _joined(frames) == WHOLE


def test_byte_by_byte_gives_the_same_frames() -> None:
    decoder = Decoder()
    frames = [frame for byte in _stream() for frame in decoder.feed(bytes([byte]))]
    assert _joined(frames) == WHOLE


@given(st.binary(min_size=wire.PREFIX_SIZE, max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    if data[:2] != wire.MAGIC:
        with pytest.raises(ProtocolError):
            list(Decoder().feed(data))


@given(st.integers(0, wire.PREFIX_SIZE - 5), st.integers(1, 255))
def test_a_flipped_prefix_is_noticed_at_once(position: int, flip: int) -> None:
    """The decoder notices a wrong length as well.

    If it waited for that many bytes, it would swallow the frames that follow.
    """
    frame = bytearray(b"".join(bytes(p) for p in wire.encode_message(1, {"m": "x"}, [b"abc"])))
    frame[position] ^= flip
    with pytest.raises(ProtocolError):
        list(Decoder().feed(bytes(frame[: wire.PREFIX_SIZE])))


@given(st.integers(0, 200), st.integers(1, 255))
def test_any_flip_in_a_message_is_noticed(position: int, flip: int) -> None:
    frame = bytearray(b"".join(bytes(p) for p in wire.encode_message(1, {"m": "x"}, [b"abc" * 20])))
    frame[position % len(frame)] ^= flip
    with pytest.raises(ProtocolError):
        list(Decoder().feed(bytes(frame)))


def test_what_came_before_a_bad_frame_is_given() -> None:
    feed = Decoder().feed(_stream() + b"noise" * 10)
    assert _joined(list(islice(feed, len(WHOLE)))) == WHOLE
    with pytest.raises(ProtocolError):
        next(feed)


@pytest.mark.parametrize("first", [b"", wire.encode_hello({})], ids=["before any", "after one"])
def test_a_conversation_begins_with_one_hello(first: bytes) -> None:
    follows = wire.encode_hello({}) if first else wire.encode_beat(Beat(0, 0, 0))
    with pytest.raises(ProtocolError, match="hello"):
        list(Decoder(greets=True).feed(first + follows))


@pytest.mark.parametrize(
    ("kind", "header", "payload"),
    [
        (wire.HELLO, wire.MAX_HELLO + 1, 0),
        (wire.HELLO, 2, 1),
        (wire.MESSAGE, wire.MAX_HEADER + 1, 0),
        (wire.MESSAGE, 2, wire.MAX_PAYLOAD + 1),
        (wire.CHUNK, 17, 0),
        (wire.BEAT, 20, 1),
        (5, 2, 0),
    ],
)
def test_sizes_that_no_frame_has_are_refused_unread(kind: int, header: int, payload: int) -> None:
    prefix = wire._PREFIX.pack(wire.MAGIC, wire.VERSION, kind, header, payload, 0)
    with pytest.raises(ProtocolError, match="not allowed"):
        list(Decoder().feed(prefix + wire._CHECKS.pack(zlib.crc32(prefix), 0)))


@pytest.mark.parametrize(
    "header", [b"[]", b"{ ", b"\xff\xff", b"[" * 100_000, b'{"n":NaN}', b'{"n":1' + b"0" * 100_000 + b"}"]
)
def test_a_header_that_is_no_object_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(Decoder().feed(wire._frame(wire.MESSAGE, header, 0, 1)))


def test_another_version_is_refused_by_name() -> None:
    frame = bytearray(wire.encode_hello({}))
    frame[2] = 99
    with pytest.raises(ProtocolError, match="version 99"):
        list(Decoder().feed(bytes(frame)))


def test_a_message_over_the_limit_is_refused_where_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_PAYLOAD", 10)
    with pytest.raises(ProtocolError, match="frame limit"):
        wire.encode_message(1, {"m": "objects"}, [b"x" * 11])
