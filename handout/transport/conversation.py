"""What is said with one host's agent, across the connections that carry it.

Messages and bulk are delivered once and in order, whatever happens to a connection; what is damaged on the way is
said again. What they mean is its owner's business. Who makes the connections, and when silence has lasted too long,
is the link's.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from handout.errors import HostUnreachableError, InternalError, WireError
from handout.protocol.frames import Buffer, Hello, Message, Piece, ProtocolError
from handout.protocol.session import Session, Source
from handout.serialization import exceptions
from handout.transport.connection import Connection
from handout.transport.handshake import greeting, refusal, shake_hands

__all__ = ["Conversation", "FrameHandler", "GrowingSource"]

logger = logging.getLogger("handout.link")

#: Bulk handed to a connection in one go; the loop serves others in between.
_SLICE = 256 << 10
#: Connections in a row that may bring something bad and nothing new.
_MAX_GARBLED = 20

FrameHandler = Callable[[Sequence[Message | Piece]], None]


class Conversation:
    """The conversation with one agent, from here.

    Args:
        host: The host's name.
        heartbeat_s: Who has nothing to say lets itself be heard this often.
        handler: Called with every batch of messages and pieces, in order, each once.
        on_suspect: Called with True when silence is suspected to last, with False when the agent is heard again.
        on_broken: Called when the connection broke, or all of the conversation: see `connection` and `error`.
    """

    def __init__(
        self,
        host: str,
        heartbeat_s: float,
        handler: FrameHandler,
        on_suspect: Callable[[bool], None],
        on_broken: Callable[[], None],
    ) -> None:
        #: The connection that counts: what another one brings is not heard.
        self.connection: Connection | None = None
        #: Why the conversation cannot go on, over no connection; None while it can.
        self.error: Exception | None = None
        #: Seconds of the last handshake's round trip.
        self.rtt_s = 0.0
        self._host = host
        self._handler = handler
        self._on_suspect = on_suspect
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._session = Session(heartbeat_s=heartbeat_s, now=self._loop.time())
        #: By it the agent knows this conversation from that of a controller which took over, or was taken over from.
        self._name = secrets.token_hex(8)
        self._streams = itertools.count(1)
        self._flush_due = False
        self._suspected = False
        #: A handshake came to an end, good or bad: who answers here knows how to talk.
        self._met = False
        #: Messages and pieces that were handed on; how many of them when something bad came last.
        self._handled = self._handled_when_garbled = 0
        #: How often in a row something bad came, with nothing new between.
        self._garbled = 0

    @property
    def last_heard(self) -> float:
        """When anything came from the agent last, by the loop's clock."""
        return self._session.last_heard

    @property
    def unacknowledged(self) -> int:
        """Messages that the agent has not confirmed."""
        return self._session.unacknowledged

    # ---- connections ---------------------------------------------------------------------------------------

    async def attach(self, connection: Connection, agent: str, token: str, *, taking_over: bool) -> None:
        """Go on over a new connection, where the agent that is meant answers on it.

        Args:
            connection: Open; it takes the place of the one before.
            agent: What the agent calls itself.
            token: What proves to it that this is the controller.
            adopting: Whether it is to be told that another controller goes on.

        Raises:
            HostLostError: It is gone: another one answered, or it refuses.
            TimeoutError: Nobody answered in time.
            HostUnreachableError: The connection ended.
            WireError: What came was no answer.
            InternalError: What came was handled wrongly.
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
                raise self.error from None  # that is why it was closed
            raise
        except BaseException:
            self.drop()
            raise
        self._met = True
        gone = refusal(answer, agent, self._host)
        if gone is not None:
            self.drop()
            raise gone
        self.rtt_s = self._loop.time() - asked_at
        self._trust()
        self.flush()

    def drop(self) -> None:
        """Let the connection go, where there is one; what is unacknowledged waits for the next."""
        connection, self.connection = self.connection, None
        self._session.detach()
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Nothing more is said, nor heard."""
        self.drop()
        self._session.close()

    def suspect(self) -> None:
        """Take the silence for one that may last, until the agent is heard again."""
        if not self._suspected:
            self._suspected = True
            self._on_suspect(True)

    def _trust(self) -> None:
        if self._suspected:
            self._suspected = False
            self._on_suspect(False)

    # ---- sending -------------------------------------------------------------------------------------------

    def send(self, fields: dict[str, Any], payload: Sequence[Buffer] = ()) -> None:
        """Send a control message; it is delivered once, in order, whatever happens to the connection."""
        self._session.send(fields, payload)
        self._flush_soon()

    def send_object(self, key: int, source: Source) -> int:
        """Stream an object into the agent's store; answers with what :meth:`stop_object` takes."""
        stream = next(self._streams)
        self._session.send({"m": "stream", "stream": stream, "key": key, "size": source.size})
        self._session.send_stream(stream, source)
        if isinstance(source, GrowingSource):
            source.on_more = lambda: self._wake(stream)
        self._flush_soon()
        return stream

    def stop_object(self, stream: int) -> None:
        """Send no more of an object: the rest of it will not come."""
        self._session.stop_stream(stream)
        self.send({"m": "stop_stream", "stream": stream})

    def _wake(self, stream: int) -> None:
        self._session.wake(stream)
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Write when the loop goes idle, so that what is sent in one go travels in one write."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what there is to write, a beat where one is due; the rest of much bulk soon."""
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
        """See :class:`~handout.transport.connection.Listener`."""
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
            self._fail(self._nonsense(error))
            return
        except Exception as error:
            # What came with it is lost, so this conversation cannot go on; nor may that go unnoticed.
            said = f"{type(error).__name__}: {exceptions.message(error)}"
            broken = InternalError(f"What host {self._host!r} sent was handled wrongly: {said}.")
            broken.__cause__ = error
            self._fail(broken)
            return
        if garbled is not None:
            self._on_garbled(connection, garbled)
            return
        if self._suspected:
            self._trust()
        if self._session.has_output:
            self._flush_soon()

    def resumed(self) -> None:
        """See :class:`~handout.transport.connection.Listener`."""
        self._flush_soon()

    def lost(self, connection: Connection) -> None:
        """See :class:`~handout.transport.connection.Listener`."""
        if connection is self.connection:
            self.connection = None
            self._session.detach()
            self._on_broken()

    # ---- receiving -----------------------------------------------------------------------------------------

    def _take_in(self, connection: Connection, data: bytes, fresh: list[Message | Piece]) -> None:
        """Read what came; ``fresh`` gets what is new, also what came before something bad.

        Raises:
            ProtocolError: Something is bad.
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
        """Make the connection again: what was damaged on the way is sent anew; who never gets it right is left."""
        self._garbled = self._garbled + 1 if self._handled == self._handled_when_garbled else 1
        self._handled_when_garbled = self._handled
        if not self._met or self._garbled > _MAX_GARBLED:
            self._fail(self._nonsense(error))
            return
        logger.warning("Host %s sent what is not allowed, the connection is made again: %s.", self._host, error)
        connection.lost(error)
        connection.close()

    def _nonsense(self, error: ProtocolError) -> WireError:
        return WireError(
            f"The agent on host {self._host!r} sent what is not allowed: {error}.",
            remedy="Check that nothing on the way changes what is sent; else please report it.",
        )

    def give_up(self, reason: str) -> None:
        """What the agent said makes no sense to its owner: the conversation cannot go on."""
        self._fail(
            WireError(
                f"The agent on host {self._host!r} sent what is not allowed: {reason}.", remedy="Please report it."
            )
        )

    def _fail(self, error: Exception) -> None:
        self.error = error
        self.drop()
        self._on_broken()


class GrowingSource(Source):
    """A source whose bytes are still arriving."""

    def __init__(self) -> None:
        #: Set by the conversation that sends it: to be called when more is there.
        self.on_more: Callable[[], None] = lambda: None
