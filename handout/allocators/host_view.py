"""One host as an allocator sees it: what the host offers, how much of that is free, and the links to the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from handout.protocol.resource_ledger import Ledger
from handout.resources import (
    Capabilities,
    CapabilitiesLike,
    Offer,
    as_capabilities,
    capabilities_of,
    compile_capabilities,
    remaining,
)

__all__ = ["DEFAULT_BYTES_PER_S", "HostState", "HostView", "Link", "free_ledger", "offer_of", "view_of_ledger"]

#: The bandwidth, in bytes per second, that Handout assumes between the controller and each host. Handout does not
#: measure bandwidth. The value is 1.6 Gbit/s, which lies between the bandwidths of a slow and of a fast network.
DEFAULT_BYTES_PER_S = 2e8

HostState = Literal["starting", "ready", "suspected", "lost", "quarantined", "draining"]
"""The state of a host, as `HostView.state` describes it."""

#: A host in such a state has no agent. Its capabilities are those that the inventory declares.
_WITHOUT_AGENT = ("starting", "lost", "quarantined")


@dataclass(frozen=True, slots=True)
class Link:
    """The way that bytes take between the controller and a host, or from one host through the controller to another.

    Example:
        ```python
        link = handout.Link(bytes_per_s=1e9, rtt_s=0.0005)
        seconds = 10**6 / link.bytes_per_s + link.rtt_s
        ```
    """

    bytes_per_s: float = DEFAULT_BYTES_PER_S
    """Bandwidth in bytes per second. Handout assumes this value and does not measure it."""
    rtt_s: float = 0.0
    """Round-trip time in seconds, as measured when the controller connected to the host.

    For a link between two hosts, this is the sum of both hosts' times.
    """


class HostView:
    """One host: what the host offers, how much of that is free, and how much work the host has.

    Args:
        name: The host's name in the inventory.
        total: All that the host offers.
        free: The free part of ``total``. None: all of ``total`` is free.
        price_per_hour: The host's price, in the currency in which the inventory states all prices.
        running: Number of tasks that now hold some of the host's amounts, such as CPU or memory.
        backlog_s: How long the waiting tasks are expected to keep all CPU cores of the host busy, in seconds. A waiting
            task is one that was handed over to the host and holds none of the host's amounts yet.
        state: The host's state.
        given_up: True if a task that is placed on the host does not wait for the host any longer.

    Example:
        ```python
        busy = handout.HostView("node1", {"cpu": 4}, free={"cpu": 1}, running=3)
        assert not handout.ClusterView([busy]).draft().fits(handout.Task("t", cost={"cpu": 2}), "node1")
        ```
    """

    __slots__ = (
        "_free",
        "_ledger",
        "_offer",
        "_total",
        "backlog_s",
        "given_up",
        "name",
        "price_per_hour",
        "running",
        "state",
    )

    name: str
    """The host's name in the inventory."""
    price_per_hour: float
    """The host's price, in the currency in which the inventory states all prices."""
    running: int
    """Number of tasks that now hold some of the host's amounts, such as CPU or memory."""
    backlog_s: float
    """How long the waiting tasks are expected to keep all CPU cores of the host busy, in seconds.

    A waiting task is one that was handed over to the host and holds none of the host's amounts yet.
    """
    state: HostState
    """The host's state. Only a host that is ``"ready"`` gets tasks.

    - ``"starting"``: the host has not joined yet. The controller is connecting to it, or starts its agent.
    - ``"ready"``: the host can get tasks.
    - ``"suspected"``: the controller has not heard from the host for a while.
    - ``"lost"``: the host was lost, or could not be reached. The controller may be trying again.
    - ``"quarantined"``: the host was lost again and again, and is not used for a while.
    - ``"draining"``: the host is being removed from the cluster.

    While a host is starting, lost or quarantined, its capabilities are those that the inventory declares. What the
    agent would probe is not known.
    """
    given_up: bool
    """True if a task that is placed on the host does not wait for the host any longer.

    To place a task on such a host ends the run. The host may still join later, and is ready then.
    """

    def __init__(
        self,
        name: str,
        total: CapabilitiesLike,
        *,
        free: CapabilitiesLike | None = None,
        price_per_hour: float = 0.0,
        running: int = 0,
        backlog_s: float = 0.0,
        state: HostState = "ready",
        given_up: bool = False,
    ) -> None:
        self.name = name
        self.price_per_hour = price_per_hour
        self.running = running
        self.backlog_s = backlog_s
        self.state = state
        self.given_up = given_up
        self._total: Capabilities | None = as_capabilities(total)
        self._free: Capabilities | None = self._total if free is None else as_capabilities(free)
        probed = state not in _WITHOUT_AGENT
        self._offer = compile_capabilities(self._total, complete=probed)
        left = self._offer if free is None else compile_capabilities(self._free, complete=probed)
        self._ledger = Ledger(left.amounts, left.devices)

    @property
    def total(self) -> Capabilities:
        """All that the host offers."""
        if self._total is None:
            self._total = capabilities_of(self._offer)
        return self._total

    @property
    def free(self) -> Capabilities:
        """The part of the host's ``total`` that is free."""
        if self._free is None:
            devices = self._ledger.free_devices if self._offer.devices else None
            self._free = remaining(self.total, self._ledger.free, devices)
        return self._free

    def __repr__(self) -> str:
        return f"<host {self.name!r} {self.state} running={self.running} backlog_s={self.backlog_s:.3g}>"


def view_of_ledger(
    name: str,
    offer: Offer,
    ledger: Ledger,
    *,
    price_per_hour: float,
    running: int,
    backlog_s: float,
    state: HostState,
    given_up: bool,
) -> HostView:
    """Make the view of a host from a copy of the ledger that the scheduler keeps for the host.

    The view computes ``total`` and ``free`` only when they are first read.
    """
    view = HostView.__new__(HostView)
    view.name = name
    view.price_per_hour = price_per_hour
    view.running = running
    view.backlog_s = backlog_s
    view.state = state
    view.given_up = given_up
    view._total = view._free = None
    view._offer = offer
    view._ledger = ledger.copy()
    return view


def offer_of(view: HostView) -> Offer:
    """Return all that a host offers, in the compiled form in which offers are compared with costs."""
    return view._offer


def free_ledger(view: HostView) -> Ledger:
    """Return a copy of the ledger that holds a host's free amounts. Claims on the copy do not change the view."""
    return view._ledger.copy()
