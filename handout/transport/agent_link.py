"""The link to one host's agent.

The link starts the agent or takes it over, connects again when the connection drops, and ends the agent. The link
treats the host as lost when nothing came from the host for ``host_timeout_s``.

The link's `Conversation` exchanges the messages, over one connection after another. If a connection loses messages, the
conversation sends them again over the next connection.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from handout.errors import HandoutError, HostError, HostLostError, HostUnreachableError
from handout.protocol import messages
from handout.transport.bootstrap import Bootstrap, StartedAgent, StartOptions
from handout.transport.connection import Connection
from handout.transport.conversation import Conversation, FrameHandler
from handout.transport.handshake import HANDSHAKE_TIMEOUT_S
from handout.transport.launcher import Launcher
from handout.transport.timings import Timings

__all__ = ["STOP_TIMEOUT_S", "AgentLink", "release_error"]

logger = logging.getLogger("handout.link")

#: Ending an agent may take this many seconds. The limit is below 5 s, which is the limit for closing a whole cluster.
STOP_TIMEOUT_S = 4.0
_STOP_PAUSE_S = 0.05
#: If the agent does not acknowledge the `Stop` message within this many seconds, the link sends the message again over
#: another connection.
_STOP_SILENCE_S = 1.0
#: The time limit of a later try to connect is at least this multiple of the time that the first start or connection
#: took, if so much time is left.
_SLOWER = 3
#: A new connection takes about this many round trips: seven for the login, and three to reach the agent.
_LOGIN_RTTS = 10
#: A line with a shorter round trip than this is not slow. A busy machine may take as long.
_SLOW_RTT_S = 0.5


class AgentLink:
    """The controller's end of the link to one host's agent.

    Args:
        host: The host's name.
        python: The interpreter to use on the host, or None to look for one.
        launcher: Starts the agent and connects to it.
        timings: The time limits for silence.
        handler: Called with each batch that comes from the agent. A batch consists of messages and of pieces of
            objects. Each message and each piece comes once and in order.
        on_suspect: Called with True when the host has become silent, and with False when bytes come from it again.
        hash_seed: The seed of Python's hash function in the workers. None: Python chooses it.
        options: Variables, folder and setup line of the host.
    """

    def __init__(
        self,
        host: str,
        python: str | None,
        launcher: Launcher,
        timings: Timings,
        handler: FrameHandler,
        on_suspect: Callable[[bool], None],
        hash_seed: int | None = None,
        options: StartOptions | None = None,
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
        self._bootstrap = Bootstrap(host, python, settings, hash_seed, options)
        self._loop = asyncio.get_running_loop()
        self._wakeup = asyncio.Event()
        #: The conversation goes on when a connection ends. The link makes a new connection for the conversation.
        self.conversation = Conversation(host, timings.heartbeat_s, handler, on_suspect, self._wakeup.set)
        self._stopping = False
        #: Lets one handshake run at a time, because `run` and `stop` may both make a connection.
        self._attaching = asyncio.Lock()
        #: The time limit of a try to connect that `open`, `take_over` or `run` is making. `stop` lets this limit
        #: expire at once, because the try may hang.
        self._trying: asyncio.Timeout | None = None
        #: True if the last try to connect hung.
        self._hung = False
        self._starting: asyncio.Future[StartedAgent] | None = None
        #: True if the next handshake must tell the agent that this controller takes over.
        self._taking_over = False
        self._ending: asyncio.Future[None] | None = None
        #: True if the host was silent for so long that the launcher must make a completely new connection to it.
        self._silent = False

    # ---- beginning -----------------------------------------------------------------------------------------

    async def open(self) -> StartedAgent:
        """Start the agent and connect to it.

        Raises:
            HostError: The agent did not start, or cannot be reached. The error says what was tried, and has a remedy.
        """
        begun_at = self._loop.time()
        self._starting = asyncio.ensure_future(self._launcher.start(self._bootstrap))
        try:
            # If `open` is cancelled, the shield lets the start finish, because the link can end the agent only after it
            # has started.
            started = await asyncio.shield(self._starting)
            self.started = started
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._stopping and task is not None and not task.cancelling():
                # `stop` has cancelled the start. The asyncio task that runs `open` was not cancelled itself.
                raise release_error(self.host) from None
            if not self._bootstrap.command_sent:
                self._starting.cancel()
            raise
        self._start_s = self._loop.time() - begun_at
        # On a slow line, the first connection may take longer than the lease. The agent lingers for it.
        within_s = min(_SLOWER * self._start_s, self._timings.linger_s)
        await self._connect_first(max(self._timings.host_timeout_s, within_s))
        self._warn_if_slow()
        return started

    def _warn_if_slow(self) -> None:
        """Say which timings would do, if a new connection would take longer than the lease leaves for it."""
        rtt_s, timings = self.conversation.rtt_s, self._timings
        left_s = timings.host_timeout_s - timings.reconnect_s
        if rtt_s < _SLOW_RTT_S or _LOGIN_RTTS * rtt_s < left_s:
            return
        logger.warning(
            "The line to host %s is slow: a round trip took %.1f s. If the connection breaks, a new one will take "
            "about %.0f s, but the lease leaves %.1f s for it. The host would then count as lost. To give it more "
            "time, pass timings=Timings().scaled(%d).",
            self.host,
            rtt_s,
            _LOGIN_RTTS * rtt_s,
            left_s,
            math.ceil(_LOGIN_RTTS * rtt_s / left_s * timings.host_timeout_s / Timings().host_timeout_s),
        )

    async def take_over(self, started: StartedAgent, token: str, within_s: float) -> None:
        """Connect to an agent that another controller started before that controller was lost.

        Args:
            started: The agent.
            token: The secret that proves to the agent that it may obey this controller.
            within_s: The link tries to connect for this many seconds.

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
        """The secret that proves to the agent that a connection comes from the controller."""
        return self._bootstrap.token

    async def run(self) -> None:
        """Keep the conversation going until `stop` is called, and then return.

        Raises:
            HostLostError: Nothing came from the host for ``host_timeout_s``, or the agent is gone.
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
            # After a block of the controller's loop, it has not yet read what the host sent meanwhile.
            if self._loop.time() - due <= tick_s:
                self._judge_silence()
            # In any case the host must hear of the controller, also while code blocks the loop again and again.
            self.conversation.flush()

    # ---- ending --------------------------------------------------------------------------------------------

    async def stop(self, within_s: float = STOP_TIMEOUT_S) -> None:
        """Tell the agent to end, and wait until the agent and all its processes have ended.

        A further call waits for the same end.

        Args:
            within_s: Seconds after which the link logs a warning and waits no longer. The agent then ends by itself
                when its lease is over.
        """
        self._stopping = True
        if self._trying is not None and not self._trying.expired():
            self._trying.reschedule(self._loop.time())  # a try that hangs would keep the lock that `_end` needs
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end(self._loop.time() + within_s))
        await asyncio.shield(self._ending)

    async def _end(self, deadline: float) -> None:
        """Send the `Stop` message, if necessary over a new connection, and wait until the agent has ended."""
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
            return (
                "was still being started when the controller stopped waiting. "
                "It will end by itself, because no controller connects to it"
            )
        silent_s = self._loop.time() - self.conversation.last_heard
        where = "not connected" if self.conversation.connection is None else "connected"
        return f"did not confirm its end. It will end when its lease is over ({where}, last heard {silent_s:.1f} s ago)"

    async def _await_start(self) -> None:
        """Wait until an agent that is being started has started, so that it can be stopped before its lease is over."""
        starting = self._starting
        if starting is None or not (starting.done() or self._bootstrap.command_sent):
            return
        await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            self.started = starting.result()

    async def _has_ended(self, deadline: float) -> bool:
        """Wait a while for the agent's end. Return True if the agent has closed its connection, or is gone.

        Args:
            deadline: The time at which the link stops waiting for the agent's end, by the loop's clock. If a try to
                connect hangs, it is ended early enough for another try before the deadline.
        """
        connection = self.conversation.connection
        if connection is None:
            return await self._is_gone(deadline)
        self.conversation.flush()
        silent_s = self._loop.time() - self.conversation.last_heard
        # If the agent has already missed a heartbeat, do not wait for it to close this connection. A slow line delays
        # heartbeats and the answer by its round trip.
        rtt_s = self.conversation.rtt_s
        limit_s = _STOP_SILENCE_S + 2 * rtt_s if silent_s < 1.5 * self._timings.heartbeat_s + rtt_s else 0
        try:
            async with asyncio.timeout(limit_s):
                await connection.closed.wait()
        except TimeoutError:
            if self.conversation.unacknowledged:
                # The agent has not acknowledged the `Stop` message. This connection may be dead although the host can
                # be reached.
                self._launcher.abort()
                self.conversation.drop()
            return False
        return connection.error is None

    async def _is_gone(self, deadline: float) -> bool:
        """Try to connect to the agent. Return True if the try shows that the agent is gone."""
        try:
            limit_s = min(self._patience_s, (deadline - self._loop.time()) / 2)
            async with asyncio.timeout(None if self._hung else limit_s):
                await self._attach()
        except HostLostError:
            return True
        except TimeoutError:
            self._abort_hung()
        except HandoutError as error:  # for example an InternalError that ended the conversation earlier
            logger.info("The controller cannot reach the agent on %s to stop the agent: %s", self.host, str(error))
            await asyncio.sleep(_STOP_PAUSE_S)
        return False

    async def abandon(self) -> None:
        """Close the connection to a host that is lost. If `stop` was called before, wait until `stop` has finished."""
        if self._ending is not None:
            await self.stop()
            return
        self._stopping = True
        self._launcher.abort()  # an orderly close would wait for an answer from the silent host
        self.conversation.close()
        await self._launcher.aclose()

    def drop(self) -> None:
        """Drop the connection, as if the network had. The link connects again."""
        self._launcher.abort()
        self.conversation.drop()
        self._wakeup.set()

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
        """Try to connect again until the lease is over.

        Raises:
            HostLostError: No try succeeded before the end of the lease, or the agent is gone.
        """
        if self._silent:
            # The launcher's connection may be dead without an error, for example if a router forgot the connection or
            # the host got another address.
            self._silent = False
            self._launcher.abort()
        error = await self._attach_by(self.conversation.last_heard + self._timings.host_timeout_s, HostError)
        if error is not None:
            raise HostLostError(
                f"Host {self.host!r} was silent for {self._timings.host_timeout_s:g} s: {str(error).rstrip('.')}.",
                remedy="The controller runs the host's tasks elsewhere, and uses the host again when the host answers.",
                host=self.host,
            )

    async def _attach_by(self, deadline: float, retry_on: type[HostError]) -> HostError | None:
        """Try to connect until a deadline. Return None if a try succeeds or `stop` is called, otherwise the last error.

        Args:
            deadline: The time at which the tries end, by the loop's clock.
            retry_on: Errors of this class lead to another try.

        Raises:
            HostLostError: The agent is gone, so no further try can succeed.
            HostError: A try failed with an error of another class than `retry_on`.
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
                if error is None:  # otherwise keep the error of an earlier try, which says more
                    error = HostUnreachableError(
                        f"Connecting to host {self.host!r} took more than {took_s:.1f} s.", host=self.host
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
        """Return the time limit of a try to connect, in seconds.

        The lowest limit is `_SLOWER` times the seconds of the first start, so that the try can succeed on a slow host.
        If much more time than this remains, the limit is higher. But this try may hang, so a higher limit leaves time
        for another try: a quarter of the remaining time, or the lowest limit if that is longer. After a try that hung,
        the next try gets all of the remaining time.

        Args:
            left_s: The remaining seconds. The limit never exceeds them.
        """
        need_s = _SLOWER * self._start_s
        return left_s if self._hung else min(left_s, max(need_s, min(0.75 * left_s, left_s - need_s)))

    @property
    def _patience_s(self) -> float:
        """Seconds after which a try to connect counts as hung, if `stop` was called."""
        return max(_STOP_SILENCE_S, self._start_s)

    def _abort_hung(self) -> None:
        """Drop the launcher's connection, because a try over this connection hung, and the next try would hang too."""
        self._hung = True
        self._launcher.abort()

    async def _attach(self) -> None:
        """Make a connection to the agent, with a handshake. Do nothing if there is a connection by now."""
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
            self._launcher.abort()  # another try over the launcher's connection would hang as well
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
