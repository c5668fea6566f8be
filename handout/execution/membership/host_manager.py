"""Manages one host of a cluster: starts its agent, receives the agent's messages, and starts a lost agent again.

The core is the part of the scheduler that makes all decisions. A host joins when its agent runs and the core learns the
host's capabilities. From then on, tasks can use the host. One effort to let the host join is called a try.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from handout.errors import (
    AuthenticationError,
    HandoutError,
    HostError,
    HostKeyError,
    HostLostError,
    HostUnreachableError,
    HostUnstableError,
    InventoryError,
    WireError,
)
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.membership.declared import expecting
from handout.execution.membership.host_capabilities import HostCapabilities, read_probe
from handout.execution.membership.quarantine import LossHistory
from handout.execution.membership.takeover import FoundAgent, KnownAgent, Takeover
from handout.execution.shell.driver import Driver
from handout.execution.shell.inbound_messages import InboundMessages
from handout.protocol.frames import ProtocolError
from handout.resources import Capabilities, Host, Tracker, compile_capabilities
from handout.scheduler import events as ev
from handout.transport.agent_link import STOP_TIMEOUT_S, AgentLink, release_error
from handout.transport.bootstrap import StartOptions
from handout.transport.launcher import Launcher
from handout.transport.timings import Timings

__all__ = ["HostManager"]

logger = logging.getLogger("handout")

#: Seconds to wait for an agent of an earlier controller. After this time, the host manager starts a new agent.
_TAKEOVER_LIMIT_S = 10.0
#: Each call of a tracker may take this many times ``host_timeout_s``. The host gets no tasks until the first call ends.
_TRACKER_LIMIT = 2
#: Errors after which the host manager does not try again, because the next try would fail too.
_FINAL = (AuthenticationError, HostKeyError, InventoryError)
#: Errors that say that the host was not reached or that its agent was lost. After these errors, the host manager tries
#: again even if the host has never joined.
_PASSING = (HostUnreachableError, HostLostError)


class HostManager:
    """Manages one host of a cluster.

    Args:
        host: The host's entry in the inventory.
        driver: Passes the host's events to the core.
        launcher: Makes the launcher that starts the agent and connects to it.
        timings: Time limits, such as how long a host may be silent, and the pauses between tries.
        hash_seed: The seed of Python's hash function, which all workers of the cluster share.
        tracker: Returns the host's capabilities. It is called before the host joins, and then every ``interval_s``
            seconds. None for a host without a tracker.
        interval_s: Seconds between two calls of the tracker.
        settled: Called with the host's name and None each time that the host has joined. Called with the host's name
            and the error each time that the host cannot be used.
        lost: Called with the host's name and the error each time that a host that had joined is lost.
        known: An agent of the host that an earlier controller started, or None.
        taken_over: Called once if ``known`` is given. The first argument is the host's name. The second argument has
            the attempts and objects of the agent, or is None if the agent could not be taken over.
    """

    def __init__(
        self,
        host: Host,
        driver: Driver,
        launcher: Callable[[], Awaitable[Launcher]],
        timings: Timings,
        hash_seed: int,
        tracker: Tracker | None,
        interval_s: float,
        settled: Callable[[str, HandoutError | None], None],
        lost: Callable[[str, HandoutError], None],
        known: KnownAgent | None = None,
        taken_over: Callable[[str, FoundAgent | None], None] = lambda name, found: None,
    ) -> None:
        self.host = host
        self._known = known
        self._taken_over = taken_over
        #: Holds back the messages of an agent that was taken over, until `release` is called.
        self._takeover: Takeover | None = None
        self._driver = driver
        self._inbound = InboundMessages(driver)
        self._launcher = launcher
        self._timings = timings
        self._hash_seed = hash_seed
        self._tracker = tracker
        self._interval_s = interval_s
        self._settled = settled
        self._lost = lost
        self._epoch = 0
        self._link: AgentLink | None = None
        self._agent: AgentProxy | None = None
        self._capabilities: HostCapabilities | None = None
        self._losses = LossHistory(timings)
        #: Ends the pause before the next try; see `retry`.
        self._retry = asyncio.Event()
        self._scope = anyio.CancelScope()
        self._begun = False
        self._ended = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Manage the host until an error is final, the host is removed, or the cluster closes.

        If the host is lost, tasks that can run on no other host wait for twice ``host_timeout_s``. If the host is put
        into quarantine, they also wait for the length of the quarantine. The host manager keeps trying to start the
        agent again, with growing pauses. Once the host has joined again, tasks can use it.
        """
        self._begun = True
        try:
            with self._scope:
                await self._restart_until_stopped()
        finally:
            self._ended.set()

    async def _restart_until_stopped(self) -> None:
        give_up_at = math.inf
        #: True once the first try has ended.
        told = False
        while not self._stopping:
            error = await self._try(give_up_at)
            if error is None:
                told = True
                pause_s = await self._use()
                answers = None if self._agent is None else self._agent.answers
                if answers is not None and answers.error is not None:
                    self._give_up(answers.error, final=True)
                    return
                give_up_at = self._driver.now + 2 * self._timings.host_timeout_s
                if self._losses.quarantined:
                    # Tasks also wait during the quarantine. If the host was lost too often, tasks do not wait at all.
                    error = self._quarantine(pause_s)
                    give_up_at = self._driver.now if self._losses.hopeless else give_up_at + pause_s
            elif self._stopping:
                return  # the try failed because the host is being removed
            else:
                # Until the host has joined once, all errors except `_PASSING` are final, because the host itself has
                # refused the agent.
                final = isinstance(error, _FINAL) or (self._epoch == 0 and not isinstance(error, _PASSING))
                level = logging.INFO
                if not told and isinstance(error, HostLostError):
                    # Runs go on waiting for the host, so this line is all that the caller sees of the first loss.
                    level = logging.WARNING
                    give_up_at, told = self._driver.now + 2 * self._timings.host_timeout_s, True
                elif final or not told:
                    give_up_at, told = math.inf, True
                    self._give_up(error, final=final)
                if final:
                    return
                logger.log(
                    level, "The agent on host %s did not start. Handout will try again. %s", self.host.name, str(error)
                )
                pause_s = self._losses.missed()
            give_up_at = await self._pause(pause_s, give_up_at, error)

    async def _use(self) -> float:
        """Let tasks use the host until the host is lost. Return the seconds to wait before the next try."""
        self._settled(self.host.name, None)
        self._losses.joined(self._driver.now)
        self._retry.clear()
        await self._stay()
        self._takeover = None  # the agent is lost, so its messages that are still held back are of no use
        return self._losses.lost(self._driver.now)

    def retry(self) -> None:
        """Try to start the agent at once, if it is lost, and forget how often it was lost. Tasks wait for it again."""
        self._losses = LossHistory(self._timings)
        self._retry.set()

    async def _pause(self, pause_s: float, give_up_at: float, error: HandoutError | None) -> float:
        """Wait before the next try. Return the time at which tasks stop waiting for the host."""
        patience_s = give_up_at - self._driver.now
        if pause_s >= patience_s and not await self._is_retried_within(patience_s):
            # The next try comes after the time at which tasks stop waiting.
            self._give_up(error or self._too_late())
            give_up_at = math.inf
            pause_s -= max(0.0, patience_s)
        if await self._is_retried_within(pause_s):
            self._retry.clear()
            # As after a quarantine, tasks wait again for a host that was given up.
            self._driver.post(ev.HostDelayed(self.host.name, "to be tried again"), expecting(self.host, self._timings))
            give_up_at = self._driver.now + 2 * self._timings.host_timeout_s
        self._driver.post(ev.HostDelayed(self.host.name, ""))
        return give_up_at

    async def _is_retried_within(self, limit_s: float) -> bool:
        with anyio.move_on_after(max(0.0, limit_s)):
            await self._retry.wait()
        return self._retry.is_set()

    async def _try(self, give_up_at: float) -> HandoutError | None:
        """Try once to start the agent and to let the host join. Return the error, or None if the host has joined."""
        try:
            with anyio.fail_after(give_up_at - self._driver.now if give_up_at < math.inf else None):
                await self._join()
        except HandoutError as error:
            return error
        except TimeoutError:
            return self._too_late()
        return None

    def _give_up(self, error: HandoutError, *, final: bool = False) -> None:
        """Report that tasks should no longer wait for the host. If the host joins later, tasks can still use it.

        Args:
            error: Why the host cannot be used.
            final: True if the host manager does not try again.
        """
        logger.warning("Host %s cannot be used: %s", self.host.name, str(error))
        self._driver.unavailable(self.host.name, error, final=final)
        self._settled(self.host.name, error)

    def _quarantine(self, pause_s: float) -> HostUnstableError:
        """Report that the host is in quarantine, and return the error for that."""
        losses, window_s = self._losses.losses, self._timings.unstable_s
        error = HostUnstableError(
            f"Host {self.host.name!r} is in quarantine for {pause_s:g} s, because it was lost again "
            f"({losses} time{'s' if losses > 1 else ''} within {window_s:g} s).",
            remedy="Find out why the host's agent or the connection to the host fails. Handout uses the host again "
            "after the quarantine. Each further quarantine is longer.",
            host=self.host.name,
            losses=losses,
            pause_s=pause_s,
        )
        logger.warning("%s", str(error))
        self._driver.quarantined(self.host.name, error, pause_s)
        self._settled(self.host.name, error)
        return error

    def _too_late(self) -> HostError:
        return HostUnreachableError(
            f"Host {self.host.name!r} was lost and has not joined again after {2 * self._timings.host_timeout_s:g} s.",
            remedy="Restart the host, or repair the connection to it. Handout uses the host as soon as it has joined. "
            "If the line to the host is so slow that a start takes longer, pass timings=Timings().scaled(4).",
            host=self.host.name,
        )

    async def stop(self, within_s: float = STOP_TIMEOUT_S) -> None:
        """End the agent within ``within_s`` seconds, if it runs. From now on, start no new agent."""
        self._stopping = True
        link, self._link = self._link, None
        if link is not None:
            await link.stop(within_s)

    async def leave(self, reason: str) -> None:
        """End the agent, and stop managing the host. This takes a bounded time.

        Args:
            reason: Why the host leaves. The event that says that the host has left gives this reason.
        """
        await self.stop()
        self._scope.cancel()
        if self._begun:
            await self._ended.wait()
        if self._agent is not None and self._driver.agents.get(self.host.name) is self._agent:
            self._driver.leave(self._agent, reason)
        else:
            self._driver.post(ev.HostLost(self.host.name, reason))
        self._driver.post(ev.HostRemoved(self.host.name))

    async def _join(self) -> None:
        """Take over an agent or start a new one, connect to it, and tell the core the host's capabilities."""
        found = await self._take_over()
        self._check_wanted()
        link = self._link or await self._new_link()
        try:
            started = link.started if found is not None else await link.open()
            assert started is not None
            probed = read_probe(self.host.name, started.probed)
            agent = self._agent = (self._agent if found is not None else None) or self._new_agent(link)
            capabilities = self._capabilities = HostCapabilities(
                self.host, probed, agent, self._tracker, self._interval_s
            )
            offered = await capabilities.first(link, _TRACKER_LIMIT * self._timings.host_timeout_s)
            self._check_wanted()
        except BaseException:
            self._link = None
            with anyio.CancelScope(shield=True):
                await link.stop()
            if found is not None:
                self._taken_over(self.host.name, None)
            raise
        offer = compile_capabilities(offered)
        self._send_limits(agent, offered)
        self._epoch += 1
        version = ".".join(map(str, started.python))
        rtt_s, price = link.conversation.rtt_s, self.host.price_per_hour
        logger.info("Host %s has joined. Functions run there in Python %s.", self.host.name, version)
        self._driver.join(agent, ev.HostConnected(self.host.name, offer, version, rtt_s, self._epoch, price))
        if found is not None:
            self._taken_over(self.host.name, found)

    def _check_wanted(self) -> None:
        """Check that the host has not been removed. Called after each wait of `_join`.

        Raises:
            HostError: The host was removed.
        """
        if self._stopping:
            raise release_error(self.host.name)

    async def _new_link(self) -> AgentLink:
        # An agent gets the values that the caller's environment has when the agent is started.
        options = StartOptions(self.host.environment(), self.host.workdir, self.host.setup)
        launcher = await self._launcher()
        self._check_wanted()
        link = AgentLink(
            self.host.name,
            self.host.python,
            launcher,
            self._timings,
            self._on_frames,
            self._suspect,
            self._hash_seed,
            options,
        )
        self._link = link
        return link

    def _new_agent(self, link: AgentLink) -> AgentProxy:
        answer_s = self._timings.answer_s
        return AgentProxy(self.host.name, link, trusted=self.host.trust == "full", answer_s=answer_s)

    async def _take_over(self) -> FoundAgent | None:
        """Take over the agent of an earlier controller. Return None if no agent is known, or the takeover fails."""
        known, self._known = self._known, None
        if known is None:
            return None
        link, found = None, None
        takeover = self._takeover = Takeover()
        try:
            link = await self._new_link()
            agent = self._agent = self._new_agent(link)
            async with asyncio.timeout(_TAKEOVER_LIMIT_S):
                await link.take_over(known.started, known.token, _TAKEOVER_LIMIT_S)
                answer = await takeover.found
                self._check_wanted()
                found, agent.shift = answer
                if agent.answers is not None:
                    agent.answers.taken_over(found.attempt_ids)
        except (HandoutError, TimeoutError) as error:
            logger.info(
                "The agent of an earlier controller on host %s cannot be taken over: %s", self.host.name, str(error)
            )
        finally:
            if found is None:
                self._link = self._agent = self._takeover = None
                if link is not None:
                    with anyio.CancelScope(shield=True):
                        await link.abandon()
                self._taken_over(self.host.name, None)
        return found

    def release(self, run: int) -> None:
        """Deliver the messages that were held back since a takeover. The agent drops its work for other runs.

        Args:
            run: Number of the run that the messages are about. The core already knows this run.
        """
        takeover, self._takeover = self._takeover, None
        if takeover is None or self._agent is None or not takeover.found.done():
            return
        found, _ = takeover.found.result()
        self._agent.drop_other_runs(found, run)
        try:
            self._on_frames(takeover.release())
        except ProtocolError as error:
            self._agent.conversation.give_up(str(error))

    async def _stay(self) -> None:
        """Receive messages from the host until the host is lost. Then tell the core."""
        error: HandoutError = release_error(self.host.name)
        link, agent, capabilities = self._link, self._agent, self._capabilities
        assert link is not None
        assert agent is not None
        assert capabilities is not None

        def changed(offered: Capabilities) -> None:
            self._send_limits(agent, offered)
            self._driver.post(ev.CapabilitiesChanged(self.host.name, compile_capabilities(offered)))

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(capabilities.follow, changed)
                try:
                    await link.run()
                    await anyio.sleep_forever()  # `stop` has ended the link, and this wait will soon be cancelled
                finally:
                    group.cancel_scope.cancel()
        except* (HostLostError, WireError) as errors:
            first = errors.exceptions[0]
            while isinstance(first, ExceptionGroup):
                first = first.exceptions[0]
            error = first
        finally:
            # This is done even if `stop` has ended the link, because the link may have connected again in the meantime.
            if agent.answers is not None:
                agent.answers.close()
            manager = asyncio.current_task()
            assert manager is not None
            with anyio.CancelScope(shield=True):
                # `asyncio.run` cancels the manager of a cluster that was not closed. The agent must not outlive it.
                await (link.stop() if manager.cancelling() else link.abandon())
        # Only the text, here and elsewhere: some handlers keep records, and the traceback of the error has the agent.
        logger.warning("Host %s left: %s", self.host.name, str(error))
        self._link = None
        if not self._stopping:
            self._driver.post(ev.HostAbandoned(self.host.name))
            self._lost(self.host.name, error)
        if not getattr(error, "gone", False):
            # The host's supervisor ends the tasks when the lease is over. Only then may the tasks run on other hosts.
            await anyio.sleep(self._timings.grace_s)
        self._driver.leave(agent, str(error))
        self._driver.post(expecting(self.host, self._timings))

    def _send_limits(self, agent: AgentProxy, offered: Capabilities) -> None:
        offer = compile_capabilities(offered)
        agent.limits(dict(offer.amounts), offer.devices)

    def _on_frames(self, frames: Any) -> None:
        if self._takeover is not None:
            frames = self._takeover.receive(frames)
        if self._agent is not None and frames:
            self._inbound.heard(self._agent, frames)

    def _suspect(self, silent: bool) -> None:
        name = self.host.name
        self._driver.post(ev.HostSuspected(name) if silent else ev.HostRecovered(name))
