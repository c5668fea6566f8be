"""The link to one host's agent: it starts or takes over the agent, reconnects when the line drops, and ends the agent.

The link takes a host for lost when nothing was heard for ``host_timeout_s``. The conversation carries the messages,
and keeps those that a connection loses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from handout.errors import HandoutError, HostError, HostLostError, HostUnreachableError
from handout.protocol import messages
from handout.transport.bootstrap import Bootstrap, StartedAgent
from handout.transport.connection import Connection
from handout.transport.conversation import Conversation, FrameHandler
from handout.transport.handshake import HANDSHAKE_TIMEOUT_S
from handout.transport.launcher import Launcher
from handout.transport.timings import Timings

__all__ = ["STOP_TIMEOUT_S", "AgentLink", "release_error"]

logger = logging.getLogger("handout.link")

#: Ending an agent may take this long; closing a whole cluster may take 5 s.
STOP_TIMEOUT_S = 4.0
_STOP_PAUSE_S = 0.05
#: A stop that is not acknowledged after this long is sent again, over another connection.
_STOP_SILENCE_S = 1.0
#: Connecting to a host may take this many times as long as its first start did.
_SLOWER = 3


class AgentLink:
    """The controller's end of the link to one host's agent.

    Args:
        host: The host's name.
        python: The interpreter to use on the host, or None.
        launcher: Starts the agent and connects to it.
        timings: How long silence may last.
        handler: Called with every batch of messages and pieces. Each of them comes once and in order.
        on_suspect: Called with True when the host falls silent, with False when it is heard again.
    """

    def __init__(
        self,
        host: str,
        python: str | None,
        launcher: Launcher,
        timings: Timings,
        handler: FrameHandler,
        on_suspect: Callable[[bool], None],
    ) -> None:
        self.host = host
        self.started: StartedAgent | None = None
        #: True once the agent is known to have ended because the link stopped it.
        self.agent_ended = False
        #: Seconds that the first start or connection took.
        self._start_s = 0.0
        self._launcher = launcher
        self._timings = timings
        settings = {
            "heartbeat_s": timings.heartbeat_s,
            "host_timeout_s": timings.host_timeout_s,
            "linger_s": timings.linger_s,
            "kill_after_s": timings.kill_after_s,
        }
        self._bootstrap = Bootstrap(host, python, settings)
        self._loop = asyncio.get_running_loop()
        self._wakeup = asyncio.Event()
        #: Outlives its connections. Only the link makes connections.
        self.conversation = Conversation(host, timings.heartbeat_s, handler, on_suspect, self._wakeup.set)
        self._stopping = False
        #: Lets one handshake run at a time: `run` and `stop` may both want a connection.
        self._attaching = asyncio.Lock()
        #: The time limit of the current try to connect, outside of `stop`. `stop` lets it expire, because the
        #: try may hang.
        self._trying: asyncio.Timeout | None = None
        #: True if the last try to connect hung.
        self._hung = False
        self._starting: asyncio.Future[StartedAgent] | None = None
        #: True if the agent must still be told that this controller takes over.
        self._taking_over = False
        self._ending: asyncio.Future[None] | None = None
        #: True if the connection was silent for so long that the launcher must make a new one from scratch.
        self._silent = False

    # ---- beginning -----------------------------------------------------------------------------------------

    async def open(self) -> StartedAgent:
        """Start the agent and connect to it.

        Raises:
            HostError: The start failed; the error says what was tried and the remedy.
        """
        begun_at = self._loop.time()
        self._starting = asyncio.ensure_future(self._launcher.start(self._bootstrap))
        try:
            # The shield lets the start finish, because the link can end an agent only after it has started.
            started = await asyncio.shield(self._starting)
            self.started = started
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._stopping and task is not None and not task.cancelling():
                # `stop` has cancelled the start; the task that waits for it was not cancelled.
                raise release_error(self.host) from None
            if not self._bootstrap.command_sent:
                self._starting.cancel()
            raise
        self._start_s = self._loop.time() - begun_at
        await self._connect_first(self._timings.host_timeout_s)
        return started

    async def take_over(self, started: StartedAgent, token: str, within_s: float) -> None:
        """Go on with an agent that a lost controller started.

        Args:
            started: The agent.
            token: Proves to the agent that it may listen to this controller.
            within_s: Seconds in which the link tries to connect.

        Raises:
            HostError: The agent is gone or cannot be reached.
        """
        self._bootstrap.token, self.started, self._taking_over = token, started, True
        await self._connect_first(within_s)

    async def _connect_first(self, within_s: float) -> None:
        error = await self._attach_by(self._loop.time() + within_s, HostUnreachableError)
        if self._stopping:
            raise release_error(self.host)
        if error is not None:
            raise error

    @property
    def token(self) -> str:
        """Proves to the agent that a connection is the controller's."""
        return self._bootstrap.token

    async def run(self) -> None:
        """Keep the conversation going until the host is lost. Return once `stop` was called.

        Raises:
            HostLostError: Nothing was heard for ``host_timeout_s``, or the agent is gone.
            WireError: The agent broke the protocol.
            InternalError: The controller failed to handle a message.
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
            if self.conversation.error is not None:
                raise self.conversation.error
            if self.conversation.connection is None:
                await self._reattach()
                continue
            if self._loop.time() - due > tick_s:
                continue  # the controller's loop was blocked, and has not yet read what the host sent meanwhile
            self._judge_silence()
            self.conversation.flush()

    # ---- ending --------------------------------------------------------------------------------------------

    async def stop(self, within_s: float = STOP_TIMEOUT_S) -> None:
        """Tell the agent to end, and wait until it has ended with all its processes. May be called again.

        Args:
            within_s: Seconds after which the link logs a warning and leaves the agent to its lease.
        """
        self._stopping = True
        if self._trying is not None and not self._trying.expired():
            self._trying.reschedule(self._loop.time())  # the try may hang, and holds the lock meanwhile
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end(self._loop.time() + within_s))
        await asyncio.shield(self._ending)

    async def _end(self, deadline: float) -> None:
        """Deliver the stop, over a new connection if the last one is gone, and wait until the agent has ended."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._await_start()
                if self.started is not None:
                    self.conversation.send(messages.Stop())
                    while not await self._has_ended(deadline):
                        pass
                    self.agent_ended = True
        except TimeoutError:
            logger.warning("The agent on %s %s.", self.host, self._how_it_is_left())
            self._launcher.abort()  # an orderly close would wait for an answer
        starting = self._starting
        if starting is not None and not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        self.conversation.close()
        await self._launcher.aclose()

    def _how_it_is_left(self) -> str:
        if self.started is None:
            return "was still being started when the controller stopped it; it ends when its start finds no reader"
        silent_s = self._loop.time() - self.conversation.last_heard
        where = "not connected" if self.conversation.connection is None else "connected"
        return f"did not confirm that it ended; its lease will end it ({where}, last heard {silent_s:.1f} s ago)"

    async def _await_start(self) -> None:
        """Wait for an agent that the host is starting; otherwise it would run until the end of its lease."""
        starting = self._starting
        if starting is None or not (starting.done() or self._bootstrap.command_sent):
            return
        await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            self.started = starting.result()

    async def _has_ended(self, deadline: float) -> bool:
        """Wait a while for the agent's end; return True if it closed its connection, or nothing listens on its socket.

        Args:
            deadline: When the link leaves the agent to its lease, by the loop's clock. A try to connect that hangs ends
                early enough for another one.
        """
        connection = self.conversation.connection
        if connection is None:
            return await self._is_gone(deadline)
        self.conversation.flush()
        silent_s = self._loop.time() - self.conversation.last_heard
        # An agent that has already missed a heartbeat is not waited for.
        limit_s = _STOP_SILENCE_S if silent_s < 1.5 * self._timings.heartbeat_s else 0
        try:
            async with asyncio.timeout(limit_s):
                await connection.closed.wait()
        except TimeoutError:
            if self.conversation.unacknowledged:
                # The stop has not arrived: this connection may be dead although the host can be reached.
                self._launcher.abort()
                self.conversation.drop()
            return False
        return connection.error is None

    async def _is_gone(self, deadline: float) -> bool:
        """Try to connect to the agent; return True if that shows that it is gone."""
        try:
            limit_s = min(self._patience_s, (deadline - self._loop.time()) / 2)
            async with asyncio.timeout(None if self._hung else limit_s):
                await self._attach()
        except HostLostError:
            return True
        except TimeoutError:
            self._abort_hung()
        except HandoutError as error:  # also an InternalError that had ended the conversation before
            logger.info("The controller cannot reach the agent on %s to end it: %s", self.host, error)
            await asyncio.sleep(_STOP_PAUSE_S)
        return False

    async def abandon(self) -> None:
        """Release a host that is lost. If `stop` is already ending its agent, wait for that."""
        if self._ending is not None:
            await self.stop()
            return
        self._stopping = True
        self._launcher.abort()  # an orderly close would wait for an answer of a silent host
        self.conversation.close()
        await self._launcher.aclose()

    # ---- connections ---------------------------------------------------------------------------------------

    def _judge_silence(self) -> None:
        silent_s = self._loop.time() - self.conversation.last_heard
        if silent_s > self._timings.reconnect_s:
            self._silent = True
            self.conversation.drop()
            self._wakeup.set()
        elif silent_s > self._timings.suspect_s:
            self.conversation.suspect()

    async def _reattach(self) -> None:
        """Connect again, trying until the lease is over."""
        if self._silent:
            # The line may be dead without an error (a router forgot it, the host has moved), so it is not used again.
            self._silent = False
            self._launcher.abort()
        error = await self._attach_by(self.conversation.last_heard + self._timings.host_timeout_s, HostError)
        if error is not None:
            raise HostLostError(
                f"Host {self.host!r} was silent for {self._timings.host_timeout_s:g} s: {str(error).rstrip('.')}.",
                remedy="The controller runs its tasks on other hosts, and uses the host again when it answers.",
                host=self.host,
            )

    async def _attach_by(self, deadline: float, retry_on: type[HostError]) -> HostError | None:
        """Connect by a deadline; return the last error if that fails, None if it succeeds or `stop` is called.

        Args:
            deadline: By the loop's clock.
            retry_on: Errors of this class lead to another try.

        Raises:
            HostLostError: The agent is gone, so no further try can succeed.
            HostError: Another class of error than `retry_on`.
        """
        pause_s = self._timings.heartbeat_s / 40
        error: HostError | None = None
        while (left_s := deadline - self._loop.time()) > 0 and not self._stopping:
            tried_at = self._loop.time()
            try:
                async with asyncio.timeout(self._limit_s(left_s)) as self._trying:
                    await self._attach()
                self._start_s = self._start_s or self._loop.time() - tried_at
                return None
            except HostLostError:
                raise
            except retry_on as met:
                error = met
            except TimeoutError:
                took_s = self._loop.time() - tried_at
                if not self._stopping or took_s > self._patience_s:
                    self._abort_hung()
                if error is None:  # an earlier error tells more
                    error = HostUnreachableError(
                        f"Connecting to host {self.host!r} took over {took_s:.1f} s.", host=self.host
                    )
            finally:
                self._trying = None
            if self._stopping:
                return None
            await asyncio.sleep(min(pause_s, max(deadline - self._loop.time(), 0)))
            pause_s = min(pause_s * 2, self._timings.heartbeat_s)
        if self._stopping:
            return None
        return error or HostUnreachableError(f"The connection to host {self.host!r} dropped.", host=self.host)

    def _limit_s(self, left_s: float) -> float:
        """Return how many of the remaining seconds a try to connect may take.

        A host may need `_SLOWER` times the seconds of its first start. A try gets at least these seconds, so that it
        succeeds on a slow host. A longer try leaves as many seconds, and at least a quarter of the remaining ones, for
        another try, because it may hang. The try after one that hung gets all remaining seconds.
        """
        need_s = _SLOWER * self._start_s
        return left_s if self._hung else min(left_s, max(need_s, min(0.75 * left_s, left_s - need_s)))

    @property
    def _patience_s(self) -> float:
        """Seconds after which a try to connect counts as hung, once `stop` was called."""
        return max(_STOP_SILENCE_S, self._start_s)

    def _abort_hung(self) -> None:
        """Drop the line on which a try hung: another try on it would hang again."""
        self._hung = True
        self._launcher.abort()

    async def _attach(self) -> None:
        """Make one connection with one handshake, unless `run` or `stop` has made it meanwhile."""
        async with self._attaching:
            if self.conversation.connection is None:
                await self._connect()
                self._hung = False

    async def _connect(self) -> None:
        assert self.started is not None
        connection = Connection(self.conversation)
        connection.transport = await self._launcher.connect(self.started, connection)
        try:
            await self.conversation.attach(connection, self.started.agent, self.token, taking_over=self._taking_over)
        except TimeoutError:
            self._launcher.abort()  # another try on this line would hang again
            raise HostUnreachableError(
                f"The agent on host {self.host!r} did not answer the handshake within {HANDSHAKE_TIMEOUT_S:g} s.",
                remedy="Check the network to the host, and whether the host is out of memory or stopped.",
                host=self.host,
            ) from None
        self._taking_over = False


def release_error(host: str) -> HostError:
    """Return the error for callers that wait for a host while the cluster releases it."""
    return HostError(
        f"Host {host!r} is being released: the cluster stops its agent.",
        remedy="Add the host again to use it.",
        host=host,
    )
