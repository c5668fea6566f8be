"""The link to one host's agent: started or adopted, connected again whenever the line drops, and ended.

A link says when the host is to be taken for lost: when nothing was heard for ``host_timeout_s``. What is said over it,
and what its connections do not lose, is the conversation's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from handout.errors import HandoutError, HostError, HostLostError, HostUnreachableError
from handout.transport.bootstrap import Bootstrap, StartedAgent
from handout.transport.connection import Connection
from handout.transport.conversation import Conversation, FrameHandler
from handout.transport.handshake import HANDSHAKE_TIMEOUT_S
from handout.transport.launcher import Launcher
from handout.transport.timings import Timings

__all__ = ["STOP_TIMEOUT_S", "AgentLink", "release_error"]

logger = logging.getLogger("handout.link")

#: An agent's end is waited for this long; closing a cluster as a whole may take 5 s.
STOP_TIMEOUT_S = 4.0
_STOP_PAUSE_S = 0.05
#: A stop that is not acknowledged after so long is sent again, over another connection.
_STOP_SILENCE_S = 1.0
#: A host may take so many times as long to be reached as it took at first.
_SLOWER = 3


class AgentLink:
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
        handler: FrameHandler,
        on_suspect: Callable[[bool], None],
    ) -> None:
        self.host = host
        self.started: StartedAgent | None = None
        #: Whether the agent is known to have ended, because it was told to.
        self.agent_ended = False
        #: Seconds that the first login took, with what came with it.
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
        #: What is said with the agent; it outlives the connections, which only this makes.
        self.conversation = Conversation(host, timings.heartbeat_s, handler, on_suspect, self._wakeup.set)
        self._stopping = False
        #: One handshake at a time: the one that goes on and the one that ends it may both want a connection.
        self._attaching = asyncio.Lock()
        #: The limit of the try that is being made to go on: `stop` has no use for what comes of it.
        self._trying: asyncio.Timeout | None = None
        #: The last try to connect hung.
        self._hung = False
        self._starting: asyncio.Future[StartedAgent] | None = None
        #: The agent has not been told yet that another controller goes on.
        self._taking_over = False
        self._ending: asyncio.Future[None] | None = None
        #: Nothing came over the connection for so long that the next one is made from scratch.
        self._silent = False

    # ---- beginning -----------------------------------------------------------------------------------------

    async def open(self) -> StartedAgent:
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
                raise release_error(self.host) from None
            if not self._bootstrap.command_sent:
                self._starting.cancel()
            raise
        self._start_s = self._loop.time() - begun_at
        await self._meet(self._timings.host_timeout_s)
        return started

    async def _meet(self, within_s: float) -> None:
        """Be connected for the first time."""
        error = await self._attach_by(self._loop.time() + within_s, HostUnreachableError)
        if self._stopping:
            raise release_error(self.host)
        if error is not None:
            raise error

    async def take_over(self, started: StartedAgent, token: str, within_s: float) -> None:
        """Go on with an agent that another controller started, and was lost.

        Args:
            started: Where it is.
            token: What proves to it that this is a controller it may hear.
            within_s: Seconds in which tries are made.

        Raises:
            HostError: It is gone, or cannot be reached.
        """
        self._bootstrap.token, self.started, self._taking_over = token, started, True
        await self._meet(within_s)

    @property
    def token(self) -> str:
        """What proves to the agent that a connection is the controller's."""
        return self._bootstrap.token

    async def run(self) -> None:
        """Keep the conversation going until the host is lost; returns once the link is being stopped.

        Raises:
            HostLostError: Nothing was heard for ``host_timeout_s``, or the agent is gone.
            WireError: The agent spoke nonsense.
            InternalError: What it said was handled wrongly.
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
                continue  # this loop was blocked: what the host sent meanwhile has not been read yet
            self._judge_silence()
            self.conversation.flush()

    async def stop(self, within_s: float = STOP_TIMEOUT_S) -> None:
        """Tell the agent to end, and wait until it has: no process of it is left then. May be repeated.

        Args:
            within_s: Seconds that this may take; after them the agent is left to its lease, with a warning.
        """
        self._stopping = True
        if self._trying is not None and not self._trying.expired():
            self._trying.reschedule(self._loop.time())  # it may hang, and nobody else connects meanwhile
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end(self._loop.time() + within_s))
        await asyncio.shield(self._ending)

    async def _end(self, deadline: float) -> None:
        """Deliver the stop, over a new connection where the last one is gone, and see the agent out."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._meet_who_is_coming()
                if self.started is not None:
                    self.conversation.send({"m": "stop"})
                    while not await self._see_out(deadline):
                        pass
                    self.agent_ended = True
        except TimeoutError:
            logger.warning("The agent on %s %s.", self.host, self._how_it_is_left())
            self._launcher.abort()  # closing in order would wait for an answer, too
        starting = self._starting
        if starting is not None and not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        self.conversation.close()
        await self._launcher.aclose()

    def _how_it_is_left(self) -> str:
        if self.started is None:
            return "was still being started when it was to end; it ends when it finds that nobody waits for it"
        silent_s = self._loop.time() - self.conversation.last_heard
        where = "not connected" if self.conversation.connection is None else "connected"
        return f"did not confirm that it ended; its lease will end it ({where}, last heard {silent_s:.1f} s ago)"

    async def _meet_who_is_coming(self) -> None:
        """Wait for an agent that was on its way when this began to stop: else it would wait for its lease to end."""
        starting = self._starting
        if starting is None or not (starting.done() or self._bootstrap.command_sent):
            return
        await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            self.started = starting.result()

    async def _see_out(self, deadline: float) -> bool:
        """Whether the agent is known to have ended: it closed its connection, or nobody is there any more.

        Args:
            deadline: When it is left to its lease: a try that hangs must leave time for another one.
        """
        connection = self.conversation.connection
        if connection is None:
            try:
                limit_s = min(self._patience_s, (deadline - self._loop.time()) / 2)
                async with asyncio.timeout(None if self._hung else limit_s):
                    await self._attach()
            except HostLostError:
                return True
            except TimeoutError:
                self._give_up_line()
            except HandoutError as error:  # also one of ours, which had ended the conversation before
                logger.info("The agent on %s cannot be reached to end it: %s", self.host, error)
                await asyncio.sleep(_STOP_PAUSE_S)
            return False
        self.conversation.flush()
        silent_s = self._loop.time() - self.conversation.last_heard
        try:
            # Who has missed a beat already is not waited for.
            async with asyncio.timeout(_STOP_SILENCE_S if silent_s < 1.5 * self._timings.heartbeat_s else 0):
                await connection.closed.wait()
        except TimeoutError:
            if self.conversation.unacknowledged:
                # The stop has not arrived: this line may be dead where another one is not.
                self._launcher.abort()
                self.conversation.drop()
            return False
        return connection.error is None

    async def abandon(self) -> None:
        """Let go of a host that is lost; where its agent is being ended, that goes on until it has."""
        if self._ending is not None:
            await self.stop()
            return
        self._stopping = True
        self._launcher.abort()  # closing in order would wait for an answer of a host that is silent
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
        """Make the connection again, until the lease is over."""
        if self._silent:
            # What forgot this line on the way (a router, a host that was moved) will not remember it.
            self._silent = False
            self._launcher.abort()
        error = await self._attach_by(self.conversation.last_heard + self._timings.host_timeout_s, HostError)
        if error is not None:
            raise HostLostError(
                f"Host {self.host!r} was silent for {self._timings.host_timeout_s:g} s: {str(error).rstrip('.')}.",
                remedy="Its tasks run elsewhere; it is used again when it comes back.",
                host=self.host,
            )

    async def _attach_by(self, deadline: float, retry_on: type[HostError]) -> HostError | None:
        """Be connected by then, trying again after errors of this class; answers why not. Gives in to `stop`.

        Raises:
            HostLostError: The agent is gone: no connection mends that.
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
                if not self._stopping or self._loop.time() - tried_at > self._patience_s:
                    self._give_up_line()
                # What was said before says more, if anything was.
                error = error or HostUnreachableError(
                    f"Connecting to host {self.host!r} took too long.", host=self.host
                )
            finally:
                self._trying = None
            if self._stopping:
                return None
            await asyncio.sleep(min(pause_s, max(deadline - self._loop.time(), 0)))
            pause_s = min(pause_s * 2, self._timings.heartbeat_s)
        return None if self._stopping else error or HostUnreachableError("The connection dropped.", host=self.host)

    def _limit_s(self, left_s: float) -> float:
        """How long a try to connect may take of the time that is left.

        One that hangs must leave time for another one, one that is only slow must get through. So the first one leaves
        what the host may need (at least a quarter of the time) but gets no less itself, and the one after it gets all.
        """
        need_s = _SLOWER * self._start_s
        return left_s if self._hung else min(left_s, max(need_s, min(0.75 * left_s, left_s - need_s)))

    @property
    def _patience_s(self) -> float:
        """A try to reach an agent that is to end is taken for one that hangs after so long."""
        return max(_STOP_SILENCE_S, self._start_s)

    def _give_up_line(self) -> None:
        """What hangs on this one would hang again."""
        self._hung = True
        self._launcher.abort()

    async def _attach(self) -> None:
        """Be connected: one connection and one handshake, unless somebody else has seen to it meanwhile."""
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
            self._launcher.abort()  # what hangs on this line would hang again
            raise HostUnreachableError(
                f"The agent on host {self.host!r} did not answer the handshake within {HANDSHAKE_TIMEOUT_S:g} s.",
                remedy="Check the line to it, and whether the host is out of memory or stopped.",
                host=self.host,
            ) from None
        self._taking_over = False


def release_error(host: str) -> HostError:
    """Why a host is not there for whoever waits for it while it is being ended from here."""
    return HostError(f"Host {host!r} is being let go.", remedy="Add it again to use it.", host=host)
