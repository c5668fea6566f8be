"""A caller adds hosts to an open cluster, and drains its hosts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import handout
from handout import Cluster, Graph, Host
from handout.events import TaskStarted
from tests import work
from tests.seen import gone, started, until
from tests.sshd import OpenSsh

ONE = {"cpu": 1}


def here(name: str, **capabilities: object) -> Host:
    return Host.local(name, {**ONE, **capabilities})


async def test_a_host_that_is_added_is_used_by_the_runs_under_way(tmp_path: Path) -> None:
    graph = Graph()
    meeting = [graph.add(work.wait_for_company, str(tmp_path), *pair, cost={"cpu": 1}) for pair in ("ab", "ba")]
    async with Cluster([here("first")]) as cluster, cluster.start(graph) as execution:
        await until((tmp_path / "a").exists)
        await cluster.add(here("second"))
        assert set(cluster.view.hosts) == set(cluster.inventory) == {"first", "second"}
        assert (await execution.results())[meeting] == [True, True]


async def test_a_host_that_cannot_be_had_is_not_kept() -> None:
    async with Cluster([here("first")]) as cluster:
        with pytest.raises(handout.errors.HostUnreachableError, match="nowhere"):
            await cluster.add(Host("nowhere", address="127.0.0.1", port=1, ssh={"config": []}))
        assert list(cluster.inventory) == list(cluster.view.hosts) == ["first"]
        assert not cluster.unavailable
        graph = Graph()
        graph.add(work.identity, 1, host="nowhere")
        with pytest.raises(handout.PlacementError, match="nowhere"):
            await cluster.execute(graph)


async def test_what_is_no_host_or_is_there_already_is_refused() -> None:
    async with Cluster([here("first")]) as cluster:
        with pytest.raises(handout.errors.InventoryError, match="already has a host 'first'"):
            await cluster.add(here("first"))
        with pytest.raises(handout.errors.InventoryError, match="7 is not a host"):
            await cluster.add(7)  # type: ignore[arg-type]
        with pytest.raises(handout.errors.InventoryError, match=r"'frist' cannot be drained.*'first'"):
            await cluster.drain("frist")
        with pytest.raises(handout.errors.InventoryError, match=r"drain\(\) takes the name of a host.*Host"):
            await cluster.drain(here("first"))  # type: ignore[arg-type]


async def test_an_empty_cluster_can_be_filled() -> None:
    async with Cluster([], require=0) as cluster:
        await cluster.add(here("first"))
        graph = Graph()
        out = graph.add(work.identity, 1)
        assert (await cluster.execute(graph))[out] == 1


async def test_adding_can_be_cancelled() -> None:
    async with Cluster([here("first")]) as cluster:
        adding = asyncio.ensure_future(cluster.add(here("second")))
        await until(lambda: "second" in cluster.view.hosts)
        assert cluster.view.hosts["second"].state == "starting"
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert list(cluster.inventory) == list(cluster.view.hosts) == ["first"]
        await cluster.add(here("second"))


async def test_draining_loses_no_result_and_lets_what_runs_finish(tmp_path: Path) -> None:
    graph = Graph()
    made = graph.add(work.blob, 2 << 20)
    gate = graph.add(work.wait_for_file, str(tmp_path / "go"), id="gate")
    length = graph.add(lambda data, _: len(data), made, gate)
    async with Cluster([here("only")]) as cluster, cluster.start(graph, outputs=[length]) as execution:
        async for _ in execution.ended([made]):
            pass
        await until(lambda: execution.explain("gate").reason.startswith("runs"))
        agent = started(cluster, "only")
        await cluster.add(here("other"))
        draining = asyncio.ensure_future(cluster.drain("only"))
        await until(lambda: cluster.view.hosts["only"].state == "draining")
        assert not draining.done()
        (tmp_path / "go").touch()
        await draining
        await until(lambda: gone(agent.supervisor))
        assert not Path(agent.folder).exists()
        assert list(cluster.inventory) == ["other"]
        results = await execution.results()
    assert results[length] == 2 << 20
    assert results.allocations["gate"] == "only"


async def test_the_last_host_that_a_task_can_run_on_is_not_drained(tmp_path: Path) -> None:
    graph = Graph()
    out = graph.add(work.wait_for_file, str(tmp_path / "go"), cost={"big": True}, id="heavy")
    async with Cluster([here("small"), here("large", big=True)], require="all") as cluster:
        async with cluster.start(graph) as execution:
            with pytest.raises(handout.PlacementError, match=r"'large' cannot be drained.*'heavy'"):
                await cluster.drain("large")
            (tmp_path / "go").touch()
            assert (await execution.results())[out]
        await cluster.drain("large")
        assert list(cluster.view.hosts) == ["small"]


async def test_a_drain_goes_on_when_its_caller_is_cancelled(tmp_path: Path) -> None:
    graph = Graph()
    out = graph.add(work.wait_for_file, str(tmp_path / "go"), cost={"cpu": 1}, id="gate")
    async with Cluster([here("first"), here("second")], require="all") as cluster:
        async with cluster.start(graph) as execution:
            async for event in execution.events():
                if isinstance(event, TaskStarted):
                    break
            host = event.host
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await cluster.drain(host)
            (tmp_path / "go").touch()
            await asyncio.gather(cluster.drain(host), cluster.drain(host))
            assert (await execution.results())[out]
        assert host not in cluster.inventory


async def test_closing_ends_a_drain_and_an_adding(tmp_path: Path) -> None:
    graph = Graph()
    graph.add(work.sleep_forever, str(tmp_path / "pid"))
    cluster = await Cluster([here("first"), here("second")], require="all").open()
    async with cluster.start(graph) as execution:
        await until(lambda: (tmp_path / "pid").exists())
        draining = asyncio.ensure_future(cluster.drain(next(iter(execution._active.hosts))))
        adding = asyncio.ensure_future(cluster.add(here("third")))
        await until(lambda: "third" in cluster.inventory)
        await cluster.close()
        for waiting in (draining, adding):
            with pytest.raises(handout.HandoutError, match=r"closed|released"):
                await waiting
        with pytest.raises(handout.HandoutError, match="closed"):
            await execution.results()
    with pytest.raises(handout.HostError, match="not open"):
        await cluster.add(here("fourth"))


async def test_a_host_that_was_drained_can_be_added_again() -> None:
    async with Cluster([here("first"), here("second")], require="all") as cluster:
        await cluster.drain("second")
        await cluster.add(here("second"))
        graph = Graph()
        out = graph.add(work.where, host="second")
        assert (await cluster.execute(graph))[out][0] == "second"


async def test_a_drain_does_not_wait_for_a_core_that_is_broken(tmp_path: Path) -> None:
    graph = Graph()
    graph.add(work.sleep_forever, str(tmp_path / "pid"))
    cluster = await Cluster([here("first"), here("second")], require="all").open()
    async with cluster.start(graph) as execution:
        await until((tmp_path / "pid").exists)
        draining = asyncio.ensure_future(cluster.drain(execution._active.hosts[0]))
        await until(lambda: "draining" in [host.state for host in cluster.view.hosts.values()])
        cluster._runtime.driver.break_down(ValueError("as if"))
        with pytest.raises(handout.InternalError, match="as if"):
            await draining
        with pytest.raises(handout.InternalError, match="as if"):
            await cluster.drain("first")
    with pytest.raises(handout.InternalError, match="as if"):
        await cluster.close()


async def test_hosts_over_ssh_are_added_and_drained_under_way(sshd: OpenSsh, tmp_path: Path) -> None:
    graph = Graph()
    outs = [graph.add(work.sleep, 0.02) for _ in range(60)]
    async with Cluster([sshd.host("first", ONE)]) as cluster, cluster.start(graph) as execution:
        agent = started(cluster, "first")
        await cluster.add(sshd.host("second", ONE))
        await cluster.drain("first")
        await until(lambda: gone(agent.supervisor))
        assert not Path(agent.folder).exists()
        assert (await execution.results())[outs] == ["slept"] * 60
        assert list(cluster.view.hosts) == ["second"]
