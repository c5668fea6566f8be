"""Trackers: a user's own eyes on the hosts, while they run."""

from __future__ import annotations

from typing import Protocol

from handout.resources.capabilities import Capabilities, CapabilitiesLike


class LiveHost(Protocol):
    """A host that an agent runs on, as a tracker sees it."""

    @property
    def name(self) -> str:
        """Its name in the inventory."""
        ...

    @property
    def declared(self) -> Capabilities:
        """What the inventory says of it."""
        ...

    @property
    def probed(self) -> Capabilities:
        """What its agent found out when it started."""
        ...

    async def run(self, *argv: str, timeout_s: float = 10.0) -> str:
        """Run a program on the host, outside all tasks.

        Args:
            *argv: The program and its arguments; no shell is involved.
            timeout_s: Seconds after which it is ended.
        Returns: What it printed.
        Raises:
            HostError: It failed, took too long, or the host was lost.
        """
        ...


class Tracker(Protocol):
    """Says what a host offers now: asked when it joins, and then every ``interval_s`` of the inventory.

    What it leaves out stays as it was declared or probed; ``False`` or ``0`` says that something is gone. Tasks
    that run keep what they have. An answer may take twice ``host_timeout_s``.
    """

    async def __call__(self, host: LiveHost, /) -> CapabilitiesLike:
        """Look at one host."""
        ...
