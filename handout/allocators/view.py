"""The cluster as an allocator sees it: hosts, what is free on them, and the links between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from handout.protocol.ledger import Ledger
from handout.resources import (
    Amount,
    Capabilities,
    CapabilitiesLike,
    Host,
    Offer,
    as_capabilities,
    capabilities_of,
    compile_capabilities,
    remaining,
)

if TYPE_CHECKING:
    from handout.allocators.draft import Draft
    from handout.allocators.task import Task

__all__ = ["ClusterView", "HostView", "Link"]

#: What a link carries, where nothing was measured.
DEFAULT_BYTES_PER_S = 2e8

_NOTHING: Mapping[str, Amount] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Link:
    """A way that bytes go; ``""`` at an end is the controller."""

    bytes_per_s: float = DEFAULT_BYTES_PER_S
    rtt_s: float = 0.0


class HostView:
    """One host: what it offers, what is free of that, and what it has to do.

    Args:
        name: The host.
        total: All that it offers.
        free: What is left of that; all, where it is not given.
        price_per_hour: What it costs.
        running: Tasks that have claimed something there.
        backlog_s: Expected duration of what was handed to it beyond that, a core.
    """

    __slots__ = ("_free", "_ledger", "_offer", "_total", "backlog_s", "name", "price_per_hour", "running")

    name: str
    price_per_hour: float
    running: int
    backlog_s: float

    def __init__(
        self,
        name: str,
        total: CapabilitiesLike,
        *,
        free: CapabilitiesLike | None = None,
        price_per_hour: float = 0.0,
        running: int = 0,
        backlog_s: float = 0.0,
    ) -> None:
        self.name = name
        self.price_per_hour = price_per_hour
        self.running = running
        self.backlog_s = backlog_s
        self._total: Capabilities | None = as_capabilities(total)
        self._free: Capabilities | None = self._total if free is None else as_capabilities(free)
        self._offer = compile_capabilities(self._total)
        left = self._offer if free is None else compile_capabilities(self._free)
        self._ledger = Ledger(left.amounts, left.devices)

    @classmethod
    def of_ledger(
        cls, name: str, offer: Offer, ledger: Ledger, *, price_per_hour: float, running: int, backlog_s: float
    ) -> HostView:
        """A view of a host that the core keeps a ledger of; what it says is put into words when asked for."""
        view = cls.__new__(cls)
        view.name = name
        view.price_per_hour = price_per_hour
        view.running = running
        view.backlog_s = backlog_s
        view._total = view._free = None
        view._offer = offer
        view._ledger = ledger.copy()
        return view

    @property
    def total(self) -> Capabilities:
        """All that it offers."""
        if self._total is None:
            self._total = capabilities_of(self._offer)
        return self._total

    @property
    def free(self) -> Capabilities:
        """What is left of that."""
        if self._free is None:
            devices = self._ledger.free_devices if self._offer.devices else None
            self._free = remaining(self.total, self._ledger.free, devices)
        return self._free

    @property
    def offer(self) -> Offer:
        """All that it offers, compiled."""
        return self._offer

    def ledger(self) -> Ledger:
        """A ledger of what is free, to try things out on."""
        return self._ledger.copy()

    def __repr__(self) -> str:
        return f"<host {self.name!r} running={self.running} backlog_s={self.backlog_s:.3g}>"


class ClusterView:
    """The hosts that may get work now, and the links between them. A picture of one moment.

    Args:
        hosts: Views, or hosts of an inventory, which count as idle.
        now_s: The time, on a clock that only differences mean something on.
        shared: What all hosts share and is free.
    """

    __slots__ = ("_links", "_shared", "_shared_total", "hosts", "now_s")

    now_s: float
    hosts: Mapping[str, HostView]

    def __init__(
        self, hosts: Iterable[HostView | Host], *, now_s: float = 0.0, shared: Mapping[str, Amount] = _NOTHING
    ) -> None:
        self.now_s = now_s
        views = [_as_view(host) for host in hosts]
        self.hosts = MappingProxyType({view.name: view for view in views})
        # A Capabilities that says nothing of cores must not be given one: seats are shared, not computers.
        self._shared: Capabilities | None = as_capabilities(dict(shared))
        amounts = {name: parts for name, parts in compile_capabilities(shared).amounts.items() if name in shared}
        self._shared_total: Mapping[str, int] = amounts
        self._links: Mapping[str, float] = {}

    @classmethod
    def of_core(
        cls, hosts: Iterable[HostView], now_s: float, shared: Ledger, rtt_s: Mapping[str, float]
    ) -> ClusterView:
        """The view that the core shows."""
        view = cls(hosts, now_s=now_s)
        view._shared = capabilities_of(Offer({name: max(0, parts) for name, parts in shared.free.items()}))
        view._shared_total = dict(shared.total)
        view._links = rtt_s
        return view

    @property
    def shared(self) -> Capabilities:
        """What all hosts share, as far as it is free."""
        return self._shared or Capabilities()

    @property
    def shared_total(self) -> Mapping[str, int]:
        """All that is shared, in parts."""
        return self._shared_total

    def shared_ledger(self) -> Ledger:
        """A ledger of what is shared and free, to try things out on."""
        free = compile_capabilities(self.shared).amounts
        return Ledger({name: free.get(name, 0) for name in self._shared_total})

    def link(self, source: str, target: str) -> Link:
        """The way from one host to another, or from (to) the controller, which is ``""``.

        Bytes between two hosts pass through the controller.
        """
        if source == target:
            return Link(float("inf"), 0.0)
        hops = [name for name in (source, target) if name]
        return Link(DEFAULT_BYTES_PER_S / max(1, len(hops)), sum(self._links.get(name, 0.0) for name in hops))

    def missing_bytes(self, task: Task, host: str) -> int:
        """Bytes of a task's inputs that the host does not have; promised ones count as none."""
        return sum(one.nbytes or 0 for one in task.inputs if host not in one.hosts)

    def draft(self) -> Draft:
        """An empty answer that does the arithmetic."""
        from handout.allocators.draft import Draft

        return Draft(self)

    def __repr__(self) -> str:
        return f"<cluster of {len(self.hosts)} hosts>"


def _as_view(host: HostView | Host) -> HostView:
    if isinstance(host, HostView):
        return host
    return HostView(host.name, host.capabilities, price_per_hour=host.price_per_hour)
