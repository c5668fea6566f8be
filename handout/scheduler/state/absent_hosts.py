"""Hosts of the inventory that have no agent which the core can use: why, since when, and which tasks wait for them.

The core makes the decisions of the controller. The shell is the part of the controller around the core. The shell
connects to the hosts, and reports to the core what happens to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from handout.allocators import HostState
from handout.resources.offer import Offer

__all__ = ["NOT_DECLARED", "AbsentHost", "DeclaredHost"]


class DeclaredHost(NamedTuple):
    """What the inventory says about a host, whether the host has an agent or not."""

    #: The declared capabilities. What the agent probes is unknown.
    offer: Offer
    price_per_hour: float
    #: For this many seconds after the host was lost, or after its first start failed, tasks wait for the host if a
    #: custom allocator has placed them there.
    patience_s: float


#: A host of which the core knows only the name.
NOT_DECLARED = DeclaredHost(Offer({}), 0.0, 0.0)


@dataclass(slots=True)
class AbsentHost:
    """One host of the inventory, from the time when the core learns of it, or loses it, until it joins."""

    name: str
    declared: DeclaredHost
    state: HostState
    #: The core's time at which the host was lost, or at which the core learned that it is expected to join.
    since_s: float
    #: Why the host is lost or could not be reached, or "".
    reason: str = ""
    #: True if the host had joined before.
    has_joined: bool = False
    #: True if tasks that only this host can run wait for it.
    expected: bool = False
    #: Why the shell does not connect to the host for now, or "" if the shell is connecting.
    delay: str = ""
    #: If the host is lost: the core's time until which tasks that a custom allocator has placed on it wait for it.
    until_s: float = -inf

    def lose(self, now: float, reason: str, *, final: bool = False) -> None:
        """Note that the host is lost or could not be reached.

        Args:
            now: The core's time.
            reason: Why.
            final: True if the shell does not try to connect to the host again.
        """
        if self.state == "starting":
            self.state = "lost"
            self.until_s = now + self.declared.patience_s
        self.reason = reason
        if final:
            self.state, self.until_s = "lost", -inf

    def quarantine(self, delay: str) -> None:
        """Note that the shell does not connect to the host for a while, and why."""
        self.state, self.delay = "quarantined", delay

    def end_quarantine(self, now: float) -> None:
        """Note that the shell connects to the host again."""
        self.state, self.delay = "lost", ""
        if self.expected:
            self.until_s = now + self.declared.patience_s

    def drain(self) -> None:
        """Note that the host is removed from the cluster before it has joined."""
        self.state, self.expected = "draining", False

    def is_awaited(self, now: float) -> bool:
        """Return True if a task that a custom allocator places on the host waits for the host."""
        return now < self.until_s if self.state == "lost" else self.expected

    def story(self, now: float) -> str:
        """Return why the host cannot run tasks, and for how long that has been so, as a clause."""
        past_s = f"{now - self.since_s:.0f} s"
        because = f": {self.reason.rstrip('.')}" if self.reason else ""
        if self.state == "draining":
            return "is being drained"
        if self.state == "quarantined":
            return f"is {self.delay}" if self.delay else "is in quarantine"
        if self.state == "starting":
            return f"has been starting for {past_s}"
        return f"was lost {past_s} ago{because}" if self.has_joined else f"has not joined after {past_s}{because}"
