"""The agent's end of the link: a Unix socket, the one connection on it that counts, and the lease.

A connection counts once its hello carries the token; a later one replaces an earlier one. What the conversation
remembers across connections is the session's business. Another controller that goes on begins another conversation,
under a name of its own; from then on nobody is heard who speaks in an earlier one, or who is late.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Callable

from handout.host.system.clock import now
from handout.host.system.sockets import enlarge_buffers
from handout.protocol import frames as wire
from handout.protocol.session import Session

_RECEIVE = 512 << 10
_HELLO_TIMEOUT_S = 10.0
_ACCEPT_PAUSE_S = 0.25
#: Connections that have not said hello, at most; the system's own limit of segments of one write.
_MAX_STRANGERS = 16
_SEGMENTS = 512


class ControllerLink:
    """Listens in a folder and keeps the conversation with the controller going.

    Args:
        path: Of the socket.
        token: What a hello must carry.
        identity: What this agent calls itself; a hello for another one is refused.
        heartbeat_s: Seconds between beats where there is nothing else to say.
        on_message: Hears every message, once and in order; its payload is gone when that returns.
        on_piece: Hears every piece of an incoming stream; likewise.
        on_heard: Called after anything was heard: the lease may have moved.
        is_over: Whether the lease has ended; what was on the way by then is not listened to.
        on_adopted: Called when another controller has taken over, with what the one before had not confirmed.
    """

    def __init__(
        self,
        path: str,
        token: bytes,
        identity: str,
        heartbeat_s: float,
        on_message: Callable[[wire.Message], None],
        on_piece: Callable[[wire.Piece], None],
        on_heard: Callable[[], None],
        is_over: Callable[[], bool],
        on_adopted: Callable[[list[tuple[dict[str, Any], Sequence[wire.Buffer]]]], None],
    ) -> None:
        self.session = Session(heartbeat_s=heartbeat_s, now=now())
        self._token = token.hex()
        self._identity = identity
        #: Connections are counted by the controller: one that was slow on the way does not replace a later one.
        self._ticket = 0
        #: The conversation that goes on, by the name that its controller chose, and those that others have ended.
        self._conversation: str | None = None
        self._left: set[str] = set()
        self._on_message = on_message
        self._on_piece = on_piece
        self._on_heard = on_heard
        self._is_over = is_over
        self._on_adopted = on_adopted
        self._loop = asyncio.get_running_loop()
        self._peer: socket.socket | None = None
        #: What they have said so far, and in how many bytes.
        self._strangers: dict[socket.socket, tuple[wire.Decoder, int]] = {}
        self._unsent: deque[memoryview] = deque()
        self._scheduled = False
        #: What was received last; who wants to keep any of it copies it.
        self._buffer = memoryview(bytearray(_RECEIVE))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        os.chmod(path, 0o600)
        self._listener.listen(16)
        self._listener.setblocking(False)
        self._listen()

    @property
    def connected(self) -> bool:
        """Whether a connection counts now."""
        return self._peer is not None

    @property
    def was_greeted(self) -> bool:
        """Whether a controller has ever said hello."""
        return self._conversation is not None

    # ---- connections ---------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:
            # No descriptor, or no memory, is left for it. Who waits goes on waiting: to look again at once is to spin.
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(_ACCEPT_PAUSE_S, self._listen)
            return
        if len(self._strangers) >= _MAX_STRANGERS:
            peer.close()
            return
        peer.setblocking(False)
        enlarge_buffers(peer)
        self._strangers[peer] = wire.Decoder(greets=True), 0
        self._loop.add_reader(peer.fileno(), self._on_stranger, peer)
        self._loop.call_later(_HELLO_TIMEOUT_S, self._turn_away, peer)

    def _turn_away(self, peer: socket.socket) -> None:
        if self._strangers.pop(peer, None) is not None:
            self._loop.remove_reader(peer.fileno())
            peer.close()

    def _on_stranger(self, peer: socket.socket) -> None:
        decoder, received = self._strangers[peer]
        data = b""
        try:
            # A hello is small; what could follow it is left in the socket.
            data = peer.recv(4096)
            frames = list(decoder.feed(data)) if data else None
        except BlockingIOError:
            return
        except (OSError, wire.ProtocolError):
            frames = None
        if frames is None:
            self._turn_away(peer)
            return
        received += len(data)
        if not frames:
            self._strangers[peer] = decoder, received
            return
        hello = frames[0]
        said = hello.fields.get("token") if type(hello) is wire.Hello else None
        if (
            len(frames) > 1
            or not isinstance(said, str)
            or not hmac.compare_digest(said.encode("utf-8", "replace"), self._token.encode())
        ):
            self._turn_away(peer)
            return
        assert type(hello) is wire.Hello
        del self._strangers[peer]
        self._loop.remove_reader(peer.fileno())
        self._welcome(peer, decoder, received, hello)

    def _welcome(self, peer: socket.socket, decoder: wire.Decoder, received: int, hello: wire.Hello) -> None:
        said = hello.fields
        name, ticket = said.get("conversation", ""), said.get("ticket", self._ticket + 1)
        others = self._conversation is not None and name != self._conversation
        refusal = None
        if said.get("agent", self._identity) != self._identity:
            refusal = "another agent was meant"
        elif not isinstance(name, str) or name in self._left or (others and said.get("adopt") is not True):
            refusal = "another controller has taken over"
        elif not isinstance(ticket, int) or (ticket <= self._ticket and not others):
            refusal = "an earlier connection"
        if refusal is not None:
            try:
                peer.send(wire.encode_hello({"agent": self._identity, "error": refusal}))
            except OSError:
                pass
            peer.close()
            return
        self._ticket = ticket
        self.disconnect()
        left = None
        if name != self._conversation:
            if self._conversation is not None:
                self._left.add(self._conversation)
            self._conversation = name
            if said.get("adopt") is True:
                left = self.session.leave_behind()
                self.session = Session(heartbeat_s=self.session.heartbeat_s, now=now())
        session = self.session
        session.open(now(), decoder, received)
        self._peer = peer
        self._loop.add_reader(peer.fileno(), self._on_readable)
        self._unsent.append(memoryview(session.hello({"agent": self._identity}, now())))
        try:
            session.attach(hello.fields.get("state"), now())
        except wire.ProtocolError:
            self.disconnect()
            return
        # Who says hello is there: a lease that had ended begins anew.
        session.last_mutual = now()
        self._on_heard()
        if left is not None:
            self._on_adopted(left)
        self.flush()

    def disconnect(self) -> None:
        """Let the connection go, where there is one; the conversation goes on with the next."""
        peer, self._peer = self._peer, None
        if peer is None:
            return
        self.session.detach()
        self._unsent.clear()
        self._loop.remove_reader(peer.fileno())
        self._loop.remove_writer(peer.fileno())
        peer.close()

    # ---- bytes ---------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        peer = self._peer
        if peer is None:
            return
        if self._is_over():
            # This side was stopped for so long that what waits here is old: the other side must say hello anew.
            self.disconnect()
            return
        try:
            count = peer.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self.disconnect()
            return
        try:
            for frame in self.session.receive(self._buffer[:count], now()):
                if type(frame) is wire.Message:
                    self._on_message(frame)
                elif type(frame) is wire.Piece:
                    self._on_piece(frame)
        except wire.ProtocolError:
            self.disconnect()
            return
        self._on_heard()
        self.schedule()

    def send(self, fields: dict[str, Any], payload: Sequence[wire.Buffer] = ()) -> None:
        """Send a message, together with whatever else is sent until the loop is idle."""
        self.session.send(fields, payload)
        self.schedule()

    def send_calmly(self, fields: dict[str, Any], payload: Sequence[wire.Buffer] = ()) -> None:
        """Send a message that waits its turn among the bulk."""
        self.session.send_calmly(fields, payload)
        self.schedule()

    def schedule(self) -> None:
        """Write what there is to write, soon."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write as much as goes now."""
        self._scheduled = False
        peer = self._peer
        if peer is None:
            return
        while True:
            if not self._unsent:
                self._unsent.extend(memoryview(s) for s in self.session.take(now()))
                if not self._unsent:
                    self._loop.remove_writer(peer.fileno())
                    return
            try:
                sent = peer.sendmsg(_first(self._unsent))
            except BlockingIOError:
                self._loop.add_writer(peer.fileno(), self.flush)
                return
            except OSError:
                self.disconnect()
                return
            while sent:
                head = self._unsent[0]
                if sent < len(head):
                    self._unsent[0] = head[sent:]
                    break
                sent -= len(head)
                self._unsent.popleft()
            while self._unsent and not self._unsent[0]:
                self._unsent.popleft()

    def close(self) -> int:
        """Stop listening and let go.

        Returns: The connection's descriptor, still open, or -1: who closes it says that this side has ended.
        """
        peer, self._peer = self._peer, None
        if peer is not None:
            self._loop.remove_reader(peer.fileno())
            self._loop.remove_writer(peer.fileno())
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        self.session.close()
        return peer.detach() if peer is not None else -1


def _first(segments: deque[memoryview]) -> list[memoryview]:
    if len(segments) <= _SEGMENTS:
        return list(segments)
    return [segments[i] for i in range(_SEGMENTS)]
