"""One side of a conversation that outlives its connections, without any I/O.

Control goes before bulk. Control messages are numbered and kept until acknowledged, so that a connection that
drops costs nothing: the next one says how far each side got, and what is missing is sent again. Bulk streams are
not kept: they are read from their source, and resume at the offset that the other side reached.

Bytes of bulk in flight are at most ``max(64 KiB, bandwidth x (round trip + 100 ms))``: more would only fill the
buffers between the two ends, and every heartbeat would wait behind them.

The owner moves bytes: what :meth:`Session.receive` is given came from the connection, what :meth:`Session.take`
returns goes to it. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

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
#: Bytes that may wait on the way beyond what the round trip holds, as seconds of bandwidth.
QUEUE_S = 0.1
_CHUNK_MIN = 16 << 10
_CHUNK_MAX = 256 << 10
#: Incoming streams remembered after their end, so that what is sent again after a reconnection is recognized.
_ENDED_KEPT = 1024
#: Incoming streams that are remembered at all: a hello must have room for them.
_MAX_INCOMING = 1 << 20


class Source(abc.ABC):
    """Where a bulk stream's bytes come from."""

    #: Bytes in all.
    size: int = 0

    @abc.abstractmethod
    def read(self, offset: int, size: int) -> Buffer:
        """At most ``size`` bytes from ``offset``; empty where they are not there yet (see ``Session.wake``)."""

    def close(self) -> None:  # noqa: B027 - not all have something to let go
        """The stream has been received whole, or given up."""


