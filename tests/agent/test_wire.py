"""The wire: any split into chunks gives the same frames; garbage gives an error, never a hang."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handout.agent import wire
from handout.agent.wire import Beat, Decoder, Hello, Message, Piece, ProtocolError


def _stream() -> bytes:
    parts = [
        wire.encode_hello({"token": "x"}),
        *wire.encode_message(1, {"m": "tasks", "ticket": [1, 2]}, [b"abc", b"d" * 1000]),
        *wire.encode_chunk(7, 0, b"z" * 700, 65536, False),
        wire.encode_beat(Beat(1, 700, 20)),
        *wire.encode_message(2, {"m": "drop", "key": []}),
        *wire.encode_chunk(7, 700, b"", 65536, True),
    ]
    return b"".join(bytes(p) for p in parts)


def _joined(frames: list[wire.Frame]) -> list[object]:
    """Frames with the pieces of a chunk put together again."""
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


WHOLE = _joined(Decoder().feed(_stream()))


def test_a_stream_of_every_kind_of_frame_comes_back() -> None:
    assert [type(f) for f in WHOLE] == [Hello, Message, Piece, Beat, Message, Piece]
    assert WHOLE[1] == Message(1, {"m": "tasks", "ticket": [1, 2]}, b"abc" + b"d" * 1000)
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
            Decoder().feed(data)


@given(st.integers(0, 19), st.integers(1, 255))
def test_a_flipped_prefix_is_noticed_before_its_lengths_are_believed(position: int, flip: int) -> None:
    frame = bytearray(b"".join(bytes(p) for p in wire.encode_message(1, {"m": "x"}, [b"abc"])))
    frame[position] ^= flip
    decoder = Decoder()
    try:
        assert decoder.feed(bytes(frame)) == []  # a longer length waits for more, in bounded memory
    except ProtocolError:
        return
    assert decoder._need <= wire.PREFIX_SIZE + wire.MAX_HEADER + wire.MAX_PAYLOAD


@pytest.mark.parametrize("header", [b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_header_that_is_no_object_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(wire._frame(wire.MESSAGE, header, 0, 1))


def test_another_version_is_refused_by_name() -> None:
    frame = bytearray(wire.encode_hello({}))
    frame[2] = 99
    with pytest.raises(ProtocolError, match="version 99"):
        Decoder().feed(bytes(frame))


def test_a_message_over_the_limit_is_refused_where_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_PAYLOAD", 10)
    with pytest.raises(ProtocolError, match="frame limit"):
        wire.encode_message(1, {"m": "objects"}, [b"x" * 11])
