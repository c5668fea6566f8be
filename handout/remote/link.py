"""The conversation with one host's agent, across the connections that carry it.

A link starts the agent, keeps talking to it, makes the connection again when it drops, and says when the host is
to be taken for lost: when nothing was heard for ``host_timeout_s``. It moves messages and bulk; what they mean is
its owner's business.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from handout.agent.session import Session, Source
from handout.agent.wire import Buffer, Hello, Message, Piece, ProtocolError
from handout.errors import HostError, HostLostError, HostUnreachableError, InternalError, WireError
from handout.remote.bootstrap import Bootstrap, Started
from handout.remote.launcher import Launcher
from handout.remote.timings import Timings
from handout.remote.transport import Transport

__all__ = ["STOP_TIMEOUT_S", "Link", "Timings"]

logger = logging.getLogger("handout.link")

_HANDSHAKE_TIMEOUT_S = 10.0
#: An agent's end is waited for this long; closing a cluster as a whole may take 5 s.
STOP_TIMEOUT_S = 4.0
_STOP_PAUSE_S = 0.05
#: A stop that is not acknowledged after so long is sent again, over another connection.
_STOP_SILENCE_S = 1.0
#: Bulk handed to a transport in one go; the loop serves others in between.
_SLICE = 256 << 10
#: Bytes of one write: larger buffers cost more to allocate than to fill.
_WRITE = 64 << 10
#: Connections in a row that may bring something bad and nothing new.
_MAX_GARBLED = 20
_ticket = itertools.count(1)


Handler = Callable[[Sequence[Message | Piece]], None]


class Link:
    """One host's agent, from here.

    Args:
        host: The host's name.
        python: The interpreter to use there, or None.
        launcher: How it is started and reached.
        timings: What silence means.
        handler: Called with every batch of messages and pieces, in order, each once.
        on_suspect: Called with True when the host falls silent, with False when it is heard again.
    """

    def __init__(
        self,
        host: str,
        python: str | None,
        launcher: Launcher,
        timings: Timings,
        handler: Handler,
        on_suspect: Callable[[bool], None],
    ) -> None:
        self.host = host
        self.started: Started | None = None
        #: Whether the agent is known to have ended, because it was told to.
        self.seen_out = False
        #: Seconds of the last handshake's round trip.
        self.rtt_s = 0.0
        #: Seconds that the first login took, with what came with it.
        self._start_s = 0.0
        self._launcher = launcher
        self._timings = timings
        self._handler = handler
        self._on_suspect = on_suspect
        settings = {
            "heartbeat_s": timings.heartbeat_s,
            "host_timeout_s": timings.host_timeout_s,
            "linger_s": timings.linger_s,
            "kill_after_s": timings.kill_after_s,
        }
        self._bootstrap = Bootstrap(host, python, settings)
        self._loop = asyncio.get_running_loop()
        self._session = Session(heartbeat_s=timings.heartbeat_s, now=self._loop.time())
        #: By it the agent knows this conversation from that of a controller which took over, or was taken over from.
        self._conversation = secrets.token_hex(8)
        self._connection: _Connection | None = None
        self._wakeup = asyncio.Event()
        self._flush_due = False
        self._suspected = False
        self._stopping = False
        #: One handshake at a time: the one that goes on and the one that ends it may both want a connection.
        self._attaching = asyncio.Lock()
        self._starting: asyncio.Future[Started] | None = None
        #: The agent has not been told yet that another controller goes on.
        self._adopting = False
        self._ending: asyncio.Future[None] | None = None
        #: A handshake came to an end, good or bad: who answers here knows how to talk.
        self._met = False
        #: Nothing came over the connection for so long that the next one is made from scratch.
        self._silent = False
        self._streams = itertools.count(1)
        self._error: Exception | None = None
        #: Messages and pieces that were handed on; how many of them when something bad came last.
        self._handled = self._handled_when_garbled = 0
        #: How often in a row something bad came, with nothing new between.
        self._garbled = 0

    # ---- life ----------------------------------------------------------------------------------------------

    async def open(self) -> Started:
        """Start the agent and connect to it.

        Raises:
            HostError: With what was tried and the remedy.
        """
        begun_at = self._loop.time()
        self._starting = asyncio.ensure_future(self._launcher.start(self._bootstrap))
        try:
            # Shielded: an agent that the host is starting already can only be ended once it is there.
            started = await asyncio.shield(self._starting)
            self.started = started
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._stopping and task is not None and not task.cancelling():
                # `stop` has called off the start; nobody has cancelled whoever waits for it here.
                raise self._let_go() from None
            if not self._bootstrap.begun:
                self._starting.cancel()
            raise
        self._start_s = self._loop.time() - begun_at
        error = await self._attach_by(self._loop.time() + self._timings.host_timeout_s, HostUnreachableError)
        if self._stopping:
            raise self._let_go()
        if error is not None:
            raise error
        return started

    def _let_go(self) -> HostError:
        return HostError(f"Host {self.host!r} is being let go.", host=self.host)

    async def adopt(self, started: Started, token: str) -> None:
        """Go on with an agent that another controller started, and was lost.

        Raises:
            HostError: It is gone, or cannot be reached.
        """
        self._bootstrap.token, self.started, self._adopting = token, started, True
        begun_at = self._loop.time()
        await self._attach()
        self._start_s = self._loop.time() - begun_at

    @property
    def token(self) -> str:
        """What proves to the agent that a connection is the controller's."""
        return self._bootstrap.token

    async def run(self) -> None:
        """Keep the conversation going until the host is lost; returns once the link is being stopped.

        Raises:
            HostLostError: Nothing was heard for ``host_timeout_s``, or the agent is gone.
            WireError: The agent spoke nonsense.
        """
        tick_s = self._timings.heartbeat_s / 2
        while True:
            due = self._loop.time() + tick_s
            try:
                async with asyncio.timeout(tick_s):
                    await self._wakeup.wait()
            except TimeoutError:
                pass
            self._wakeup.clear()
            if self._stopping:
                return
            if self._error is not None:
                raise self._error
            if self._connection is None:
                await self._reattach()
                continue
            if self._loop.time() - due > tick_s:
                continue  # this loop was blocked: what the host sent meanwhile has not been read yet
            self._judge_silence()
            self._flush()

    async def stop(self, within_s: float = STOP_TIMEOUT_S) -> None:
        """Tell the agent to end, and wait until it has: no process of it is left then. May be repeated.

        Args:
            within_s: Seconds that this may take; after them the agent is left to its lease, with a warning.
        """
        self._stopping = True
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end(self._loop.time() + within_s))
        await asyncio.shield(self._ending)

    async def _end(self, deadline: float) -> None:
        """Deliver the stop, over a new connection where the last one is gone, and see the agent out."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._meet_who_is_coming()
                if self.started is not None:
                    self._session.send({"m": "stop"})
                    while not await self._see_out():
                        pass
                    self.seen_out = True
        except TimeoutError:
            logger.warning("The agent on %s did not confirm that it ended; its lease will end it.", self.host)
            self._launcher.abort()  # closing in order would wait for an answer, too
        starting = self._starting
        if starting is not None and not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        self._drop_connection()
        self._session.close()
        await self._launcher.aclose()

    async def _meet_who_is_coming(self) -> None:
        """Wait for an agent that was on its way when this began to stop: else it would wait for its lease to end."""
        starting = self._starting
        if starting is None or not (starting.done() or self._bootstrap.begun):
            return
        await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            self.started = starting.result()

    async def _see_out(self) -> bool:
        """Whether the agent is known to have ended: it closed its connection, or nobody is there any more."""
        connection = self._connection
        if connection is None:
            try:
                await self._attach()
            except HostLostError:
                return True
            except (HostError, WireError) as error:
                logger.info("The agent on %s cannot be reached to end it: %s", self.host, error)
                await asyncio.sleep(_STOP_PAUSE_S)
            return False
        self._flush()
        silent_s = self._loop.time() - self._session.last_heard
        try:
            # Who has missed a beat already is not waited for.
            async with asyncio.timeout(_STOP_SILENCE_S if silent_s < 1.5 * self._timings.heartbeat_s else 0):
                await connection.closed.wait()
        except TimeoutError:
            if self._session.unacknowledged:
                # The stop has not arrived: this line may be dead where another one is not.
                self._launcher.abort()
                self._drop_connection()
            return False
        return connection.error is None

    async def abandon(self) -> None:
        """Let go of a host that is lost."""
        self._stopping = True
        self._launcher.abort()  # closing in order would wait for an answer of a host that is silent
        self._drop_connection()
        self._session.close()
        await self._launcher.aclose()

    def _judge_silence(self) -> None:
        silent_s = self._loop.time() - self._session.last_heard
        if silent_s > self._timings.reconnect_s:
            self._silent = True
            self._drop_connection()
            self._wakeup.set()
        elif silent_s > self._timings.suspect_s and not self._suspected:
            self._suspected = True
            self._on_suspect(True)

    async def _reattach(self) -> None:
        """Make the connection again, until the lease is over."""
        if self._silent:
            # What forgot this line on the way (a router, a host that was moved) will not remember it.
            self._silent = False
            self._launcher.abort()
        error = await self._attach_by(self._session.last_heard + self._timings.host_timeout_s, HostError)
        if error is not None:
            raise HostLostError(
                f"Host {self.host!r} was silent for {self._timings.host_timeout_s:g} s: {str(error).rstrip('.')}.",
                remedy="Its tasks run elsewhere; it is used again when it comes back.",
                host=self.host,
            )

    async def _attach_by(self, deadline: float, passing: type[HostError]) -> HostError | None:
        """Be connected by then, trying again after errors of this class; answers why not. Gives in to `stop`.

        Raises:
            HostLostError: The agent is gone: no connection mends that.
        """
        pause_s = self._timings.heartbeat_s / 40
        error: HostError = HostUnreachableError("The connection dropped.", host=self.host)
        while (left_s := deadline - self._loop.time()) > 0 and not self._stopping:
            # A try that hangs must leave time for another one; a host that is slow gets as long as it is known to take.
            limit_s = min(left_s, max(left_s / 2, self._start_s))
            try:
                async with asyncio.timeout(limit_s):
                    await self._attach()
                return None
            except HostLostError:
                raise
            except passing as met:
                error = met
            except TimeoutError:
                if not self._stopping:  # else the connection may be that of `stop`
                    self._launcher.abort()  # what hangs on this one would hang again
                error = HostUnreachableError(f"Connecting to host {self.host!r} took too long.", host=self.host)
            await asyncio.sleep(min(pause_s, max(deadline - self._loop.time(), 0)))
            pause_s = min(pause_s * 2, self._timings.heartbeat_s)
        return None if self._stopping else error

    async def _attach(self) -> None:
        """Be connected: one connection and one handshake, unless somebody else has seen to it meanwhile."""
        async with self._attaching:
            if self._connection is None:
                await self._connect()

    async def _connect(self) -> None:
        assert self.started is not None
        connection = _Connection(self)
        connection.transport = await self._launcher.connect(self.started, connection)
        self._connection = connection
        self._session.open(self._loop.time())
        hello: dict[str, Any] = {
            "token": self._bootstrap.token,
            "agent": self.started.agent,
            "conversation": self._conversation,
            "ticket": next(_ticket),
        }
        if self._adopting:
            hello["adopt"] = True
        asked_at = self._loop.time()
        try:
            # It may be closed already: then writing says so, or the hello never comes.
            connection.transport.write(self._session.hello(hello, asked_at))
            async with asyncio.timeout(_HANDSHAKE_TIMEOUT_S):
                fields = await connection.hello
        except TimeoutError:
            self._launcher.abort()
            self._drop_connection()
            raise HostUnreachableError(
                f"The agent on host {self.host!r} did not answer the handshake within {_HANDSHAKE_TIMEOUT_S:g} s.",
                remedy="Check the line to it, and whether the host is out of memory or stopped.",
                host=self.host,
            ) from None
        except OSError as error:
            self._drop_connection()
            if self._error is not None:
                raise self._error from None
            raise HostUnreachableError(
                f"Host {self.host!r} closed the connection: {error}.",
                remedy="Check the line to it.",
                host=self.host,
            ) from None
        except BaseException:
            self._drop_connection()
            raise
        self._met = True
        if "error" in fields or fields.get("agent") != self.started.agent:
            self._drop_connection()
            raise HostLostError(
                f"The agent on host {self.host!r} is gone: {fields.get('error', 'another one answered')}.",
                remedy="Its tasks run elsewhere; another agent is started there.",
                host=self.host,
                gone=True,
            )
        self._adopting = False
        self.rtt_s = self._loop.time() - asked_at
        if self._suspected:
            self._suspected = False
            self._on_suspect(False)
        self._flush()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        self._session.detach()
        if connection is not None and connection.transport is not None:
            connection.transport.close()

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
        if isinstance(source, Wakeable):
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
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        connection = self._connection
        if connection is None or connection.transport is None or connection.is_paused:
            return
        segments = self._session.take(self._loop.time(), _SLICE)
        if segments:
            try:
                for data in _pieces(segments):
                    connection.transport.write(data)
            except (OSError, ConnectionError) as error:
                connection.lost(error)
                return
        if self._session.has_output:
            self._flush_soon()

    # ---- receiving, called by the connection -------------------------------------------------------------------

    def _received(self, connection: _Connection, data: bytes) -> None:
        if connection is not self._connection:
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
            broken = InternalError(
                f"What host {self.host!r} sent was handled wrongly: {type(error).__name__}: {error}."
            )
            broken.__cause__ = error
            self._fail(broken)
            return
        if garbled is not None:
            self._on_garbled(connection, garbled)
            return
        if self._suspected:
            self._suspected = False
            self._on_suspect(False)
        if self._session.has_output:
            self._flush_soon()

    def _take_in(self, connection: _Connection, data: bytes, fresh: list[Message | Piece]) -> None:
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

    def _on_garbled(self, connection: _Connection, error: ProtocolError) -> None:
        """Make the connection again: what was damaged on the way is sent anew; who never gets it right is left."""
        self._garbled = self._garbled + 1 if self._handled == self._handled_when_garbled else 1
        self._handled_when_garbled = self._handled
        if not self._met or self._garbled > _MAX_GARBLED:
            self._fail(self._nonsense(error))
            return
        logger.warning("Host %s sent what is not allowed, the connection is made again: %s.", self.host, error)
        self._lost(connection, error)
        if connection.transport is not None:
            connection.transport.close()

    def _nonsense(self, error: ProtocolError) -> WireError:
        return WireError(
            f"The agent on host {self.host!r} sent what is not allowed: {error}.",
            remedy="Check that nothing on the way changes what is sent; else please report it.",
        )

    def give_up(self, reason: str) -> None:
        """What the agent said makes no sense to its owner: the conversation cannot go on."""
        self._fail(
            WireError(
                f"The agent on host {self.host!r} sent what is not allowed: {reason}.", remedy="Please report it."
            )
        )

    def _fail(self, error: Exception) -> None:
        """The conversation cannot go on; whoever serves it, or opens it, raises this."""
        self._error = error
        self._drop_connection()
        self._wakeup.set()

    def _lost(self, connection: _Connection, error: Exception | None) -> None:
        if connection.closed.is_set():
            return
        connection.error = error
        connection.closed.set()
        if not connection.hello.done():
            connection.hello.set_exception(ConnectionResetError(str(error or "closed")))
            connection.hello.exception()
        if connection is self._connection:
            self._connection = None
            self._session.detach()
            self._wakeup.set()


def _pieces(segments: Sequence[Buffer]) -> Iterator[Buffer]:
    """Segments as writes of a middling size: small ones joined, large ones cut, without copying them as a whole."""
    small: list[Buffer] = []
    size = 0
    for segment in segments:
        view = memoryview(segment)
        while size + len(view) >= _WRITE:
            first, view = view[: _WRITE - size], view[_WRITE - size :]
            yield b"".join([*small, first]) if small else first
            small, size = [], 0
        if len(view):
            small.append(view)
            size += len(view)
    if small:
        yield b"".join(small)


class Wakeable(Source):
    """A source whose bytes are still arriving."""

    def __init__(self) -> None:
        #: Set by the link that sends it: to be called when more is there.
        self.on_more: Callable[[], None] = lambda: None


class _Connection:
    """One connection of a link: a receiver that knows whether it is still the current one."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.transport: Transport | None = None
        self.is_paused = False
        self.hello: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()
        #: Why it was closed; None where the other side closed it in order.
        self.error: Exception | None = None

    def received(self, data: bytes) -> None:
        self._link._received(self, data)

    def paused(self) -> None:
        self.is_paused = True

    def resumed(self) -> None:
        self.is_paused = False
        self._link._flush_soon()

    def lost(self, error: Exception | None) -> None:
        self._link._lost(self, error)
