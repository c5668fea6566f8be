"""A conversation: the exchange of messages with one host's agent, over one connection after another.

A conversation delivers messages and bulk data, such as the bytes of objects, once and in order, whatever happens to a
connection. Bytes that were damaged on the way, called bad bytes here, are sent again. The conversation passes the
messages to a handler, and does not know what they mean. The link (see `agent_link`) makes the connections, and decides
when the agent has been silent for too long.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable, Sequence

from handout.errors import HostUnreachableError, InternalError, WireError
from handout.protocol import codec, messages
from handout.protocol.frames import Buffer, Hello, Message, Piece, ProtocolError
from handout.protocol.messages import AnyMessage
from handout.protocol.session import Session, Source
from handout.serialization import exceptions
from handout.serialization.printable import printable
from handout.transport.connection import Connection
from handout.transport.handshake import greeting, refusal, shake_hands

__all__ = ["Conversation", "FrameHandler", "GrowingSource"]

logger = logging.getLogger("handout.link")

#: One flush gives at most this many bytes of bulk data to a connection, so that the loop can run other callbacks
#: between two flushes.
_SLICE = 256 << 10
#: The conversation ends if more than this many connections in a row bring bad bytes and nothing new.
_MAX_GARBLED = 20

FrameHandler = Callable[[Sequence[Message | Piece]], None]


class Conversation:
    """The controller's side of the conversation with one agent.

    Args:
        host: The host's name.
        heartbeat_s: Seconds between heartbeats on an idle connection.
        handler: Called with every batch of messages, and of pieces of objects, from the agent. Each message and each
            piece comes once and in order.
        on_suspect: Called with True when the agent has become silent, and with False when bytes come from the agent
            again.
        on_broken: Called when the connection or the whole conversation has ended. If only the connection has ended,
            `error` is None.
    """

    def __init__(
        self,
        host: str,
        heartbeat_s: float,
        handler: FrameHandler,
        on_suspect: Callable[[bool], None],
        on_broken: Callable[[], None],
    ) -> None:
        #: The current connection. Bytes of any other connection are ignored.
        self.connection: Connection | None = None
        #: Why the conversation has ended for good. None while the conversation can go on over another connection.
        self.error: Exception | None = None
        #: How many seconds the round trip of the last handshake took.
        self.rtt_s = 0.0
        self._host = host
        self._handler = handler
        self._on_suspect = on_suspect
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._session = Session(heartbeat_s=heartbeat_s, now=self._loop.time())
        #: The conversation's name. If another controller takes the agent over, it chooses another name.
        self._name = secrets.token_hex(8)
        self._streams = itertools.count(1)
        self._flush_due = False
        self._suspected = False
        #: True once the agent has answered a handshake, which shows that the program on the host speaks the protocol.
        self._met = False
        #: How many messages and pieces the handler has got by now, and how many it had got when bad bytes last came.
        self._handled = self._handled_when_garbled = 0
        #: How often bad bytes have come without a new message or piece in between.
        self._garbled = 0

    @property
    def last_heard(self) -> float:
        """The time at which bytes last came from the agent, by the loop's clock."""
        return self._session.last_heard

    @property
    def unacknowledged(self) -> int:
        """Number of messages that the agent has not acknowledged."""
        return self._session.unacknowledged

    # ---- connections ---------------------------------------------------------------------------------------

    async def attach(self, connection: Connection, agent: str, token: str, *, taking_over: bool) -> None:
        """Continue the conversation over a new connection, if the right agent answers on that connection.

        Args:
            connection: An open connection, which replaces the previous one.
            agent: The agent's name.
            token: The secret that proves to the agent that this is the controller.
            taking_over: True to tell the agent that this controller takes over from another one.

        Raises:
            HostLostError: The agent is gone: another agent answered, or the agent refuses.
            TimeoutError: No answer came in time.
            HostUnreachableError: The connection ended.
            WireError: Bytes came that are not an answer.
            InternalError: The controller failed to handle the bytes that came.
        """
        self.connection = connection
        asked_at = self._loop.time()
        self._session.open(asked_at)
        fields = greeting(agent, token, self._name, taking_over=taking_over)
        try:
            answer = await shake_hands(connection, self._session.hello(fields, asked_at), self._host)
        except (HostUnreachableError, TimeoutError):
            self.drop()
            if self.error is not None:
                raise self.error from None  # the error because of which the connection was closed
            raise
        except BaseException:
            self.drop()
            raise
        self._met = True
        gone: Exception | None
        try:
            gone = refusal(answer, agent, self._host)
        except ProtocolError as error:
            gone = self._broken_protocol(error)
        if gone is not None:
            self.drop()
            raise gone
        self.rtt_s = self._loop.time() - asked_at
        self._trust()
        self.flush()

    def drop(self) -> None:
        """Close the connection, if there is one. Unacknowledged messages wait for the next connection."""
        connection, self.connection = self.connection, None
        self._session.detach()
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """End the conversation: send and receive nothing more."""
        self.drop()
        self._session.close()

    def suspect(self) -> None:
        """Report that the agent is silent. Further calls do nothing until bytes come from the agent again."""
        if not self._suspected:
            self._suspected = True
            self._on_suspect(True)

    def _trust(self) -> None:
        if self._suspected:
            self._suspected = False
            self._on_suspect(False)

    # ---- sending -------------------------------------------------------------------------------------------

    def send(self, message: AnyMessage, payload: Sequence[Buffer] = ()) -> None:
        """Send a message, which is delivered once and in order, whatever happens to the connection."""
        self._session.send(codec.encode(message), payload)
        self._flush_soon()

    def send_object(self, key: int, source: Source) -> int:
        """Stream an object into the agent's store. Return the number of the stream, which `stop_object` takes."""
        stream = next(self._streams)
        self._session.send(codec.encode(messages.StreamObject(stream, key, source.size)))
        self._session.send_stream(stream, source)
        if isinstance(source, GrowingSource):
            source.on_more = lambda: self._wake(stream)
        self._flush_soon()
        return stream

    def stop_object(self, stream: int) -> None:
        """Stop a stream before its end, if the rest of the object will not come."""
        self._session.stop_stream(stream)
        self.send(messages.StopStream(stream))

    def _wake(self, stream: int) -> None:
        self._session.wake(stream)
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Flush in the loop's next turn, so that messages of one turn travel in one write."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what waits to be sent, and a heartbeat if one is due. Schedule another flush if bulk data is left."""
        self._flush_due = False
        connection = self.connection
        if connection is None or connection.is_paused:
            return
        segments = self._session.take(self._loop.time(), _SLICE)
        if segments:
            try:
                connection.write(segments)
            except OSError as error:
                connection.lost(error)
                return
        if self._session.has_output:
            self._flush_soon()

    # ---- as a connection's listener ----------------------------------------------------------------------------

    def received(self, connection: Connection, data: bytes) -> None:
        """See `ConnectionListener`."""
        if connection is not self.connection:
            return
        fresh: list[Message | Piece] = []
        garbled: ProtocolError | None = None
        try:
            try:
                self._take_in(connection, data, fresh)
            except ProtocolError as error:
                garbled = error
            if fresh:
                self._handled += len(fresh)
                self._handler(fresh)
        except ProtocolError as error:
            self._fail(self._broken_protocol(error))
            return
        except Exception as error:
            # The handler has not handled the rest of the batch either, so the conversation cannot go on.
            self._fail(self._not_handled(error))
            return
        if garbled is not None:
            self._on_garbled(connection, garbled)
            return
        if self._suspected:
            self._trust()
        if self._session.has_output:
            self._flush_soon()

    def resumed(self) -> None:
        """See `ConnectionListener`."""
        self._flush_soon()

    def lost(self, connection: Connection) -> None:
        """See `ConnectionListener`."""
        if connection is self.connection:
            self.connection = None
            self._session.detach()
            self._on_broken()

    # ---- receiving -----------------------------------------------------------------------------------------

    def _take_in(self, connection: Connection, data: bytes, fresh: list[Message | Piece]) -> None:
        """Read bytes that came, and add the new messages and pieces to ``fresh``. Stop at the first bad bytes.

        Raises:
            ProtocolError: Bad bytes came.
        """
        now = self._loop.time()
        for frame in self._session.receive(data, now):
            if not isinstance(frame, Hello):
                fresh.append(frame)
                continue
            if "error" not in frame.fields:
                self._session.attach(frame.fields.get("state"), now)
            if not connection.hello.done():
                connection.hello.set_result(frame.fields)

    def _on_garbled(self, connection: Connection, error: ProtocolError) -> None:
        """Close the connection, so that the agent sends the bytes again over the next one.

        If bad bytes come again and again, end the conversation.
        """
        self._garbled = self._garbled + 1 if self._handled == self._handled_when_garbled else 1
        self._handled_when_garbled = self._handled
        if not self._met or self._garbled > _MAX_GARBLED:
            self._fail(self._broken_protocol(error))
            return
        logger.warning(
            "The agent on host %s broke the protocol, so the controller reconnects: %s.",
            self._host,
            printable(str(error)),
        )
        connection.lost(error)
        connection.close()

    def give_up(self, reason: str) -> None:
        """End the conversation, because the handler cannot make sense of a message from the agent."""
        self._fail(
            WireError(f"The agent on host {self._host!r} broke the protocol: {reason}.", remedy="Report this error.")
        )

    def _broken_protocol(self, error: ProtocolError) -> WireError:
        return WireError(
            f"The agent on host {self._host!r} broke the protocol: {error}.",
            remedy="Check if anything between the controller and the host changes bytes. If not, report this error.",
        )

    def _not_handled(self, error: Exception) -> InternalError:
        said = f"{type(error).__name__}: {exceptions.message(error)}"
        failure = InternalError(f"The controller could not handle what the agent on host {self._host!r} sent: {said}.")
        failure.__cause__ = error
        return failure

    def _fail(self, error: Exception) -> None:
        self.error = error
        self.drop()
        self._on_broken()


class GrowingSource(Source):
    """A source whose bytes may come later than they are read."""

    def __init__(self) -> None:
        #: The source's owner calls this function when more bytes can be read. The conversation that sends the source
        #: sets the function.
        self.on_more: Callable[[], None] = lambda: None
