"""The capabilities of one host: found by its agent, declared in the inventory, and updated by a tracker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import anyio

from handout.errors import BootstrapError, CostError, GraphError, HandoutError, HostError, HostLostError, WireError
from handout.execution.membership.agent_proxy import AgentProxy
from handout.graph.naming import name_of
from handout.resources import Capabilities, Host, Tracker, as_capabilities, as_probed, compile_capabilities, effective
from handout.serialization import exceptions
from handout.serialization.user_objects import has_text, is_interruption, short_name
from handout.transport.agent_link import AgentLink

__all__ = ["HostCapabilities", "read_probe"]

logger = logging.getLogger("handout")


def read_probe(host: str, found: dict[str, Any]) -> Capabilities:
    """Return the capabilities that a host's agent found.

    Args:
        host: The host's name.
        found: The capabilities by name, as the agent sent them.

    Raises:
        BootstrapError: A capability cannot be read.
    """
    try:
        probed = as_probed(found)
        compile_capabilities(probed)
    except (GraphError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise BootstrapError(
            f"The agent on host {host!r} reported capabilities that cannot be read: {str(error)[:300]}.",
            remedy="Please report this, with the host's operating system and Python version.",
            host=host,
        ) from error
    return probed


class HostCapabilities:
    """A host's capabilities, from the time that its agent connects until the host is lost.

    Args:
        host: The host's entry in the inventory.
        probed: The capabilities that the host's agent found.
        agent: Runs programs on the host for the tracker.
        tracker: Called before tasks can use the host, and then every ``interval_s`` seconds. None for a host without a
            tracker.
        interval_s: Seconds between two calls of the tracker.
    """

    def __init__(
        self, host: Host, probed: Capabilities, agent: AgentProxy, tracker: Tracker | None, interval_s: float
    ) -> None:
        self._host = host
        self._tracker = tracker
        self._interval_s = interval_s
        self._live = _JoinedHost(host, probed, agent)
        #: Seconds that each call of the tracker may take.
        self._limit_s: float | None = None
        #: The capabilities that `first` returned, or that `follow` passed on last.
        self._now: Capabilities | None = None

    async def first(self, link: AgentLink, limit_s: float) -> Capabilities:
        """Return the capabilities that the host has when tasks begin to use it.

        Args:
            link: The link to the agent. While the tracker is called, messages are received over the link, because the
                tracker may run programs on the host.
            limit_s: Seconds that each call of the tracker may take.

        Raises:
            HandoutError: The tracker failed, or returned capabilities that cannot be read.
        """
        tracked = None
        self._limit_s = limit_s
        if self._tracker is not None:
            serving = asyncio.ensure_future(_serve_quietly(link))
            try:
                tracked = await self._call_tracker(self._tracker)
            finally:
                serving.cancel()
                await asyncio.wait({serving})
        self._now = effective(self._live.probed, self._host.capabilities, tracked)
        return self._now

    async def follow(self, changed: Callable[[Capabilities], None]) -> None:
        """Call the tracker regularly, until this coroutine is cancelled. Return at once if the host has no tracker.

        Args:
            changed: Called with the new capabilities each time that they differ from the previous ones.
        """
        if self._tracker is None:
            return
        while True:
            await anyio.sleep(self._interval_s)
            try:
                tracked = await self._call_tracker(self._tracker)
            except HandoutError as error:
                logger.warning("Host %s keeps its last capabilities: %s", self._host.name, error)
                continue
            offered = effective(self._live.probed, self._host.capabilities, tracked)
            if offered != self._now:
                self._now = offered
                changed(offered)

    async def _call_tracker(self, tracker: Tracker) -> Capabilities:
        """Call the tracker once. The tracker is user code, and may raise any exception.

        Raises:
            HandoutError: The tracker failed, took too long, or returned capabilities that cannot be read.
        """
        limit = asyncio.timeout(self._limit_s)
        try:
            async with limit:
                answer = await tracker(self._live)
            try:
                return as_capabilities(answer)
            except CostError as error:
                raise HostError(
                    f"The tracker {name_of(tracker)!r} answered for host {self._host.name!r} with capabilities that "
                    f"cannot be read: {error.problem}",
                    remedy=error.remedy,
                    host=self._host.name,
                ) from error
        except BaseException as error:  # a tracker may raise anything; some test tools raise such subclasses
            if is_interruption(error):
                raise
            task = asyncio.current_task()
            if issubclass(type(error), asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # Handout cancelled this call, so the tracker has not failed
            if issubclass(type(error), HandoutError) and has_text(error):
                raise
            name = self._host.name
            reason = f"{short_name(error)}: {exceptions.message(error)}"
            if limit.expired():
                reason = f"no answer within {self._limit_s:g} s"
            raise HostError(
                f"The tracker {name_of(tracker)!r} failed for host {name!r}: {reason}.",
                remedy="A tracker must return capabilities. It may raise only if the host cannot be used.",
                host=name,
            ) from error


async def _serve_quietly(link: AgentLink) -> None:
    """Receive messages over a link. Ignore the loss of the host, because the host manager handles it later."""
    try:
        await link.run()
    except (HostLostError, WireError):
        return


class _JoinedHost:
    """The host as its tracker sees it. Implements `handout.resources.tracker.LiveHost`."""

    def __init__(self, host: Host, probed: Capabilities, agent: AgentProxy) -> None:
        self._host = host
        self._probed = probed
        self._agent = agent

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
        """See `handout.resources.tracker.LiveHost`."""
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

        def deliver(status: int, output: bytes) -> None:
            if not answer.done():
                answer.set_result((status, output))

        number = self._agent.run_program(argv, timeout_s, deliver)
        try:
            async with asyncio.timeout(timeout_s + 5.0):
                status, output = await answer
        except TimeoutError:
            raise HostError(
                f"Host {self.name!r} did not report the end of program {argv[0]!r} within {timeout_s + 5.0:g} s. "
                "Check the connection to the host, and whether the host is overloaded.",
                host=self.name,
            ) from None
        finally:
            self._agent.programs.pop(number, None)
        text = output.decode("utf-8", "replace")
        if status != 0:
            raise HostError(
                f"Program {' '.join(argv)!r} on host {self.name!r} ended with status {status}. Correct the program or "
                f"the tracker that runs it. The program printed: {text[-300:].strip()}",
                host=self.name,
            )
        return text