class Credit:
    """How many bytes may be in flight, from what acknowledgements say of the line.

    Everything that a connection carries counts; only bulk is held back by it.
    """

    def __init__(self) -> None:
        self.window = MIN_WINDOW
        self.bytes_per_s = 0.0
        self.rtt_s = 0.0
        self.sent = 0
        self.acknowledged = 0
        #: When that was heard, or when sending began again after there was nothing to send.
        self._since = 0.0
        self._idle = True
        #: Sent when the window last shrank: until that is acknowledged, it does not shrink again.
        self._shrunk_at = 0
        #: (sent when it left, time, acknowledged at that time, since when, whether there was nothing more to send)
        self._marks: deque[tuple[int, float, int, float, bool]] = deque()

    @property
    def free(self) -> int:
        return self.window - (self.sent - self.acknowledged)

    def on_sent(self, nbytes: int, now: float, idle: bool) -> None:
        if self._idle:
            self._since = now
        self._idle = idle
        self.sent += nbytes
        self._marks.append((self.sent, now, self.acknowledged, self._since, idle))

    def on_acknowledged(self, total: int, now: float) -> None:
        if total <= self.acknowledged:
            return
        self.acknowledged, self._since = total, now
        mark = None
        while self._marks and self._marks[0][0] <= total:
            mark = self._marks.popleft()
        if mark is None:
            return
        _, left_at, acknowledged, since, idle = mark
        elapsed = max(now - left_at, 1e-6)
        self.rtt_s = min(self.rtt_s, elapsed) if self.rtt_s else elapsed
        # From one acknowledgement to another: those that were held up on the way come in bursts, and from when the
        # bytes left the line would look faster than it is.
        self.bytes_per_s = (total - acknowledged) / max(now - since, 1e-6)
        target = int(self.bytes_per_s * (self.rtt_s + QUEUE_S))
        # A sender that had nothing more to send says nothing about the line, unless the line was slow even so.
        if idle and (target > self.window or elapsed < self.rtt_s + QUEUE_S):
            return
        if target < self.window:
            # By half, and once for what is in flight: the other side acknowledges every quarter of the window that
            # it was last told of, and would wait for bytes that a window smaller than that no longer lets go.
            if total < self._shrunk_at:
                return
            self._shrunk_at = self.sent
        self.window = max(MIN_WINDOW, self.window // 2, min(target, self.window * 2, MAX_WINDOW))


class Session:
    """The state of one conversation, on one of its two sides.

    Args:
        heartbeat_s: Seconds after which a beat is due.
        now: The monotonic clock's present.
    """

    def __init__(self, *, heartbeat_s: float, now: float) -> None:
        self.heartbeat_s = heartbeat_s
        self.attached = False
        #: When anything was last heard from the other side.
        self.last_heard = now
        #: The last moment at which the other side is known to have still heard this one: a lease runs from here.
        self.last_mutual = now
        self._peer_age_s = 0.0
        self._next_number = 1
        #: The last message that came.
        self.received_number = 0
        #: Sent and not acknowledged: (number, segments).
        self._kept: deque[tuple[int, list[Buffer]]] = deque()
        self._urgent: deque[Buffer] = deque()
        #: Messages that go with the bulk; they get their number when they leave.
        self._calm: deque[tuple[dict[str, Any], Sequence[Buffer]]] = deque()
        self._calm_bytes = 0
        #: Outgoing streams: number -> [source, next offset].
        self._streams: dict[int, tuple[Source, int]] = {}
        self._ready: deque[int] = deque()
        #: Incoming streams: number -> next offset.
        self._incoming: dict[int, int] = {}
        self._ended: deque[int] = deque()
        self._start_connection(now, Decoder(greets=True), 0)

    def _start_connection(self, now: float, decoder: Decoder, received: int) -> None:
        self._decoder = decoder
        self.credit = Credit()
        #: Streams whose last chunk left: (bytes sent by then, stream).
        self._leaving: deque[tuple[int, int]] = deque()
        self._received = received
        self._told = 0
        self._told_number = self.received_number
        self._peer_window = MIN_WINDOW
        self._tell = False
        self._beat_at = now

    # ---- sending -------------------------------------------------------------------------------------------

    def send(self, fields: dict[str, Any], payload: Sequence[Buffer] = ()) -> None:
        """Send a control message, before any bulk. It is delivered once, in order, across reconnections."""
        number = self._next_number
        segments = encode_message(number, fields, payload)
        self._next_number += 1
        self._kept.append((number, segments))
        if self.attached:
            self._urgent.extend(segments)

    def send_calmly(self, fields: dict[str, Any], payload: Sequence[Buffer] = ()) -> None:
        """Send a message that waits its turn among the bulk: output of tasks."""
        self._calm.append((fields, payload))
        self._calm_bytes += sum(len(p) for p in payload)

    def send_stream(self, stream: int, source: Source) -> None:
        """Stream ``source``; the message that announces it must have been sent before."""
        self._streams[stream] = (source, 0)
        self._ready.append(stream)

    def wake(self, stream: int) -> None:
        """More of an outgoing stream's bytes are there now."""
        if stream in self._streams and stream not in self._ready:
            self._ready.append(stream)

    def stop_stream(self, stream: int) -> None:
        """Send no more of a stream."""
        entry = self._streams.pop(stream, None)
        if entry is not None:
            if stream in self._ready:
                self._ready.remove(stream)
            entry[0].close()

    @property
    def unacknowledged(self) -> int:
        """Messages that the other side has not confirmed."""
        return len(self._kept) + len(self._calm)

    @property
    def calm_bytes(self) -> int:
        """Payload bytes of calm messages that have not left."""
        return self._calm_bytes

    def acknowledge(self) -> None:
        """Let the next :meth:`take` say how far this side has got."""
        self._tell = True

    @property
    def has_output(self) -> bool:
        """Whether :meth:`take` would return anything now."""
        if not self.attached:
            return False
        return bool(self._urgent or self._tell or ((self._calm or self._ready) and self.credit.free > 0))

    def take(self, now: float, limit: int = 1 << 20) -> list[Buffer]:
        """The next segments to write, control first; about ``limit`` bytes of bulk at most."""
        if not self.attached:
            return []
        segments: list[Buffer] = []
        if self._tell or now >= self._beat_at:
            segments.append(self._beat(now))
        if self._urgent:
            segments.extend(self._urgent)
            self._urgent.clear()
        room = min(limit, self.credit.free)
        while room > 0 and (self._calm or self._ready):
            # Output of tasks and streams take turns, so that neither starves the other.
            room -= self._take_calm(segments)
            room -= self._take_chunk(segments, room)
        if segments:
            idle = not self._calm and not self._ready
            self.credit.on_sent(sum(len(s) for s in segments), now, idle)
        return segments

    def _take_calm(self, segments: list[Buffer]) -> int:
        if not self._calm:
            return 0
        fields, payload = self._calm.popleft()
        number = self._next_number
        encoded = encode_message(number, fields, payload)
        self._next_number += 1
        self._kept.append((number, encoded))
        self._calm_bytes -= sum(len(p) for p in payload)
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
        """Take bytes from the connection, and give what they say that is new, to be handled one after the other.

        A message counts as received when it is given. What came before something bad is given before the error
        is raised: the other side will not send it again.

        Raises:
            ProtocolError: The connection must be closed.
        """
        self.last_heard = now
        self._received += len(data)
        for frame in self._decoder.feed(data):
            if type(frame) is Message:
                if frame.number <= self.received_number:
                    continue
                if frame.number != self.received_number + 1:
                    raise ProtocolError(f"message {frame.number} after {self.received_number}")
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
        """Whether a piece has not come before, over an earlier connection."""
        self._peer_window = piece.window
        if piece.last:
            self._tell = True
        expected = self._incoming.get(piece.stream, 0)
        if piece.offset < expected:
            return False
        if piece.offset > expected:
            raise ProtocolError(f"stream {piece.stream} jumps from {expected} to {piece.offset}")
        if len(self._incoming) >= _MAX_INCOMING and piece.stream not in self._incoming:
            raise ProtocolError(f"more than {_MAX_INCOMING} streams at once")
        self._incoming[piece.stream] = expected + len(piece.data)
        if piece.last:
            self._ended.append(piece.stream)
            if len(self._ended) > _ENDED_KEPT:
                self._incoming.pop(self._ended.popleft(), None)
        return True

    def _receive_beat(self, beat: Beat, now: float) -> None:
        self._peer_age_s = beat.age_ms / 1000
        if beat.number >= self._next_number or beat.received > self.credit.sent:
            raise ProtocolError("an acknowledgement of what was never sent")
        while self._kept and self._kept[0][0] <= beat.number:
            self._kept.popleft()
        self.credit.on_acknowledged(beat.received, now)
        while self._leaving and self._leaving[0][0] <= beat.received:
            entry = self._streams.pop(self._leaving.popleft()[1], None)
            if entry is not None:
                entry[0].close()

    # ---- connections ---------------------------------------------------------------------------------------

    def open(self, now: float, decoder: Decoder | None = None, received: int = 0) -> None:
        """A new connection begins; what the last one carried is void.

        Args:
            now: The monotonic clock's present.
            decoder: One that has already read ``received`` bytes of this connection, up to a hello.
            received: How many those were.
        """
        self.attached = False
        self._start_connection(now, decoder or Decoder(greets=True), received)

    def hello(self, fields: dict[str, Any], now: float) -> bytes:
        """The first bytes to write on a connection: ``fields`` and how far this side got."""
        streams = {str(s): o for s, o in self._incoming.items()}
        encoded = encode_hello({**fields, "state": {"number": self.received_number, "streams": streams}})
        # Its acknowledgement comes at once, and is the first that is known of the round trip.
        self.credit.on_sent(len(encoded), now, idle=True)
        return encoded

    def attach(self, peer: object, now: float) -> None:
        """The other side's hello came: send again what its ``state`` says that it lacks.

        Raises:
            ProtocolError: The state is not possible.
        """
        if not isinstance(peer, dict):
            raise ProtocolError("a hello without a state")
        number = _count(peer.get("number"))
        if number >= self._next_number:
            raise ProtocolError("the other side knows messages that were never sent")
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
        """The connection is gone; what is unacknowledged waits for the next one."""
        self.attached = False

    def leave_behind(self) -> list[tuple[dict[str, Any], Sequence[Buffer]]]:
        """What the other side has not confirmed, as it was to be sent; the conversation is over."""
        decoder = Decoder()
        frames = [frame for _, segments in self._kept for frame in decoder.feed(b"".join(segments))]
        left: list[tuple[dict[str, Any], Sequence[Buffer]]] = [
            (frame.fields, [bytes(frame.payload)]) for frame in frames if type(frame) is Message
        ]
        left.extend(self._calm)
        self.close()
        return left

    def close(self) -> None:
        """The conversation is over: let every source go."""
        self.attached = False
        for stream in list(self._streams):
            self.stop_stream(stream)
        self._kept.clear()
        self._urgent.clear()
        self._calm.clear()


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
