"""The session delivers each message once and in order, although its connections may drop after any byte.

It keeps the bulk data in flight within the window.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handout.protocol import frames, session
from handout.protocol.frames import Hello, Message, Piece, ProtocolError
from handout.protocol.session import MIN_WINDOW, Session, Source


class Bytes(Source):
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.there = self.size
        self.closed = False

    def read(self, offset: int, size: int) -> memoryview:
        return memoryview(self.data)[offset : min(offset + size, self.there)]

    def close(self) -> None:
        self.closed = True


class End:
    """One side of a conversation: a session, and the messages and streams that it has received."""

    def __init__(self) -> None:
        self.session = Session(heartbeat_s=2.0, now=0.0)
        self.messages: list[str] = []
        self.streams: dict[int, bytearray] = {}

    def feed(self, data: bytes, now: float) -> None:
        for frame in self.session.receive(data, now):
            if isinstance(frame, Hello):
                self.session.attach(frame.fields["state"], now)
            elif isinstance(frame, Message):
                self.messages.append(frame.fields["m"])
            elif isinstance(frame, Piece):
                got = self.streams.setdefault(frame.stream, bytearray())
                assert len(got) == frame.offset
                got += frame.data


class Line:
    """A connection between two ends, which can drop after any byte."""

    def __init__(self) -> None:
        self.a, self.b = End(), End()
        self.now = 0.0
        self.connect()

    def connect(self) -> None:
        for end in (self.a, self.b):
            end.session.detach()
            end.session.open(self.now)
        to_b, to_a = self.a.session.hello({}, self.now), self.b.session.hello({}, self.now)
        self.b.feed(to_b, self.now)
        self.a.feed(to_a, self.now)

    def step(self, cut_after: int | None = None, elapsed_s: float = 0.001) -> bool:
        """Deliver the bytes that each side has to send, and return True if there were any.

        If there are more than ``cut_after`` bytes, deliver only so many, drop the connection and make it again, and
        return False.
        """
        self.now += elapsed_s
        moved = 0
        for source, target in ((self.a, self.b), (self.b, self.a)):
            data = b"".join(bytes(s) for s in source.session.take(self.now))
            if cut_after is not None and moved + len(data) > cut_after:
                target.feed(data[: cut_after - moved], self.now)
                self.connect()
                return False
            target.feed(data, self.now)
            moved += len(data)
        return moved > 0

    def settle(self) -> None:
        while self.step():
            pass


def test_messages_and_a_stream_arrive_both_ways() -> None:
    line, blob = Line(), bytes(range(256)) * 4000
    line.a.session.send({"m": "one"})
    line.a.session.send({"m": "two"}, [b"payload"])
    source = Bytes(blob)
    line.b.session.send({"m": "stream"})
    line.b.session.send_stream(5, source)
    line.settle()
    assert line.b.messages == ["one", "two"]
    assert line.a.messages == ["stream"]
    assert line.a.streams[5] == blob
    assert source.closed


@given(st.lists(st.integers(0, 5000), max_size=12), st.integers(1, 40), st.integers(0, 200_000))
def test_a_line_that_drops_anywhere_loses_and_repeats_nothing(cuts: list[int], count: int, size: int) -> None:
    line, blob = Line(), bytes(i % 251 for i in range(size))
    for i in range(count):
        line.a.session.send({"m": f"a{i}"})
        line.b.session.send_bulk({"m": f"b{i}"}, [b"x" * 50])
    line.a.session.send_stream(1, Bytes(blob))
    line.b.session.send_stream(1, Bytes(blob))
    for cut in cuts:
        line.step(cut_after=cut)
    line.settle()
    assert line.b.messages == [f"a{i}" for i in range(count)]
    assert line.a.messages == [f"b{i}" for i in range(count)]
    assert line.a.streams[1] == blob
    assert line.b.streams[1] == blob


def test_control_goes_before_bulk_that_was_queued_first() -> None:
    line = Line()
    line.settle()
    line.a.session.send_stream(1, Bytes(bytes(10 << 20)))
    line.a.session.send({"m": "urgent"})
    first = line.a.session.take(line.now)
    line.b.feed(bytes(first[0]), line.now)
    assert line.b.messages == ["urgent"]


def test_bulk_in_flight_stays_within_the_window_until_it_is_acknowledged() -> None:
    line = Line()
    line.settle()
    line.a.session.send_stream(1, Bytes(bytes(10 << 20)))
    taken = 0
    while segments := line.a.session.take(line.now):
        taken += sum(len(s) for s in segments)
    assert MIN_WINDOW <= taken <= MIN_WINDOW + (20 << 10)


def test_the_window_grows_on_a_fast_line_and_stays_small_on_a_slow_one() -> None:
    fast, slow = Line(), Line()
    for line in (fast, slow):
        line.settle()
        line.a.session.send_stream(1, Bytes(bytes(64 << 20)))
    for _ in range(60):
        fast.step(elapsed_s=0.0005)
        data = b"".join(bytes(s) for s in slow.a.session.take(slow.now))
        slow.now += len(data) / 250_000  # 2 Mbit/s
        slow.b.feed(data, slow.now)
        slow.a.feed(b"".join(bytes(s) for s in slow.b.session.take(slow.now)), slow.now)
    assert fast.a.session.credit.window > 4 << 20
    assert slow.a.session.credit.window < 100 << 10


def test_the_round_trip_is_known_from_the_first_answer_on() -> None:
    """A round trip that is measured behind the sender's own bulk data is too long.

    With such a measurement, the window would allow the very queue that it must prevent.
    """
    line = Line()
    line.settle()
    for end in (line.a, line.b):
        assert 0 < end.session.credit.rtt_s <= 0.003


def test_a_line_that_slows_down_is_not_left_waiting_for_an_acknowledgement() -> None:
    line = Line()
    line.settle()
    line.a.session.send_stream(1, Bytes(bytes(40 << 20)))
    while line.a.session.credit.window < 8 << 20:
        line.step()
    line.settle()
    source = Bytes(bytes(8 << 20))
    line.a.session.send_stream(2, source)
    data = b"".join(bytes(s) for _ in range(2) for s in line.a.session.take(line.now, 900 << 10))
    line.now += 5.0
    # At this window, the peer acknowledges every 1 MiB. 1100 KiB are enough for that, and the other 700 KiB are not.
    line.b.feed(data[: 1100 << 10], line.now)
    line.a.feed(b"".join(bytes(s) for s in line.b.session.take(line.now)), line.now)
    line.b.feed(data[1100 << 10 :], line.now)
    began = line.now
    line.settle()
    assert source.closed
    assert line.now - began < 1.0


def test_what_was_sent_before_a_pause_says_nothing_about_the_line() -> None:
    line = Line()
    line.settle()
    for stream in (1, 2):
        line.a.session.send_stream(stream, Bytes(bytes(40 << 20)))
        line.settle()
        line.a.session.send({"m": "small"})
        line.settle()
        window = line.a.session.credit.window
        assert window > 4 << 20
        line.now += 1.5
    line.a.session.send_stream(3, Bytes(bytes(40 << 20)))
    line.step()
    line.step()
    assert line.a.session.credit.window >= window


def test_output_of_tasks_is_held_back_by_the_window_as_well() -> None:
    line = Line()
    line.settle()
    for _ in range(100):
        line.a.session.send_bulk({"m": "log"}, [b"x" * 10_000])
    taken = sum(len(s) for s in line.a.session.take(line.now))
    assert taken < MIN_WINDOW + 20_000


def test_a_source_without_bytes_yet_waits_to_be_woken() -> None:
    line, source = Line(), Bytes(b"x" * 1000)
    source.there = 0
    line.a.session.send_stream(3, source)
    line.settle()
    assert 3 not in line.b.streams
    source.there = 1000
    line.a.session.wake(3)
    line.settle()
    assert line.b.streams[3] == source.data


def test_an_empty_stream_ends_as_well() -> None:
    line = Line()
    line.a.session.send_stream(3, Bytes(b""))
    line.settle()
    assert line.b.streams[3] == b""


def test_a_beat_is_due_when_nothing_else_was_sent() -> None:
    line = Line()
    line.settle()
    assert not line.a.session.take(line.now)
    line.now += 2.5
    assert line.a.session.take(line.now)


def test_a_peer_that_no_longer_hears_does_not_prolong_the_lease() -> None:
    line = Line()
    line.settle()
    start = line.a.session.last_mutual
    for _ in range(10):  # the bytes of b arrive, and those of a do not
        line.now += 2.0
        line.a.session.take(line.now)
        line.a.feed(b"".join(bytes(s) for s in line.b.session.take(line.now)), line.now)
    assert line.a.session.last_heard == line.now
    assert line.a.session.last_mutual <= start + 0.1


def test_messages_before_a_bad_frame_of_the_same_read_are_delivered() -> None:
    """The messages count as received, so the other side does not send them again."""
    line = Line()
    line.a.session.send({"m": "one"})
    line.a.session.send({"m": "two"})
    good = b"".join(bytes(s) for s in line.a.session.take(line.now))
    with pytest.raises(ProtocolError):
        line.b.feed(good + b"noise" * 10, line.now)
    line.connect()
    line.a.session.send({"m": "three"})
    line.b.feed(b"".join(bytes(s) for s in line.a.session.take(line.now)), line.now)
    assert line.b.messages == ["one", "two", "three"]


def test_more_streams_than_a_hello_can_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_MAX_INCOMING", 3)
    line = Line()
    for number in range(3):
        line.b.feed(b"".join(bytes(p) for p in frames.encode_chunk(number, 0, b"x", 0, False)), line.now)
    with pytest.raises(ProtocolError, match="streams"):
        line.b.feed(b"".join(bytes(p) for p in frames.encode_chunk(3, 0, b"x", 0, False)), line.now)
