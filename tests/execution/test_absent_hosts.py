"""Hosts that are not there: what the view and `unavailable` say of them, and how placements wait for them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import handout
from handout import Cluster, ClusterView, Graph, Host, Inventory, LiveHost, Task
from handout.transport.timings import Timings
from tests import work
from tests.proxy import start_proxy
from tests.seen import agent_pid, gone, started, until
from tests.sshd import OpenSsh

ONE = {"cpu": 1}
#: Placements wait 3.3 s for a lost host.
QUICK = replace(Timings().scaled(0.1), host_timeout_s=3.0)


class Gate:
    """A tracker that lets a host join only while its gate is open."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.open = asyncio.Event()
        self.broken = False

    async def __call__(self, host: LiveHost) -> dict[str, Any]:
        if host.name == self.name:
            if self.broken:
                raise RuntimeError("the disk is gone")
            await self.open.wait()
        return {}


class Insists:
    """An allocator that places all tasks on one host, whatever its state. It notes each state that it has seen."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.seen: list[str] = []

    async def __call__(self, frontier: Sequence[Task], view: ClusterView, /) -> Mapping[str, str]:
        self.seen.append(view.hosts[self.host].state)
        return {task.id: self.host for task in frontier}


def where() -> Graph:
    graph = Graph()
    graph.add(work.where, id="where")
    return graph


def states(cluster: Cluster) -> dict[str, str]:
    return {name: host.state for name, host in cluster.view.hosts.items()}


def kill(cluster: Cluster, host: str) -> None:
    """Kill a host's agent, so that the controller loses the host."""
    os.kill(agent_pid(started(cluster, host)), signal.SIGKILL)


def ancestor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ancestor", Path(__file__).parents[2] / "examples" / "ancestor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("late", ["node1", "gpu1"])
async def test_the_ancestors_example_waits_for_a_host_that_joins_late(late: str) -> None:
    """The late host joins only when the allocator has been asked without it."""
    example, gate = ancestor(), Gate(late)

    async def allocate(frontier: Sequence[Task], view: ClusterView) -> Mapping[str, str]:
        placements: Mapping[str, str] = await example.cuda_last(frontier, view)
        if late in placements.values():
            gate.open.set()
        return placements

    inventory = Inventory(example.LAPTOP_AND_GPU, tracker=gate)
    async with Cluster(inventory) as cluster:
        assert states(cluster)[late] == "starting"
        results = await cluster.execute(Graph(example.functions()), allocator=allocate)
    assert results["output_data"] == "processed: 100000 numbers, sum 15,000,150,000"
    assert results.allocations == {"load_data": "node1", "process_data": "gpu1", "output_data": "node1"}


async def test_a_placement_waits_for_a_host_that_is_starting() -> None:
    gate, insists = Gate("b"), Insists("b")
    inventory = Inventory([Host.local("a", ONE), Host.local("b", {"cpu": 3, "licence": 2})], tracker=gate)
    async with Cluster(inventory) as cluster:
        view = cluster.view
        assert states(cluster) == {"a": "ready", "b": "starting"}
        assert view.hosts["b"].total.amounts == {"cpu": 3, "licence": 2}
        assert not cluster.unavailable
        async with cluster.start(where(), allocator=insists) as execution:
            await until(lambda: insists.seen == ["starting"])
            await until(lambda: "placed it on 'b'" in execution.explain("where").reason)
            gate.open.set()
            assert (await execution.results())["where"][0] == "b"
    assert insists.seen == ["starting", "ready"]


async def test_a_lost_host_is_in_the_view_at_once_with_its_error_and_is_waited_for() -> None:
    gate, insists = Gate("b"), Insists("b")
    gate.open.set()
    async with Cluster(Inventory([Host.local("a", ONE), Host.local("b", ONE)], tracker=gate), require="all") as cluster:
        gate.open.clear()
        kill(cluster, "b")
        await until(lambda: states(cluster)["b"] == "lost")
        assert isinstance(cluster.unavailable["b"], handout.HostLostError)
        assert not cluster.view.hosts["b"].given_up
        async with cluster.start(where(), allocator=insists) as execution:
            await until(lambda: insists.seen)
            gate.open.set()
            assert (await execution.results())["where"][0] == "b"
        assert states(cluster) == {"a": "ready", "b": "ready"}
        assert not cluster.unavailable


