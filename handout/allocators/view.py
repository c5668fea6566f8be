"""The cluster as an allocator sees it: the hosts, the amounts that all hosts share, and the links between hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from handout.allocators.draft import Draft
from handout.allocators.host_view import DEFAULT_BYTES_PER_S, HostView, Link
from handout.allocators.task import Task
from handout.protocol.resource_ledger import Ledger
from handout.resources import Amount, Capabilities, Host, Offer, as_capabilities, capabilities_of, compile_capabilities

__all__ = ["ClusterView", "view_of_core"]

_NOTHING: Mapping[str, Amount] = MappingProxyType({})


class ClusterView:
    """A snapshot of all hosts of the inventory, with their states, and of the links between them.

    Args:
        hosts: Views of hosts, or hosts of an inventory. A host of an inventory counts as idle.
        now_s: The time of the snapshot, in seconds since an arbitrary moment. So only the difference between the times
            of two views of one run has a meaning.
        shared: The free part of the amounts that all hosts share, by name.

    Example:
        ```python
        view = handout.ClusterView([handout.Host("node1", capabilities={"cpu": 4})])
        assert view.draft().fits(handout.Task("t"), "node1")
        ```
    """

    __slots__ = ("_links", "_shared", "_shared_total", "hosts", "now_s")

    now_s: float
    """The time of the snapshot, in seconds since an arbitrary moment.

    So only the difference between the times of two views of one run has a meaning.
    """
    hosts: Mapping[str, HostView]
    """All hosts of the inventory by name. `HostView.state` says which of them are ready.

    First come the hosts that are ready, in the order in which they joined the cluster. In a view that the caller made,
    the hosts are in the order in which the caller gave them.
    """

    def __init__(
        self, hosts: Iterable[HostView | Host], *, now_s: float = 0.0, shared: Mapping[str, Amount] = _NOTHING
    ) -> None:
        self.now_s = now_s
        views = [_as_view(host) for host in hosts]
        self.hosts = MappingProxyType({view.name: view for view in views})
        self._shared: Capabilities | None = as_capabilities(dict(shared))
        # If ``shared`` has no number of CPU cores, compiling adds one core. This default makes sense only for a host,
        # so the added core is left out.
        amounts = {name: parts for name, parts in compile_capabilities(shared).amounts.items() if name in shared}
        self._shared_total: Mapping[str, int] = amounts
        self._links: Mapping[str, float] = {}

    @property
    def shared(self) -> Capabilities:
        """The free part of the amounts that all hosts share."""
        return self._shared or Capabilities()

    def link(self, source: str, target: str) -> Link:
        """Return the link between two hosts, or between a host and the controller, whose name is ``""``.

        Bytes between two hosts pass through the controller. So a link between two hosts has half the bandwidth of a
        link to the controller, and its round-trip time is the sum of the round-trip times of both hosts.
        """
        if source == target:
            return Link(float("inf"), 0.0)
        hops = [name for name in (source, target) if name]
        return Link(DEFAULT_BYTES_PER_S / max(1, len(hops)), sum(self._links.get(name, 0.0) for name in hops))

    def missing_bytes(self, task: Task, host: str) -> int:
        """Return how many bytes of a task's inputs the host does not have. An input of unknown size counts as 0."""
        return sum(one.nbytes or 0 for one in task.inputs if host not in one.hosts)

    def draft(self) -> Draft:
        """Return a `Draft` without placements, in which an allocator can try out placements on these hosts.

        The draft keeps account of the amounts that placed tasks take.
        """
        free = compile_capabilities(self.shared).amounts
        shared = Ledger({name: free.get(name, 0) for name in self._shared_total})
        return Draft(self.hosts, shared, self._shared_total)

    def __repr__(self) -> str:
        return f"<cluster of {len(self.hosts)} hosts>"


def view_of_core(hosts: Iterable[HostView], now_s: float, shared: Ledger, rtt_s: Mapping[str, float]) -> ClusterView:
    """Make the view that the scheduler's core shows to a custom allocator.

    Args:
        hosts: All hosts of the inventory. Hosts that are ready come first.
        now_s: The present time of the scheduler's core, in seconds.
        shared: The ledger that the scheduler's core keeps of the amounts that all hosts share.
        rtt_s: The round-trip time between the controller and each host, in seconds. The keys are the hosts' names.
    """
    view = ClusterView(hosts, now_s=now_s)
    view._shared = capabilities_of(Offer({name: max(0, parts) for name, parts in shared.free.items()}))
    view._shared_total = dict(shared.total)
    view._links = rtt_s
    return view


def _as_view(host: HostView | Host) -> HostView:
    if isinstance(host, HostView):
        return host
    return HostView(host.name, host.capabilities, price_per_hour=host.price_per_hour)
