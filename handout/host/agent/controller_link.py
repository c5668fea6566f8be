"""The agent's end of the link to the controller. The agent listens on a Unix socket and uses one connection at a time.

A connection begins with a hello: a first message in which the controller names the agent, and proves with a secret
token that it opened the connection. A later connection replaces an earlier one. All that agent and controller send to
each other is called a conversation. If a connection breaks, the conversation continues over the next connection.
`Session` holds the state of the conversation.

A controller that takes over from another one begins a new conversation. From then on, the agent refuses connections of
earlier conversations. The agent also refuses a connection that was delayed on the way, so that it arrives after a later
connection of the same conversation.
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
from handout.protocol import codec, messages
from handout.protocol import frames as wire
from handout.protocol.messages import AnyMessage
from handout.protocol.session import Session

_RECEIVE = 512 << 10
_HELLO_TIMEOUT_S = 10.0
_ACCEPT_PAUSE_S = 0.25
#: While this many connections have not sent the right token yet, the agent closes each further connection at once.
_MAX_UNAUTHENTICATED = 16
#: The link passes at most this many buffers to one call of `sendmsg`. The system's own limit is 1,024.
_SEGMENTS = 512


class ControllerLink:
    """Listens on a socket and carries the conversation with the controller.

    Args:
        path: Path of the socket.
        token: The token that a hello must carry.
        identity: The agent's identity. The link refuses a hello that is meant for another agent.
        heartbeat_s: Seconds between heartbeats on an idle connection.
        on_message: Called with every message, once and in order. The message's payload is valid until the call returns.
        on_piece: Called with every piece of an incoming stream, once and in order. A stream carries one object. The
            piece's bytes are valid until the call returns.
        on_received: Called after the link has received bytes, because these bytes may have extended the lease.
        lease_ended: Returns True if the lease has ended. The link then closes the connection without reading the bytes
            that wait in the socket. They may be old, and old bytes must not renew the lease.
        on_takeover: Called when another controller has taken over, with the headers and payloads of the messages that
            the earlier controller had not confirmed.
    """

    def __init__(
        self,
        path: str,
        token: bytes,
        identity: str,
        heartbeat_s: float,
        on_message: Callable[[wire.Message], None],
        on_piece: Callable[[wire.Piece], None],
        on_received: Callable[[], None],
        lease_ended: Callable[[], bool],
        on_takeover: Callable[[list[tuple[dict[str, Any], Sequence[wire.Buffer]]]], None],
    ) -> None:
        self.session = Session(heartbeat_s=heartbeat_s, now=now())
        self._token = token.hex()
        self._identity = identity
        #: The number of the latest connection of this conversation. If another connection of this conversation arrives
        #: and its number is not higher, that connection was delayed on the way.
        self._connection = 0
        #: The name of the current conversation, which the controller chose; None before the first conversation.
        self._conversation: str | None = None
        #: The names of the conversations that takeovers have ended.
        self._ended_conversations: set[str] = set()
        self._on_message = on_message
        self._on_piece = on_piece
        self._on_received = on_received
        self._lease_ended = lease_ended
        self._on_takeover = on_takeover
        self._loop = asyncio.get_running_loop()
        self._peer: socket.socket | None = None
        #: The connections whose hello has not arrived completely. Each is mapped to its decoder, and to the number of
        #: bytes that have arrived.
        self._unauthenticated: dict[socket.socket, tuple[wire.Decoder, int]] = {}
        self._unsent: deque[memoryview] = deque()
        self._scheduled = False
        #: Every read fills this buffer anew. A callback that keeps any of the bytes must copy them.
        self._buffer = memoryview(bytearray(_RECEIVE))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        os.chmod(path, 0o600)
        self._listener.listen(16)
        self._listener.setblocking(False)
        self._listen()

    @property
    def connected(self) -> bool:
        """True while a connection is in use."""
        return self._peer is not None

    @property
    def was_greeted(self) -> bool:
        """True once a controller has sent a hello."""
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
            # The system has no descriptor or no memory left for the connection. The listening socket stays readable, so
            # without a pause the event loop would call this method again and again.
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(_ACCEPT_PAUSE_S, self._listen)
            return
        if len(self._unauthenticated) >= _MAX_UNAUTHENTICATED:
            peer.close()
            return
        peer.setblocking(False)
        enlarge_buffers(peer)
        self._unauthenticated[peer] = wire.Decoder(greets=True), 0
        self._loop.add_reader(peer.fileno(), self._on_unauthenticated, peer)
        self._loop.call_later(_HELLO_TIMEOUT_S, self._reject, peer)

    def _reject(self, peer: socket.socket) -> None:
        if self._unauthenticated.pop(peer, None) is not None:
            self._loop.remove_reader(peer.fileno())
            peer.close()

    def _on_unauthenticated(self, peer: socket.socket) -> None:
        decoder, received = self._unauthenticated[peer]
        data = b""
        try:
            # Few bytes are read at once, because a hello is small, and the controller sends nothing else until the
            # agent has answered.
            data = peer.recv(4096)
            frames = list(decoder.feed(data)) if data else None
        except BlockingIOError:
            return
        except (OSError, wire.ProtocolError):
            frames = None
        if frames is None:
            self._reject(peer)
            return
        received += len(data)
        if not frames:
            self._unauthenticated[peer] = decoder, received
            return
        hello = frames[0]
        said = hello.fields.get("token") if type(hello) is wire.Hello else None
        if (
            len(frames) > 1
            or not isinstance(said, str)
            or not hmac.compare_digest(said.encode("utf-8", "replace"), self._token.encode())
        ):
            self._reject(peer)
            return
        assert type(hello) is wire.Hello
        del self._unauthenticated[peer]
        self._loop.remove_reader(peer.fileno())
        self._welcome(peer, decoder, received, hello)

    def _welcome(self, peer: socket.socket, decoder: wire.Decoder, received: int, hello: wire.Hello) -> None:
        """Handle a connection that has sent the right token: use it from now on, or refuse it."""
        try:
            greeting = codec.decode_hello(messages.Greeting, hello.fields)
        except wire.ProtocolError as error:
            self._refuse(peer, str(error))
            return
        refusal = self._refusal_of(greeting)
        if refusal:
            self._refuse(peer, refusal)
            return
        self._lease_ended()  # if the lease ended before this hello came, this call ends the tasks
        self._connection = greeting.connection
        self.disconnect()
        unconfirmed = self._begin_conversation(greeting)
        session = self.session
        session.open(now(), decoder, received)
        self._peer = peer
        self._loop.add_reader(peer.fileno(), self._on_readable)
        welcome = codec.encode_hello(messages.Welcome(self._identity))
        self._unsent.append(memoryview(session.hello(welcome, now())))
        try:
            session.attach(hello.fields.get("state"), now())
        except wire.ProtocolError:
            self.disconnect()
            return
        # The controller has sent a hello, so the lease begins anew, even if it had ended.
        session.last_mutual = now()
        self._on_received()
        if unconfirmed is not None:
            self._on_takeover(unconfirmed)
        self.flush()

    def _refusal_of(self, greeting: messages.Greeting) -> str:
        """Return the reason for which the agent refuses a connection; an empty string if it accepts the connection."""
        name = greeting.conversation
        is_new = self._conversation is not None and name != self._conversation
        if greeting.agent != self._identity:
            return "the controller asked for another agent"
        if name in self._ended_conversations or (is_new and not greeting.takeover):
            return "another controller has taken over"
        if greeting.connection <= self._connection and not is_new:
            return "the controller has opened a later connection"
        return ""

    def _refuse(self, peer: socket.socket, reason: str) -> None:
        try:
            peer.send(wire.encode_hello(codec.encode_hello(messages.Welcome(self._identity, reason))))
        except OSError:
            pass  # the controller notices that the connection is closed
        peer.close()

    def _begin_conversation(
        self, greeting: messages.Greeting
    ) -> list[tuple[dict[str, Any], Sequence[wire.Buffer]]] | None:
        """Begin the conversation that a greeting names, and end the current one. Do nothing if both are the same.

        Args:
            greeting: The controller's hello.

        Returns:
            If a controller takes over, the headers and payloads of the messages that the earlier controller had not
            confirmed. Otherwise None.
        """
        if greeting.conversation == self._conversation:
            return None
        if self._conversation is not None:
            self._ended_conversations.add(self._conversation)
        self._conversation = greeting.conversation
        if not greeting.takeover:
            return None
        unconfirmed = self.session.leave_behind()
        self.session = Session(heartbeat_s=self.session.heartbeat_s, now=now())
        return unconfirmed

    def disconnect(self) -> None:
        """Close the connection, if there is one. The conversation continues over the next connection."""
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
        if self._lease_ended():
            # The agent may have been stopped for a long time. Then the bytes in the socket are old, and must not renew
            # the lease. The controller must connect again.
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
        self._on_received()
        self.schedule()

    def send(self, message: AnyMessage, payload: Sequence[wire.Buffer] = ()) -> None:
        """Send a message. The link writes all messages of one turn of the event loop together."""
        self.session.send(codec.encode(message), payload)
        self.schedule()

    def send_bulk(self, message: AnyMessage, payload: Sequence[wire.Buffer] = ()) -> None:
        """Send a message that may wait, such as text that a task printed.

        Such bulk messages take turns with streams of objects, so that they delay no other message.
        """
        self.session.send_bulk(codec.encode(message), payload)
        self.schedule()

    def schedule(self) -> None:
        """Have `flush` called in the next turn of the event loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write as many waiting bytes as the connection takes now."""
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
        """Stop listening and end the conversation, but leave the connection open.

        Returns:
            The descriptor of the connection, or -1 if there is no connection. The controller takes the end of this
            connection as the sign that the agent has ended.
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
