"""The decoder, the session and the bootstrap get a million damaged inputs, and the inputs that hypothesis generates.

They may raise `ProtocolError`, and the bootstrap may raise `BootstrapError`, but no other error. Nothing may hang, and
memory is never allocated for a length that was not checked.
"""

from __future__ import annotations

import json
import random
import tracemalloc
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handout.errors import BootstrapError
from handout.protocol import frames as wire
from handout.protocol.frames import Beat, Decoder, Hello, ProtocolError
from handout.protocol.session import Session
from handout.transport.bootstrap import Bootstrap
from handout.transport.start_output import HopelessOutput

#: One million inputs in all. Each part takes one or two seconds.
PARTS, INPUTS = 10, 100_000

_EXTREME = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (64 << 20) + 1]
_HEADERS = [
    b"null", b"[]", b"{}", b'{"m":NaN}', b'{"m":-Infinity}', b'{"m":1e999}', b'{"m":"\xff"}', b"\xef\xbb\xbf{}",
    b'{"m":' + b"9" * 5000 + b"}", b"[" * 3000, b'{"a":' * 2000, b'{"state":[]}', b'{"state":{"number":-1}}',
    b'{"state":{"number":"1","streams":{"1":null,"x":1}}}', b'{"token":7}', b'{"m":"\\ud800"}', b"\x00\x00\x00{",
]  # fmt: skip


def _joined(parts: list[wire.Buffer]) -> bytes:
    return b"".join(bytes(part) for part in parts)


def _corpus() -> list[bytes]:
    state = {"number": 0, "streams": {"7": 512}}
    frames = [
        wire.encode_hello({"token": "ab" * 32, "agent": "a1", "connection": 3, "state": state}),
        _joined(wire.encode_message(1, {"m": "tasks", "attempt_ids": [1, 2], "names": ["a", "b"]}, [b"abc", b"d" * 40])),
        _joined(wire.encode_message(2, {"m": "finished", "attempt_ids": [1], "elapsed_us": [7], "sizes": [[3]], "inline_sizes": [[3]]}, [b"xyz"])),
        _joined(wire.encode_message(3, {"m": "drop", "key": []})),
        _joined(wire.encode_chunk(7, 0, b"z" * 60, 65536, False)),
        _joined(wire.encode_chunk(7, 60, b"", 65536, True)),
        wire.encode_beat(Beat(0, 0, 20)),
        *(wire._frame(kind, header, 0, 1) for kind in (wire.HELLO, wire.MESSAGE) for header in _HEADERS),
    ]  # fmt: skip
    return [*frames, b"".join(frames[:7])]


CORPUS = _corpus()