async def test_a_host_that_fell_silent_is_lost_at_once_and_gets_no_tasks_while_its_old_ones_may_run() -> None:
    """The controller waits for the time of grace before it runs the host's tasks elsewhere. Here, this takes forever."""
    timings = replace(QUICK, grace_s=3600.0, linger_s=0.1)
    async with Cluster([Host.local("a", ONE), Host.local("b", ONE)], require="all", timings=timings) as cluster:
        agent = started(cluster, "b")
        pid = agent_pid(agent)
        os.kill(pid, signal.SIGSTOP)
        try:
            await until(lambda: states(cluster)["b"] == "lost")
            assert "b" in cluster._runtime.driver.agents
            assert "was silent for 3 s" in str(cluster.unavailable["b"])
            graph = Graph()
            outs = [graph.add(work.where) for _ in range(8)]
            results = await cluster.execute(graph)
            assert {name for name, *_ in results[outs]} == {"a"}
        finally:
            # On a busy machine, the supervisor may have ended the agent already, because the lease ended 2 s ago.
            if not gone(pid):
                os.kill(pid, signal.SIGCONT)
        await until(lambda: gone(agent.supervisor))


async def test_a_host_that_does_not_come_back_is_given_up_and_ends_the_run_of_an_allocator_that_insists() -> None:
    gate, insists = Gate("b"), Insists("b")
    gate.open.set()
    inventory = Inventory([Host.local("a", ONE), Host.local("b", ONE)], tracker=gate)
    async with Cluster(inventory, require="all", timings=QUICK) as cluster:
        gate.broken = True
        kill(cluster, "b")
        await until(lambda: states(cluster)["b"] == "lost")
        with pytest.raises(
            handout.AllocatorError, match=r"on host 'b', for which no task waits any longer.*lost"
        ) as caught:
            await cluster.execute(where(), allocator=insists)
        assert "was lost" in caught.value.lacks["b"]
        assert cluster.view.hosts["b"].given_up
        assert "b" in cluster.unavailable
        assert (await cluster.execute(where()))["where"][0] == "a"


async def test_a_host_that_is_up_late_is_waited_for_over_ssh(sshd: OpenSsh) -> None:
    insists = Insists("late")
    async with start_proxy(sshd.port) as proxy:
        proxy.refuse()
        late = sshd.host("late", ONE, port=proxy.port)
        hosts = [late, sshd.host("early", ONE)]
        async with Cluster(hosts, timings=Timings(host_timeout_s=60.0)) as cluster:
            await until(lambda: "late" in cluster.unavailable)
            await until(lambda: states(cluster) == {"early": "ready", "late": "lost"})
            async with cluster.start(where(), allocator=insists) as execution:
                await until(lambda: insists.seen)
                await proxy.listen()
                assert (await execution.results())["where"][0] == "late"
            assert states(cluster) == {"early": "ready", "late": "ready"}
            assert not cluster.unavailable


async def test_a_host_that_is_not_tried_again_is_given_up_at_once(sshd: OpenSsh) -> None:
    broken = sshd.host("broken", ONE, python="no-such-python")
    async with Cluster([broken, sshd.host("fine", ONE)]) as cluster:
        await until(lambda: "broken" in cluster.unavailable)
        with pytest.raises(handout.AllocatorError, match=r"'broken'.*no-such-python"):
            await cluster.execute(where(), allocator=Insists("broken"))


async def test_a_name_that_the_inventory_does_not_have_is_an_error_at_once() -> None:
    async def mistaken(frontier: Sequence[Task], view: ClusterView) -> Mapping[str, str]:
        return {task.id: "nod1" for task in frontier}

    async with Cluster([Host.local("node1", ONE)]) as cluster:
        with pytest.raises(handout.AllocatorError, match=r"'nod1', which is not a host of the inventory.*'node1'\?"):
            await cluster.execute(where(), allocator=mistaken)


async def test_a_run_that_requires_no_host_says_which_host_is_not_there_and_why(sshd: OpenSsh) -> None:
    nowhere = Host("nowhere", address="127.0.0.1", port=1, ssh=sshd.options)
    with pytest.raises(handout.PlacementError, match=r"no host of the inventory is ready: host 'nowhere'") as caught:
        await handout.execute(where(), inventory=[nowhere], require=0)
    assert "refused" in caught.value.lacks["nowhere"].lower()
    assert not hasattr(caught.value, "__notes__")  # a note would say once more why the host could not be used


async def test_a_run_that_ends_before_enough_hosts_are_ready_says_which_are_not() -> None:
    inventory = Inventory([Host.local("a", ONE), Host.local("b", ONE)], tracker=Gate("b"))
    with pytest.raises(
        handout.RunTimeoutError, match=r"none had begun, because too few hosts were ready.*'b' \(starting\)"
    ):
        await handout.execute(where(), inventory=inventory, require="all", timeout_s=0.3)
