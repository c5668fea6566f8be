"""One host's life in a cluster: reached, joined, watched, lost, reached again."""

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
from handout.execution.membership.backoff import Backoff
from handout.execution.membership.host_capabilities import HostCapabilities, read_probe
from handout.execution.membership.takeover import FoundAgent, KnownAgent, Takeover
from handout.execution.shell.driver import Driver
from handout.execution.shell.inbound_messages import InboundMessages
from handout.protocol.frames import ProtocolError
from handout.resources import Capabilities, Host, Tracker, compile_capabilities
from handout.scheduler import events as ev
from handout.transport.launcher import Launcher
from handout.transport.link import STOP_TIMEOUT_S, AgentLink, release_error
from handout.transport.timings import Timings

__all__ = ["HostManager"]

logger = logging.getLogger("handout")

#: An agent that was there before is waited for so long; then another one is started.
_ADOPTION_LIMIT_S = 10.0
#: A tracker's first answer is waited for this many times ``host_timeout_s``: until then the host is of no use.
_TRACKER_LIMIT = 2
#: What no pause mends.
_FINAL = (AuthenticationError, HostKeyError, InventoryError)
#: What one may mend even where the host has never joined: it was not reached, or its agent was there and is gone.
_PASSING = (HostUnreachableError, HostLostError)