def _damaged(chance: random.Random) -> bytes:
    """Return one input: one or several real frames, with one to three random changes."""
    data = bytearray(chance.choice(CORPUS))
    for _ in range(chance.randrange(1, 4)):
        act = chance.randrange(7)
        at = chance.randrange(len(data)) if data else 0
        if act == 0 and data:
            data[at] ^= 1 << chance.randrange(8)
        elif act == 1:
            del data[at:]
        elif act == 2:
            del data[at : at + chance.randrange(1, 9)]
        elif act == 3:
            data[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif act == 4:
            other = chance.choice(CORPUS)
            data[at:] = other[chance.randrange(len(other)) :]
        elif act == 5:
            data += chance.choice(CORPUS)
        else:
            data[4:8] = chance.choice(_EXTREME).to_bytes(4, "little")
            data[8:12] = chance.choice(_EXTREME).to_bytes(4, "little")
    if chance.randrange(2) and len(data) >= wire.PREFIX_SIZE:
        _mend_checks(data)
    return bytes(data)


def _mend_checks(data: bytearray) -> None:
    """Make the checksums match the damaged data. An attacker can send such data; a faulty line does not."""
    size = wire._PREFIX.size
    whole = wire.PREFIX_SIZE + int.from_bytes(data[4:8], "little")
    if data[3] != wire.CHUNK:
        whole += int.from_bytes(data[8:12], "little")
    checks = zlib.crc32(data[:size]), zlib.crc32(data[wire.PREFIX_SIZE : whole])
    data[size : wire.PREFIX_SIZE] = wire._CHECKS.pack(*checks)


def _hear(data: bytes, cut: int) -> None:
    """Give the bytes to a session in two parts, and handle the frames that it returns as a link does."""
    session = Session(heartbeat_s=2.0, now=0.0)
    for number in range(3):
        session.send({"m": str(number)})
    session.open(0.0)
    session.hello({}, 0.0)
    for part in (data[:cut], data[cut:]):
        for frame in session.receive(part, 1.0):
            if type(frame) is Hello:
                session.attach(frame.fields.get("state"), 1.0)
        session.take(1.0)


@pytest.mark.parametrize("part", [0, 1, *(pytest.param(part, marks=pytest.mark.full) for part in range(2, PARTS))])
def test_a_million_damaged_inputs_give_frames_or_a_protocol_error(part: int) -> None:
    chance = random.Random(part)
    refused = 0
    for number in range(INPUTS):
        data = _damaged(chance)
        try:
            if number % 4:
                for _ in Decoder(greets=number % 4 == 1).feed(data):
                    pass
            else:
                _hear(data, chance.randrange(len(data) + 1))
        except ProtocolError:
            refused += 1
    assert INPUTS // 10 < refused < INPUTS  # the decoder refuses many inputs, and accepts some


def test_no_length_makes_a_decoder_allocate() -> None:
    """A prefix may announce any length. The decoder allocates memory only for bytes that have arrived."""
    tracemalloc.start()
    try:
        for header_size in (*_EXTREME, wire.MAX_HEADER):
            for kind in range(6):
                prefix = wire._PREFIX.pack(wire.MAGIC, wire.VERSION, kind, header_size, wire.MAX_PAYLOAD, 1)
                try:
                    list(Decoder().feed(prefix + wire._CHECKS.pack(zlib.crc32(prefix), 0) + b"{" * 100))
                except ProtocolError:
                    pass
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_large_message_in_small_parts_costs_what_its_bytes_cost(size: int) -> None:
    """The decoder copies each byte only a few times, however small the parts are."""
    data = _joined(wire.encode_message(1, {"m": "x", "pad": "y" * 100_000}))
    decoder = Decoder()
    tracemalloc.start()
    try:
        frames = [frame for at in range(0, len(data), size) for frame in decoder.feed(data[at : at + size])]
        assert tracemalloc.get_traced_memory()[1] < 10 * len(data)
    finally:
        tracemalloc.stop()
    assert [type(frame) for frame in frames] == [wire.Message]


LEAVES: list[object] = [None, True, False, 0, -1, 7, 2**70, 0.5, -1e300, "", "1", "é\x00", [], {}, [3, 12, 1]]
JSON = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["1", "7", "x"]), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["number", "streams", "state", "token", "agent", "connection", "m"])


@given(st.dictionaries(NAMES, JSON | st.dictionaries(NAMES, JSON)))
def test_a_hello_of_any_shape_is_taken_or_refused(fields: dict[str, object]) -> None:
    try:
        _hear(wire.encode_hello(fields), 30)
    except ProtocolError:
        pass


ANSWER = {
    "folder": "/run/h", "bundle": "/run/h/b.zip", "executable": "/usr/bin/python3", "python": [3, 12, 1],
    "probed": {"cpu": 4}, "lingers": True, "agent": "a1", "supervisor": 7,
}  # fmt: skip


@given(st.dictionaries(st.sampled_from([*ANSWER, "error", "message"]), JSON, min_size=1))
def test_an_answer_of_any_shape_is_taken_or_refused_by_name(odd: dict[str, object]) -> None:
    _answered(json.dumps({**ANSWER, **odd}).encode())


@example(b"=").via("begins a line of the input")
@example(b"setup").via("tells the beginning of a setup line that the host does not have")
@given(st.binary(max_size=300))
def test_an_answer_of_any_bytes_is_refused_by_name(line: bytes) -> None:
    _answered(line.replace(b"\n", b""))


@pytest.mark.parametrize("line", [b"[" * 60_000, b'{"python":' + b"9" * 50_000 + b"}", b'{"python":[1e999,0,0]}'])
def test_an_answer_made_to_harm_is_refused_by_name(line: bytes) -> None:
    with pytest.raises(BootstrapError, match="far"):
        _answered_strictly(line)


def test_an_answer_without_an_end_is_not_read_on() -> None:
    bootstrap = Bootstrap("far", None, {})
    bootstrap.output.feed(b"\n" + bootstrap.marker.encode())
    for _ in range(100):
        if bootstrap.output.feed(b"x" * 4096):
            break
    assert len(bootstrap.output.noise) < 1 << 17
    with pytest.raises(BootstrapError, match="not as an agent does"):
        bootstrap.result()


def _answered_strictly(line: bytes) -> None:
    bootstrap = Bootstrap("far", None, {})
    assert bootstrap.output.feed(b"\n" + bootstrap.marker.encode() + line + b"\n")
    bootstrap.result()


def _answered(line: bytes) -> None:
    bootstrap = Bootstrap("far", None, {})
    try:
        bootstrap.output.feed(b"\n" + bootstrap.marker.encode() + line + b"\n")
        bootstrap.result()
    except (BootstrapError, HopelessOutput):
        pass
