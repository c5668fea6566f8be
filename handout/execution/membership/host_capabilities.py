"""What one host offers while it is here: what its agent found, what the inventory says, what a tracker says of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import anyio

from handout.errors import BootstrapError, GraphError, HandoutError, HostError, HostLostError, WireError
from handout.execution.membership.agent_proxy import AgentProxy
from handout.failures import has_text
from handout.resources import Capabilities, Host, Tracker, as_capabilities, as_probed, compile_capabilities, effective
from handout.serialization import exceptions
from handout.transport.link import AgentLink

__all__ = ["HostCapabilities", "read_probe"]

logger = logging.getLogger("handout")


def read_probe(host: str, found: dict[str, Any]) -> Capabilities:
    """What a host's agent has found there.

    Raises:
        BootstrapError: It means nothing.
    """
    try:
        probed = as_probed(found)
        compile_capabilities(probed)
    except (GraphError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise BootstrapError(
            f"The agent on host {host!r} says of the host what means nothing: {str(error)[:300]}.",
            remedy="Please report it, with what the host is.",
            host=host,
        ) from error
    return probed


class HostCapabilities:
    """What a host offers, from when its agent is connected until it is lost.

    Args:
        host: The inventory's entry.
        probed: What its agent found out.
        peer: How a tracker's programs get there.
        tracker: Asked when the host joins and then every ``interval_s``, or None.
        interval_s: See there.
    """

    def __init__(
        self, host: Host, probed: Capabilities, peer: AgentProxy, tracker: Tracker | None, interval_s: float
    ) -> None:
        self._host = host
        self._tracker = tracker
        self._interval_s = interval_s
        self._live = _Live(host, probed, peer)
        #: What the tracker has for each answer.
        self._limit_s: float | None = None
        #: What was told last.
        self._now: Capabilities | None = None

    async def first(self, link: AgentLink, limit_s: float) -> Capabilities:
        """What it offers as it joins.

        Args:
            link: Served meanwhile, the tracker may use it.
            limit_s: Seconds that the tracker has for its answer, and for each later one.

        Raises:
            HandoutError: The tracker failed, or says what means nothing.
        """
        tracked = None
        self._limit_s = limit_s
        if self._tracker is not None:
            serving = asyncio.ensure_future(_serve_quietly(link))
            try:
                tracked = await self._ask(self._tracker)
            finally:
                serving.cancel()
                await asyncio.wait({serving})
        self._now = effective(self._live.probed, self._host.capabilities, tracked)
        return self._now

    async def follow(self, changed: Callable[[Capabilities], None]) -> None:
        """Ask the tracker again and again, for as long as this is not cancelled; without one, return."""
        if self._tracker is None:
            return
        while True:
            await anyio.sleep(self._interval_s)
            try:
                tracked = await self._ask(self._tracker)
            except HandoutError as error:
                logger.warning("Host %s is taken to offer what it did: %s", self._host.name, error)
                continue
            offered = effective(self._live.probed, self._host.capabilities, tracked)
            if offered != self._now:
                self._now = offered
                changed(offered)

    async def _ask(self, tracker: Tracker) -> Capabilities:
        """One answer of the user's code, which may raise anything.

        Raises:
            HandoutError: It failed, took too long, or means nothing.
        """
        limit = asyncio.timeout(self._limit_s)
        try:
            async with limit:
                return as_capabilities(await tracker(self._live))
        except (Exception, asyncio.CancelledError, BaseExceptionGroup, GeneratorExit) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # it is this side that asks no more
            if isinstance(error, HandoutError) and has_text(error):
                raise
            name = self._host.name
            reason = f"{type(error).__name__}: {exceptions.message(error)}"
            if limit.expired():
                reason = f"no answer within {self._limit_s:g} s"
            raise HostError(
                f"The tracker failed for host {name!r}: {reason}.",
                remedy="A tracker returns capabilities, or raises only when the host cannot be used.",
                host=name,
            ) from error


async def _serve_quietly(link: AgentLink) -> None:
    """Serve a link whose loss somebody else will notice."""
    try:
        await link.run()
    except (HostLostError, WireError):
        return


class _Live:
    """A joined host, as a tracker sees it."""

    def __init__(self, host: Host, probed: Capabilities, peer: AgentProxy) -> None:
        self._host = host
        self._probed = probed
        self._peer = peer

    @property
    def name(self) -> str:
        return self._host.name

    @property
    def declared(self) -> Capabilities:
        return self._host.capabilities

    @property
    def probed(self) -> Capabilities:
        return self._probed

    async def run(self, *argv: str, timeout_s: float = 10.0) -> str:
        """See :class:`~handout.resources.tracker.LiveHost`."""
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

        def deliver(status: int, output: bytes) -> None:
            if not answer.done():
                answer.set_result((status, output))

        number = self._peer.run_program(argv, timeout_s, deliver)
        try:
            async with asyncio.timeout(timeout_s + 5.0):
                status, output = await answer
        except TimeoutError:
            raise HostError(f"{argv[0]!r} on host {self.name!r} did not answer.", host=self.name) from None
        finally:
            self._peer.programs.pop(number, None)
        text = output.decode("utf-8", "replace")
        if status != 0:
            raise HostError(
                f"{' '.join(argv)!r} on host {self.name!r} ended with status {status}: {text[-300:].strip()}",
                host=self.name,
            )
        return text
