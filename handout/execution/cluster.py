"""`Cluster`: hosts that stay connected and whose agents keep running, so that many graphs can run on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, Unpack

from handout.allocators import Allocator, ClusterView
from handout.errors import HandoutError
from handout.execution.cluster_runtime import CLOSE_TIMEOUT_S, ClusterRuntime, Require
from handout.execution.execution import Execution
from handout.execution.results import Results
from handout.execution.run_options import RunOptions
from handout.graph import Runnable, as_graph
from handout.resources import Host, Inventory, InventoryLike
from handout.transport.timings import Timings

__all__ = ["Cluster", "Require"]


class Cluster:
    """Hosts that stay connected, with agents and workers that keep running. Many graphs can run at the same time.

    Use a cluster as ``async with Cluster(...) as cluster``. In a notebook, await `open` and `close` instead. An open
    cluster can be used only in the event loop in which it was opened.

    Args:
        inventory: The hosts: an `Inventory`, a list of hosts or of texts such as ``"user@host:port"``, the path of a
            TOML file, or None for this machine alone.
        allocator: The allocator for runs that name no allocator of their own. None means the built-in `locality`.
        require: How many hosts must be reached before `open` returns: ``"any"`` for one, ``"all"`` for every host of
            the inventory, or a number.
        timings: Time limits, such as how long a host may be silent. None means the defaults of `Timings`.

    Raises:
        InventoryError: The inventory cannot be read, or ``require`` asks for more hosts than the inventory has.
        HandoutError: ``timings`` is not a `Timings`.

    Example:
        ```python
        async def main() -> None:
            async with handout.Cluster() as cluster:
                for number in range(3):
                    graph = handout.Graph()
                    power = graph.add(pow, 2, number)
                    results = await cluster.execute(graph)
                    print(results[power])
        ```
    """

    def __init__(
        self,
        inventory: InventoryLike = None,
        *,
        allocator: Allocator | None = None,
        require: Require = "any",
        timings: Timings | None = None,
    ) -> None:
        self._runtime = ClusterRuntime(inventory, allocator=allocator, require=require, timings=timings)

    async def open(self) -> Self:
        """Connect to the hosts, and return as soon as ``require`` of them are usable. The other hosts may join later.

        Returns:
            The cluster itself.

        Raises:
            HostError: The cluster is already open, or fewer hosts than required can be reached. The message gives the
                reason for each host that cannot be reached.
        """
        await self._runtime.open()
        return self

    async def close(self, *, within_s: float = CLOSE_TIMEOUT_S) -> None:
        """End all agents and connections. Each unfinished run ends with an error. A second call does nothing.

        Args:
            within_s: Seconds that closing may take. If the agent on a host has not ended by then, the controller logs a
                warning and does not wait for the agent any longer. The supervisor of that host ends the tasks there
                when the host's lease is over.
        """
        await self._runtime.close(within_s=within_s)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def start(self, graph: Runnable, /, **run: Unpack[RunOptions]) -> Execution:
        """Make an execution of a graph: ``async with cluster.start(graph) as execution``.

        The arguments of the functions must not be changed before the ``async with`` block is entered, because they are
        read in several turns of the event loop until then.

        Args:
            graph: A graph, or a list of `function` entries.
            **run: The options of the run, see `RunOptions`.

        Returns:
            The execution. The run begins when the ``async with`` block is entered.

        Raises:
            HandoutError: An option does not exist, or its value is not allowed.
        """
        return Execution(self._runtime, as_graph(graph), run)

    async def execute(self, graph: Runnable, /, **run: Unpack[RunOptions]) -> Results:
        """Run a graph and return its results.

        The arguments of the functions must not be changed before the run has begun, because they are read in several
        turns of the event loop.

        Args:
            graph: A graph, or a list of `function` entries.
            **run: The options of the run, see `RunOptions`.

        Returns:
            The results, whose bytes have all been copied to this machine.

        Raises:
            GraphError: The graph is wrong. Nothing was run.
            PlacementError: The graph has a function that no host can ever run.
            HostError: The cluster is not open, or all hosts were lost.
            Exception: The exception of the first function that failed.
        """
        async with self.start(graph, **run) as execution:
            return await execution.results()

    async def add(self, host: Host | str, /) -> None:
        """Add a host, and return as soon as the host is usable. Runs that have begun can use the host too.

        If the host cannot be used, or if the call is cancelled, the host is removed from the cluster again.

        Args:
            host: A `Host`, or a text such as ``"user@host:2222"``.

        Raises:
            InventoryError: The argument describes no host, or the cluster already has a host of that name.
            HostError: The host cannot be reached, or no agent can be started there.
        """
        await self._runtime.add(host)

    async def drain(self, name: str, /) -> None:
        """Remove a host without harm to any run, and return as soon as the host's agent has ended.

        The host gets no new tasks. Tasks that run there may finish, however long that takes. The controller then
        fetches results that only this host has, if they are still needed. If a result cannot be fetched, its function
        runs again on another host.

        Cancelling this call does not stop the removal. Another call for the same host waits for the same removal.

        Args:
            name: The name of the host.

        Raises:
            InventoryError: The cluster has no such host, or the host is still being added.
            PlacementError: A task that has not ended can run on no other host. The host stays in the cluster.
        """
        await self._runtime.drain(name)

    @property
    def inventory(self) -> Inventory:
        """The present hosts of the cluster, with the hosts that were added and without those that were drained."""
        return self._runtime.inventory

    @property
    def view(self) -> ClusterView:
        """All hosts of the inventory, with their states, their capabilities and their free amounts.

        Allocators get the same view. `HostView.state` says if a host is starting, ready, suspected, lost, quarantined
        or draining.

        Raises:
            HostError: The cluster is not open.

        Example:
            ```python
            async with handout.Cluster("hosts.toml") as cluster:
                for name, host in cluster.view.hosts.items():
                    print(name, host.state, cluster.unavailable.get(name, ""))
            ```
        """
        return self._runtime.driver.core.view

    @property
    def unavailable(self) -> Mapping[str, HandoutError]:
        """For each host that is lost, in quarantine or cannot be reached, by the host's name: the error that says why.

        A host is listed as soon as the controller notices that it is lost, and until it has joined again.
        """
        return self._runtime.unavailable
