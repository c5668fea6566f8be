"""One side of a conversation between a controller and an agent. This module does no I/O.

A conversation is all that the two sides tell each other, in messages and in streams. It goes on over a new connection
when a connection breaks. A `Session` holds the state of one side, and calls the other side the peer.

A session numbers each message and keeps the message until the peer acknowledges it, so that a broken connection loses
nothing. On the next connection, each side begins with a hello, which says what the side has received. Then each side
sends again what the peer has not received. A session does not keep bytes of streams. After a broken connection, it
reads them from their source again, from the offset that the peer has reached.

A session sends messages before streams, except bulk messages, such as text that tasks have printed. Bulk messages take
turns with streams. The peer acknowledges all bytes and messages with beats. A beat is a frame that is also a heartbeat.

Bytes that were sent and are not acknowledged are in flight. The window is ``bandwidth x (round trip + 100 ms)``, but at
least 64 KiB and at most 16 MiB. A session sends streams and bulk messages only while fewer bytes than the window are in
flight, because more bytes would only fill the buffers between the two sides, and delay every heartbeat.

The owner of a session does the I/O. It passes the bytes that arrive to `Session.receive`, and writes the bytes that
`Session.take` returns. All times are in seconds of a monotonic clock.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from handout.protocol.frames import (
    Beat,
    Buffer,
    Decoder,
    Hello,
    Message,
    Piece,
    ProtocolError,
    encode_beat,
    encode_chunk,
    encode_hello,
    encode_message,
)

MIN_WINDOW = 64 << 10
MAX_WINDOW = 16 << 20
#: The window is bandwidth x (`QUEUE_RTTS` x round trip + `QUEUE_S` seconds), but at least `MIN_WINDOW` and at most
#: `MAX_WINDOW`. While the window limits the measured bandwidth, it must grow with each round trip. On a line with a
#: round trip of 2 s, the 0.1 s alone let it grow by 5 %, so 2 MB took two minutes.
QUEUE_S = 0.1
QUEUE_RTTS = 2.0
_CHUNK_MIN = 16 << 10
_CHUNK_MAX = 256 << 10
#: Of the incoming streams that have ended, a session remembers this many. The peer may send pieces of them again over
#: the next connection, and the session ignores such pieces.
_ENDED_KEPT = 1024
#: The largest number of incoming streams that a session remembers. It is limited because a hello lists all of them, and
#: must not be larger than `frames.MAX_HELLO`.
_MAX_INCOMING = 1 << 20


class Source(abc.ABC):
    """Provides the bytes of an outgoing stream."""

    #: Size of the whole stream in bytes.
    size: int = 0

    @abc.abstractmethod
    def read(self, offset: int, size: int) -> Buffer:
        """Return at most ``size`` bytes from ``offset`` on. Return an empty buffer if no more bytes have arrived yet.

        When more bytes arrive, the owner of the session must call `Session.wake`.
        """

    def close(self) -> None:  # noqa: B027 - some sources have nothing to release
        """Release the source, because the peer has received the whole stream, or the stream was stopped."""


class _Write(NamedTuple):
    """One write to the connection, and the state of `Credit` at that time."""

    #: How many bytes were sent on the connection so far, including this write.
    sent: int
    #: When the bytes were written.
    at: float
    #: How many bytes the peer had acknowledged at that time.
    acknowledged: int
    #: The value of `Credit._since` at that time. The measurement of the bandwidth with this write begins then.
    since: float
    #: True if the sender had nothing more to send.
    idle: bool


class Credit:
    """Computes the window of one connection, from the peer's acknowledgements.

    The bytes of all kinds of frames count as in flight. If as many bytes as the window are in flight, only streams and
    bulk messages must wait.
    """

    def __init__(self) -> None:
        self.window = MIN_WINDOW
        self.bytes_per_s = 0.0
        self.rtt_s = 0.0
        self.sent = 0
        self.acknowledged = 0
        #: When the last acknowledgement arrived, or when sending began again after a pause with nothing to send. The
        #: later of the two times counts.
        self._since = 0.0
        self._idle = True
        #: How many bytes had been sent when the window last shrank. The window does not shrink again until the peer has
        #: acknowledged these bytes.
        self._shrunk_at = 0
        #: Writes that the peer has not acknowledged, oldest first.
        self._writes: deque[_Write] = deque()

    @property
    def free(self) -> int:
        return self.window - (self.sent - self.acknowledged)

    def on_sent(self, nbytes: int, now: float, idle: bool) -> None:
        if self._idle:
            self._since = now
        self._idle = idle
        self.sent += nbytes
        self._writes.append(_Write(self.sent, now, self.acknowledged, self._since, idle))

    def on_acknowledged(self, total: int, now: float) -> None:
        if total <= self.acknowledged:
            return
        self.acknowledged, self._since = total, now
        write = None
        while self._writes and self._writes[0].sent <= total:
            write = self._writes.popleft()
        if write is None:
            return
        _, left_at, acknowledged, since, idle = write
        elapsed = max(now - left_at, 1e-6)
        self.rtt_s = min(self.rtt_s, elapsed) if self.rtt_s else elapsed
        # A measurement of the bandwidth begins at an earlier acknowledgement. If it began at the time when the bytes
        # were sent, the connection would look too fast whenever delayed acknowledgements arrive in a burst.
        self.bytes_per_s = (total - acknowledged) / max(now - since, 1e-6)
        target = int(self.bytes_per_s * (QUEUE_RTTS * self.rtt_s + QUEUE_S))
        # If the sender had nothing more to send, the measured bandwidth is too low. Such a measurement never raises the
        # window. It lowers the window only if this acknowledgement took at least `QUEUE_S` longer than the shortest
        # round trip.
        if idle and (target > self.window or elapsed < self.rtt_s + QUEUE_S):
            return
        if target < self.window:
            # The window shrinks by at most half, and not again before all bytes now in flight are acknowledged, because
            # the peer sends an acknowledgement for each quarter of the window that this side told it last. If the new
            # window were smaller than that quarter, the peer would wait for bytes that this side may not send.
            if total < self._shrunk_at:
                return
            self._shrunk_at = self.sent
        self.window = max(MIN_WINDOW, self.window // 2, min(target, self.window * 2, MAX_WINDOW))


class Session:
    """The state of one side of a conversation.

    Args:
        heartbeat_s: At most this many seconds pass between two beats of this side.
        now: The present, in seconds of a monotonic clock.
    """

    def __init__(self, *, heartbeat_s: float, now: float) -> None:
        self.heartbeat_s = heartbeat_s
        self.attached = False
        #: When this side last received bytes from the peer.
        self.last_heard = now
        #: When the peer last received bytes from this side, as far as this side knows. The agent's lease begins at this
        #: time.
        self.last_mutual = now
        self._peer_age_s = 0.0
        self._next_number = 1
        #: Number of the last message that this side has received.
        self.received_number = 0
        #: The encoded messages that the peer has not acknowledged, as (number, segments). Segments are buffers that are
        #: written one after another.
        self._kept: deque[tuple[int, list[Buffer]]] = deque()
        #: The segments of messages that the next `take` returns.
        self._urgent: deque[Buffer] = deque()
        #: Bulk messages that have not been sent, as (fields, payload). Each gets its number when it is sent.
        self._bulk: deque[tuple[dict[str, Any], Sequence[Buffer]]] = deque()
        self._bulk_bytes = 0
        #: Maps the number of each outgoing stream to its source and to the next offset to send.
        self._streams: dict[int, tuple[Source, int]] = {}
        #: Numbers of the outgoing streams that may have bytes to send.
        self._ready: deque[int] = deque()
        #: Maps the number of each incoming stream to the offset of the next byte that this side has not received.
        self._incoming: dict[int, int] = {}
        #: Numbers of incoming streams that have ended, in the order in which they ended.
        self._ended: deque[int] = deque()
        self._start_connection(now, Decoder(greets=True), 0)

    def _start_connection(self, now: float, decoder: Decoder, received: int) -> None:
        self._decoder = decoder
        self.credit = Credit()
        #: Streams whose last chunk was sent, as (bytes sent on the connection up to the end of that chunk, stream).
        self._leaving: deque[tuple[int, int]] = deque()
        #: How many bytes this side has received on the connection.
        self._received = received
        #: How many received bytes this side's last beat acknowledged.
        self._told = 0
        #: Number of the last message that this side's last beat acknowledged.
        self._told_number = self.received_number
        self._peer_window = MIN_WINDOW
        #: True if the next `take` must return a beat.
        self._tell = False
        self._beat_at = now

    # ---- sending -------------------------------------------------------------------------------------------

    def send(self, fields: dict[str, Any], payload: Sequence[Buffer] = ()) -> None:
        """Send a message ahead of all streams. The peer gets it once and in order, even if connections break."""
        number = self._next_number
        segments = encode_message(number, fields, payload)
        self._next_number += 1
        self._kept.append((number, segments))
        if self.attached:
            self._urgent.extend(segments)

    def send_bulk(self, fields: dict[str, Any], payload: Sequence[Buffer] = ()) -> None:
        """Send a bulk message. It takes turns with streams, and delays no message that is not a bulk message."""
        self._bulk.append((fields, payload))
        self._bulk_bytes += sum(len(p) for p in payload)

    def send_stream(self, stream: int, source: Source) -> None:
        """Begin an outgoing stream. Before this call, the caller must send the message that announces the stream."""
        self._streams[stream] = (source, 0)
        self._ready.append(stream)

    def wake(self, stream: int) -> None:
        """Continue an outgoing stream. Call this when more bytes of the stream's source have arrived."""
        if stream in self._streams and stream not in self._ready:
            self._ready.append(stream)

    def stop_stream(self, stream: int) -> None:
        """Stop an outgoing stream."""
        entry = self._streams.pop(stream, None)
        if entry is not None:
            if stream in self._ready:
                self._ready.remove(stream)
            entry[0].close()

    @property
    def unacknowledged(self) -> int:
        """How many messages the peer has not acknowledged."""
        return len(self._kept) + len(self._bulk)

    @property
    def bulk_bytes(self) -> int:
        """Payload bytes of the bulk messages that have not been sent."""
        return self._bulk_bytes

    def acknowledge(self) -> None:
        """Make the next `take` return a beat, which acknowledges what this side has received."""
        self._tell = True

    @property
    def has_output(self) -> bool:
        """True if `take` may have bytes to return now. A beat that is due only as a heartbeat does not count."""
        if not self.attached:
            return False
        return bool(self._urgent or self._tell or ((self._bulk or self._ready) and self.credit.free > 0))

    def take(self, now: float, limit: int = 1 << 20) -> list[Buffer]:
        """Return the next segments to write: first a beat if one is due, then messages, then bulk messages and streams.

        Once the bulk messages and streams in the returned segments have about ``limit`` bytes, no more are added.
        """
        if not self.attached:
            return []
        segments: list[Buffer] = []
        if self._tell or now >= self._beat_at:
            segments.append(self._beat(now))
        if self._urgent:
            segments.extend(self._urgent)
            self._urgent.clear()
        room = min(limit, self.credit.free)
        while room > 0 and (self._bulk or self._ready):
            # Bulk messages and streams take turns, so that streams need not wait for all bulk messages, nor bulk
            # messages for all streams.
            room -= self._take_bulk(segments)
            room -= self._take_chunk(segments, room)
        if segments:
            idle = not self._bulk and not self._ready
            self.credit.on_sent(sum(len(s) for s in segments), now, idle)
        return segments

    def _take_bulk(self, segments: list[Buffer]) -> int:
        if not self._bulk:
            return 0
        fields, payload = self._bulk.popleft()
        number = self._next_number
        encoded = encode_message(number, fields, payload)
        self._next_number += 1
        self._kept.append((number, encoded))
        self._bulk_bytes -= sum(len(p) for p in payload)
        segments.extend(encoded)
        return sum(len(s) for s in encoded)

    def _take_chunk(self, segments: list[Buffer], room: int) -> int:
        if not self._ready:
            return 0
        stream = self._ready.popleft()
        source, offset = self._streams[stream]
        want = min(max(self.credit.window // 4, _CHUNK_MIN), _CHUNK_MAX, max(room, _CHUNK_MIN))
        data = source.read(offset, min(want, source.size - offset))
        size = len(data)
        if not size and offset < source.size:
            return 0
        last = offset + size >= source.size
        segments.extend(encode_chunk(stream, offset, data, self.credit.window, last))
        self._streams[stream] = (source, offset + size)
        if last:
            sent = self.credit.sent + sum(len(s) for s in segments)
            self._leaving.append((sent, stream))
        else:
            self._ready.append(stream)
        return size + 64

    def _beat(self, now: float) -> bytes:
        self._tell = False
        self._beat_at = now + self.heartbeat_s
        self._told = self._received
        self._told_number = self.received_number
        age_ms = int((now - self.last_heard) * 1000)
        return encode_beat(Beat(self.received_number, self._received, age_ms))

    # ---- receiving -----------------------------------------------------------------------------------------

    def receive(self, data: Buffer, now: float) -> Iterator[Hello | Message | Piece]:
        """Take bytes from the connection, and yield the new frames in these bytes.

        The caller must handle each frame before it asks for the next one. A message counts as received once it is
        yielded. If a frame is bad, all frames before the bad one are yielded before the error is raised, because the
        peer does not send those earlier frames again.

        Raises:
            ProtocolError: The peer broke the protocol. The caller must close the connection.
        """
        self.last_heard = now
        self._received += len(data)
        for frame in self._decoder.feed(data):
            if type(frame) is Message:
                if frame.number <= self.received_number:
                    continue
                if frame.number != self.received_number + 1:
                    raise ProtocolError(f"message {frame.number} came directly after message {self.received_number}")
                self.received_number = frame.number
                yield frame
            elif type(frame) is Piece:
                if self._is_new(frame):
                    yield frame
            elif type(frame) is Beat:
                self._receive_beat(frame, now)
            elif type(frame) is Hello:
                yield frame
        if (
            self._received - self._told >= min(max(self._peer_window // 4, _CHUNK_MIN), 1 << 20)
            or self.received_number - self._told_number >= 256
        ):
            self._tell = True
        self.last_mutual = max(self.last_mutual, now - self._peer_age_s)

    def _is_new(self, piece: Piece) -> bool:
        """Record a piece, and return True if it is new. A piece that came over an earlier connection may come again."""
        self._peer_window = piece.window
        if piece.last:
            self._tell = True
        expected = self._incoming.get(piece.stream, 0)
        if piece.offset < expected:
            return False
        if piece.offset > expected:
            raise ProtocolError(f"stream {piece.stream} jumps from offset {expected} to offset {piece.offset}")
        if len(self._incoming) >= _MAX_INCOMING and piece.stream not in self._incoming:
            raise ProtocolError(f"more than {_MAX_INCOMING} streams come at once")
        self._incoming[piece.stream] = expected + len(piece.data)
        if piece.last:
            self._ended.append(piece.stream)
            if len(self._ended) > _ENDED_KEPT:
                self._incoming.pop(self._ended.popleft(), None)
        return True

    def _receive_beat(self, beat: Beat, now: float) -> None:
        self._peer_age_s = beat.age_ms / 1000
        if beat.number >= self._next_number or beat.received > self.credit.sent:
            raise ProtocolError("an acknowledgement names bytes or messages that were never sent")
        while self._kept and self._kept[0][0] <= beat.number:
            self._kept.popleft()
        self.credit.on_acknowledged(beat.received, now)
        while self._leaving and self._leaving[0][0] <= beat.received:
            entry = self._streams.pop(self._leaving.popleft()[1], None)
            if entry is not None:
                entry[0].close()

    # ---- connections ---------------------------------------------------------------------------------------

    def open(self, now: float, decoder: Decoder | None = None, received: int = 0) -> None:
        """Begin a new connection. Until `attach` is called, `take` returns nothing.

        Args:
            now: The present, in seconds of a monotonic clock.
            decoder: The decoder that has read the peer's hello on this connection. None: nothing has been read yet.
            received: How many bytes the decoder has read.
        """
        self.attached = False
        self._start_connection(now, decoder or Decoder(greets=True), received)

    def hello(self, fields: dict[str, Any], now: float) -> bytes:
        """Return the first bytes to write on a connection: a hello that also says what this side has received.

        Args:
            fields: The fields of the hello, without its ``state``, which this method adds; see `messages.Progress`.
            now: The present, in seconds of a monotonic clock.
        """
        streams = {str(s): o for s, o in self._incoming.items()}
        encoded = encode_hello({**fields, "state": {"number": self.received_number, "streams": streams}})
        # The peer acknowledges the hello at once, which gives the first measurement of the round trip.
        self.credit.on_sent(len(encoded), now, idle=True)
        return encoded

    def attach(self, peer: object, now: float) -> None:
        """Continue the conversation after the peer's hello. What the peer has not received will be sent again.

        Args:
            peer: The ``state`` of the peer's hello; see `messages.Progress`.
            now: The present, in seconds of a monotonic clock.

        Raises:
            ProtocolError: The hello has no state, or its state names a message that this side has never sent.
        """
        if not isinstance(peer, dict):
            raise ProtocolError("a hello has no state")
        number = _count(peer.get("number"))
        if number >= self._next_number:
            raise ProtocolError("a hello names messages that were never sent")
        self.attached = True
        self.last_heard = now
        self._peer_age_s = 0.0
        while self._kept and self._kept[0][0] <= number:
            self._kept.popleft()
        self._urgent.clear()
        for _, segments in self._kept:
            self._urgent.extend(segments)
        offsets = peer.get("streams")
        offsets = offsets if isinstance(offsets, dict) else {}
        self._ready.clear()
        for stream, (source, _) in list(self._streams.items()):
            offset = _count(offsets.get(str(stream)))
            if offset >= source.size and source.size:
                self._streams.pop(stream)[0].close()
                continue
            self._streams[stream] = (source, offset)
            self._ready.append(stream)
        self._tell = True

    def detach(self) -> None:
        """Record that the connection has ended. Messages that are not acknowledged wait for the next connection."""
        self.attached = False

    def leave_behind(self) -> list[tuple[dict[str, Any], Sequence[Buffer]]]:
        """End the conversation. Return the headers and payloads of the messages that the peer has not acknowledged."""
        decoder = Decoder()
        frames = [frame for _, segments in self._kept for frame in decoder.feed(b"".join(segments))]
        left: list[tuple[dict[str, Any], Sequence[Buffer]]] = [
            (frame.fields, [bytes(frame.payload)]) for frame in frames if type(frame) is Message
        ]
        left.extend(self._bulk)
        self.close()
        return left

    def close(self) -> None:
        """End the conversation, and release the sources of all outgoing streams."""
        self.attached = False
        for stream in list(self._streams):
            self.stop_stream(stream)
        self._kept.clear()
        self._urgent.clear()
        self._bulk.clear()


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