class HostManager:
    """Keeps one host in a cluster.

    Args:
        host: The inventory's entry.
        driver: What is told when it joins or leaves.
        launcher: Makes the launcher that starts the agent and connects to it.
        timings: What silence means.
        tracker: Asked what it offers, when it joins and then every ``interval_s``, or None.
        interval_s: See there.
        settled: Called with None whenever the host has joined, and with why whenever it is given up.
        known: An agent that an earlier controller started there, or None.
        adopted: Called once with what that agent has, or None where it could not be had.
    """

    def __init__(
        self,
        host: Host,
        driver: Driver,
        launcher: Callable[[], Awaitable[Launcher]],
        timings: Timings,
        tracker: Tracker | None,
        interval_s: float,
        settled: Callable[[str, HandoutError | None], None],
        known: KnownAgent | None = None,
        adopted: Callable[[str, FoundAgent | None], None] = lambda name, found: None,
    ) -> None:
        self.host = host
        self._known = known
        self._adopted = adopted
        #: Holds back what an adopted agent says, until `release`.
        self._adoption: Takeover | None = None
        self._driver = driver
        self._hearing = InboundMessages(driver)
        self._launcher = launcher
        self._timings = timings
        self._tracker = tracker
        self._interval_s = interval_s
        self._settled = settled
        self._epoch = 0
        self._link: AgentLink | None = None
        self._peer: AgentProxy | None = None
        self._offering: HostCapabilities | None = None
        self._stability = Backoff(timings)
        self._scope = anyio.CancelScope()
        self._begun = False
        self._ended = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Keep the host until it cannot be had any more, is let go, or the cluster closes.

        A host that was lost may be waited for by tasks that only it can run: after ``host_timeout_s`` twice, and its
        quarantine before that, they are told that it will not come. It is tried on with growing pauses, and used again
        when it is back.
        """
        self._begun = True
        try:
            with self._scope:
                await self._keep()
        finally:
            self._ended.set()

    async def _keep(self) -> None:
        give_up_at = math.inf
        #: Whether anybody has been told how the first try went.
        told = False
        while not self._stopping:
            error = await self._try(give_up_at)
            if error is None:
                told = True
                pause_s = await self._use()
                give_up_at = self._driver.now + 2 * self._timings.host_timeout_s
                if self._stability.quarantined:
                    # Quarantine has an end: it is waited for, unless the host never stays.
                    error = self._quarantine(pause_s)
                    give_up_at = self._driver.now if self._stability.hopeless else give_up_at + pause_s
            elif self._stopping:
                return  # nobody asks any more why it did not come
            else:
                # What no pause mends ends it; so does a first start that the host itself refused.
                final = isinstance(error, _FINAL) or (self._epoch == 0 and not isinstance(error, _PASSING))
                if not told and isinstance(error, HostLostError):
                    give_up_at, told = self._driver.now + 2 * self._timings.host_timeout_s, True
                elif final or not told:
                    give_up_at, told = math.inf, True
                    self._give_up(error)
                if final:
                    return
                logger.info("Host %s is not there yet: %s", self.host.name, error)
                pause_s = self._stability.missed()
            give_up_at = await self._pause(pause_s, give_up_at, error)

    async def _use(self) -> float:
        """Have the host used until it is lost; answers how long it is to be left alone then."""
        self._settled(self.host.name, None)
        self._stability.joined(self._driver.now)
        await self._stay()
        self._adoption = None  # what an agent said that is gone now is about nothing
        return self._stability.lost(self._driver.now)

    async def _pause(self, pause_s: float, give_up_at: float, error: HandoutError | None) -> float:
        """Wait before the next try; answers when those who wait for the host are to be told that it will not come."""
        patience_s = give_up_at - self._driver.now
        if pause_s >= patience_s:
            # It will not be back in time.
            await anyio.sleep(max(0.0, patience_s))
            self._give_up(error or self._too_late())
            give_up_at = math.inf
        await anyio.sleep(pause_s)
        self._driver.post(ev.HostDelayed(self.host.name, ""))
        return give_up_at

    async def _try(self, give_up_at: float) -> HandoutError | None:
        """Start the host once; answers why it cannot be had."""
        try:
            with anyio.fail_after(give_up_at - self._driver.now if give_up_at < math.inf else None):
                await self._join()
        except HandoutError as error:
            return error
        except TimeoutError:
            return self._too_late()
        return None

    def _give_up(self, error: HandoutError) -> None:
        """Let everybody know that the host is not to be waited for; it is used all the same when it comes."""
        logger.warning("Host %s cannot be used: %s", self.host.name, error)
        self._driver.unavailable(self.host.name, error)
        self._settled(self.host.name, error)

    def _quarantine(self, pause_s: float) -> HostUnstableError:
        """Let everybody know that the host is left alone for a while."""
        losses, window_s = self._stability.losses, self._timings.unstable_s
        error = HostUnstableError(
            f"Host {self.host.name!r} is in quarantine for {pause_s:g} s: lost again, "
            f"{losses} time{'s' if losses > 1 else ''} within {window_s:g} s.",
            remedy="See why its agent or its line fails; it is used again after that, and left alone longer each time.",
            host=self.host.name,
            losses=losses,
            pause_s=pause_s,
        )
        logger.warning("%s", error)
        self._driver.quarantined(self.host.name, error, pause_s)
        self._settled(self.host.name, error)
        return error

    def _too_late(self) -> HostError:
        return HostUnreachableError(
            f"Host {self.host.name!r} was lost and is not back after {2 * self._timings.host_timeout_s:g} s.",
            remedy="It is used again when it comes back.",
            host=self.host.name,
        )

    async def stop(self, within_s: float = STOP_TIMEOUT_S) -> None:
        """End the agent, if there is one, in that many seconds; another one is not started."""
        self._stopping = True
        link, self._link = self._link, None
        if link is not None:
            await link.stop(within_s)

    async def leave(self, reason: str) -> None:
        """End the agent, and keep the host no more. Bounded in time."""
        await self.stop()
        self._scope.cancel()
        if self._begun:
            await self._ended.wait()
        if self._peer is not None and self._driver.agents.get(self.host.name) is self._peer:
            self._driver.leave(self._peer, reason)
        else:
            self._driver.post(ev.HostLost(self.host.name, reason))

    async def _join(self) -> None:
        """Start an agent or go on with one, connect, and tell the core what the host offers."""
        found = await self._adopt()
        self._check_wanted()
        link = self._link or await self._new_link()
        try:
            started = link.started if found is not None else await link.open()
            assert started is not None
            probed = read_probe(self.host.name, started.probed)
            peer = self._peer = (self._peer if found is not None else None) or self._new_peer(link)
            offering = self._offering = HostCapabilities(self.host, probed, peer, self._tracker, self._interval_s)
            offered = await offering.first(link, _TRACKER_LIMIT * self._timings.host_timeout_s)
            self._check_wanted()
        except BaseException:
            self._link = None
            with anyio.CancelScope(shield=True):
                await link.stop()
            if found is not None:
                self._adopted(self.host.name, None)
            raise
        offer = compile_capabilities(offered)
        self._send_limits(peer, offered)
        self._epoch += 1
        version = ".".join(map(str, started.python))
        rtt_s, price = link.conversation.rtt_s, self.host.price_per_hour
        self._driver.join(peer, ev.HostConnected(self.host.name, offer, version, rtt_s, self._epoch, price))
        if found is not None:
            self._adopted(self.host.name, found)

    def _check_wanted(self) -> None:
        """Ask after every wait of a start: meanwhile the host may have been let go, and its link be ending.

        Raises:
            HostError: It has been.
        """
        if self._stopping:
            raise release_error(self.host.name)

    async def _new_link(self) -> AgentLink:
        launcher = await self._launcher()
        self._check_wanted()
        link = AgentLink(self.host.name, self.host.python, launcher, self._timings, self._heard, self._suspect)
        self._link = link
        return link

    def _new_peer(self, link: AgentLink) -> AgentProxy:
        return AgentProxy(self.host.name, link, trusted=self.host.trust == "full")

    async def _adopt(self) -> FoundAgent | None:
        """Go on with the agent of an earlier controller; None where there is none to be had."""
        known, self._known = self._known, None
        if known is None:
            return None
        link, found = None, None
        adoption = self._adoption = Takeover()
        try:
            link = await self._new_link()
            peer = self._peer = self._new_peer(link)
            async with asyncio.timeout(_ADOPTION_LIMIT_S):
                await link.take_over(known.started, known.token, _ADOPTION_LIMIT_S)
                answer = await adoption.found
                self._check_wanted()
                found, peer.shift = answer
        except (HandoutError, TimeoutError) as error:
            logger.info("The agent that was on %s is not there any more: %s", self.host.name, error)
        finally:
            if found is None:
                self._link = self._peer = self._adoption = None
                if link is not None:
                    with anyio.CancelScope(shield=True):
                        await link.abandon()
                self._adopted(self.host.name, None)
        return found

    def release(self, run: int) -> None:
        """The run is there that an adopted agent's messages are about; whatever else it has is of no use."""
        adoption, self._adoption = self._adoption, None
        if adoption is None or self._peer is None or not adoption.found.done():
            return
        found, _ = adoption.found.result()
        self._peer.disown(found, run)
        try:
            self._heard(adoption.release())
        except ProtocolError as error:
            self._peer.conversation.give_up(str(error))

    async def _stay(self) -> None:
        """Serve the host's link until it is lost."""
        reason, gone = "its link ended", False
        link, peer, offering = self._link, self._peer, self._offering
        assert link is not None
        assert peer is not None
        assert offering is not None

        def changed(offered: Capabilities) -> None:
            self._send_limits(peer, offered)
            self._driver.post(ev.CapabilitiesChanged(self.host.name, compile_capabilities(offered)))

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(offering.follow, changed)
                try:
                    await link.run()
                    await anyio.sleep_forever()  # it is being stopped; so, in a moment, is this
                finally:
                    group.cancel_scope.cancel()
        except* (HostLostError, WireError) as errors:
            reason = str(errors.exceptions[0])
            gone = getattr(errors.exceptions[0], "gone", False)
        finally:
            # Also where the cluster closes: the link may have been made again after it was stopped.
            with anyio.CancelScope(shield=True):
                await link.abandon()
        logger.warning("Host %s left: %s", self.host.name, reason)
        self._link = None
        if not gone:
            # Its own supervisor ends what runs there when its lease is over: only then is it run elsewhere.
            await anyio.sleep(self._timings.grace_s)
        self._driver.leave(peer, reason)
        self._driver.post(ev.HostExpected(self.host.name, self.host.price_per_hour))

    def _send_limits(self, peer: AgentProxy, offered: Capabilities) -> None:
        offer = compile_capabilities(offered)
        peer.limits(dict(offer.amounts), offer.devices)

    def _heard(self, frames: Any) -> None:
        if self._adoption is not None:
            frames = self._adoption.hear(frames)
        if self._peer is not None and frames:
            self._hearing.heard(self._peer, frames)

    def _suspect(self, silent: bool) -> None:
        name = self.host.name
        self._driver.post(ev.HostSuspected(name) if silent else ev.HostRecovered(name))
