"""Tests of `handout.testing.Faults`: each fault comes to pass as planned, or the block says that it did not."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from handout import (
    Cluster,
    ClusterView,
    Graph,
    Host,
    MemoryExceededError,
    PlacementError,
    Task,
    Timings,
    WorkerDiedError,
    options,
)
from handout.errors import HandoutError, InventoryError
from handout.testing import Faults
from tests.execution.conftest import hosts
from tests.faults import faulted
from tests.faults.test_hosts import QUICK
from tests.patience import HANG_S
from tests.seen import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

DISK = OSError("the disk is away")


def model_of(graph: Graph, fn: Any = faulted.train, **options: Any) -> Any:
    return graph.add(fn, graph.add(faulted.load, "a.csv", id="load"), **{"id": "model", **options})


async def plain_first(frontier: Sequence[Task], view: ClusterView) -> Mapping[str, str]:
    return {task.id: "plain" if view.hosts["plain"].state == "ready" else "gpu" for task in frontier}


async def test_an_attempt_fails_with_the_given_exception_as_often_as_it_is_planned(cluster: Cluster) -> None:
    graph = Graph()
    model = model_of(graph)
    with Faults(cluster) as faults:
        faults.fail(faulted.load, DISK, times=2)
        results = await cluster.execute(graph, retries=2)
    assert results[model][0] == 2.0
    with pytest.raises(OSError, match="the disk is away"), Faults(cluster) as faults:  # noqa: PT012
        faults.fail("load", DISK)
        await cluster.execute(graph)


@pytest.mark.parametrize("fn", [faulted.train, faulted.train_later])
async def test_a_worker_dies_under_an_attempt(cluster: Cluster, fn: Any) -> None:
    graph = Graph()
    model = model_of(graph, fn, cost={"cpu_intensive": False})
    with Faults(cluster) as faults:
        faults.kill(fn, times=2)
        assert (await cluster.execute(graph))[model][2] == 3
    with pytest.raises(WorkerDiedError), Faults(cluster) as faults:  # noqa: PT012
        faults.kill(model, times=3)
        await cluster.execute(graph)


async def test_an_attempt_is_over_its_memory_without_taking_any(cluster: Cluster) -> None:
    graph = Graph()
    model = model_of(graph, cost={"memory": "1 GB"})
    with Faults(cluster) as faults:
        faults.starve(faulted.train)
        assert (await cluster.execute(graph, retries=1))[model][2] == 2
    with pytest.raises(MemoryExceededError), Faults(cluster) as faults:  # noqa: PT012
        faults.starve(faulted.train)
        await cluster.execute(graph)


@pytest.mark.parametrize("launcher", ["local", "ssh"])
async def test_a_host_is_lost_during_a_task_and_comes_back_after_the_block(
    request: pytest.FixtureRequest, launcher: str
) -> None:
    graph = Graph()
    model = model_of(graph)
    async with Cluster(hosts(request, launcher), require="all", timings=QUICK) as cluster:
        with Faults(cluster) as faults:
            faults.lose("plain", during=faulted.train)
            results = await cluster.execute(graph, allocator=plain_first)
            assert results[model][1:] == ("gpu", 2)
            assert "plain" not in cluster._runtime.driver.agents
        await until(lambda: "plain" in cluster._runtime.driver.agents)


@pytest.mark.parametrize("launcher", ["local", "ssh"])
async def test_a_host_is_lost_at_once(request: pytest.FixtureRequest, launcher: str) -> None:
    graph = Graph()
    model = model_of(graph)
    async with Cluster(hosts(request, launcher), require="all", timings=QUICK) as cluster:
        with Faults(cluster) as faults:
            faults.lose("gpu")
            await until(lambda: "gpu" not in cluster._runtime.driver.agents)
            assert (await cluster.execute(graph))[model][1] == "plain"
        await until(lambda: "gpu" in cluster._runtime.driver.agents)


async def test_losses_do_not_add_up_over_blocks() -> None:
    """A host that was lost three times within a minute is in quarantine, but not if the losses were planned."""
    async with Cluster([Host.local("one")]) as cluster:
        for _ in range(4):
            with Faults(cluster) as faults:
                faults.lose("one")
                await until(lambda: "one" not in cluster._runtime.driver.agents)
            assert await cluster.call(pow, 2, 3) == 8
            assert cluster.view.hosts["one"].state == "ready"


async def test_tasks_wait_after_the_block_for_a_host_that_was_given_up_in_it() -> None:
    async def on_one(frontier: Sequence[Task], view: ClusterView) -> Mapping[str, str]:
        return {task.id: "one" for task in frontier}

    quick = Timings(host_timeout_s=1.0, heartbeat_s=0.2, suspect_s=0.4, reconnect_s=0.6, grace_s=HANG_S)
    async with Cluster([Host.local("one")], timings=quick) as cluster:
        with Faults(cluster) as faults:
            faults.lose("one")
            with pytest.raises(PlacementError, match="no host of the inventory is ready"):
                await cluster.call(pow, 2, 3)
        graph = Graph()
        out = graph.add(pow, 2, 3)
        assert (await cluster.execute(graph, allocator=on_one))[out] == 8


async def test_the_next_attempt_on_another_host_has_the_checkpoint(cluster: Cluster, tmp_path: Path) -> None:
    graph = Graph()
    out = graph.add(faulted.go_on, str(tmp_path / "began"), id="t")
    with Faults(cluster) as faults:
        faults.kill("t")
        assert (await cluster.execute(graph))[out] == (1, 2)
    assert (tmp_path / "began").read_text().split() == ["0", "1"]


async def test_a_cut_link_costs_nothing_but_time(cluster: Cluster) -> None:
    graph = Graph()
    model = model_of(graph)
    with Faults(cluster) as faults:
        faults.cut("plain", for_s=0.5, during=faulted.train)
        results = await cluster.execute(graph, allocator=plain_first)
    assert results[model] == (2.0, "plain", 1)


async def test_a_second_cut_is_not_ended_by_the_end_of_the_first(cluster: Cluster) -> None:
    silent = cluster._runtime.no_connections
    with Faults(cluster) as faults:
        faults.cut("plain", for_s=0.01)
        faults.cut("plain", for_s=HANG_S)
        faults.cut("plain", for_s=0.01)
        faults.cut("gpu", for_s=0.02)
        await until(lambda: "gpu" not in silent)
        assert "plain" in silent
    graph = Graph()
    outs = [graph.add(pow, 2, 3, host=host) for host in ("plain", "gpu")]
    assert list((await cluster.execute(graph))[outs]) == [8, 8]  # both links are there again


async def test_a_host_that_is_not_there_yet_can_be_lost() -> None:
    there = [Host.local("one"), Host.local("late")]
    async with Cluster(there, require=0) as cluster:
        with Faults(cluster) as faults:
            faults.lose("late")
            assert (await cluster.call(pow, 2, 3)) == 8
            await until(lambda: "late" in cluster.unavailable)
        await until(lambda: "late" in cluster._runtime.driver.agents)


async def test_a_fault_that_never_came_to_pass_fails_the_block(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(faulted.load, "a.csv")
    model = graph.add(faulted.train, [1], id="model")
    said = (
        "kill('modle') came to pass 0 of 1 times; fail(load) came to pass 1 of 2 times; starve(train) came to pass 0 of "
        "1 times, because the cost of task 'model' states no memory that the task could exceed; lose('gpu', "
        "during='nothing') did not come to pass"
    )
    with pytest.raises(AssertionError, match=re.escape(said)), Faults(cluster) as faults:  # noqa: PT012
        faults.kill("modle")
        faults.fail(faulted.load, DISK, times=2)
        faults.starve(faulted.train)
        faults.lose("gpu", during="nothing")
        await cluster.execute(graph, on_failure="continue")
    assert (await cluster.execute(graph))[model][2] == 1  # nothing is left of the faults


async def test_a_function_stands_also_for_its_uses_with_options_and_bound_arguments(cluster: Cluster) -> None:
    graph = Graph()
    for fn in (options(timeout_s=60)(faulted.load), functools.partial(faulted.load)):
        graph.add(fn, "a.csv")
        with pytest.raises(OSError, match="the disk is away"), Faults(cluster) as faults:  # noqa: PT012
            faults.fail(faulted.load, DISK)
            await cluster.call(fn, "a.csv")
    with Faults(cluster) as faults:
        faults.fail(options(retries=1)(faulted.load), DISK, times=2)
        assert len((await cluster.execute(graph, on_failure="continue")).failures) == 2


async def test_what_the_block_raises_is_not_hidden(cluster: Cluster) -> None:
    with pytest.raises(KeyError), Faults(cluster) as faults:  # noqa: PT012
        faults.kill("never")
        raise KeyError("mine")


async def test_an_output_of_another_graph_is_another_task(cluster: Cluster) -> None:
    graph, other = Graph(), Graph()
    model, others = model_of(graph), model_of(other, id="others")
    with pytest.raises(AssertionError, match="kill\\(others\\) came to pass 0"), Faults(cluster) as faults:  # noqa: PT012
        faults.kill(others)
        assert (await cluster.execute(graph))[model][2] == 1


async def test_tasks_beside_one_with_a_fault_are_not_harmed(cluster: Cluster) -> None:
    """Short tasks are queued on one worker. An attempt with a fault gets a worker for itself."""
    graph = Graph()
    outs = [graph.add(faulted.train, [n], id=f"t{n}") for n in range(60)]
    with Faults(cluster) as faults:
        faults.kill("t30")
        results = await cluster.execute(graph)
    assert [results[out][2] for out in outs] == [2 if n == 30 else 1 for n in range(60)]


async def test_calls_have_faults_too(cluster: Cluster) -> None:
    with Faults(cluster) as faults:
        faults.kill(faulted.train)
        assert (await cluster.call(faulted.train, [1, 2]))[::2] == (1.5, 2)
        faults.fail(faulted.train)
        with pytest.raises(RuntimeError, match=r"a fault of handout\.testing"):
            await cluster.call(faulted.train, [1, 2])


async def test_mistakes_are_errors_at_the_call(cluster: Cluster) -> None:
    faults = Faults(cluster)
    with pytest.raises(HandoutError, match="not in use"):
        faults.kill("t")
    with faults:
        with pytest.raises(InventoryError, match=r"no host 'plian'.*Did you mean 'plain'"):
            faults.lose("plian")
        with pytest.raises(TypeError, match="neither the id of a task"):
            faults.kill(7)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"5 is not an exception\. Give an instance"):
            faults.fail("t", 5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="'cluster' is not a Cluster"):
            Faults("cluster")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="times=0"):
            faults.kill("t", times=0)
        with pytest.raises(ValueError, match="times='2' is not a whole number of attempts"):
            faults.kill("t", times="2")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="for_s='1' is not a positive number of seconds"):
            faults.cut("gpu1", for_s="1")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="for_s=0"):
            faults.cut("plain", for_s=0)
        with pytest.raises(HandoutError, match="has faults already"), Faults(cluster):
            pass


def in_plain_code() -> tuple[Any, Any]:
    graph = Graph()
    model = model_of(graph)
    with Cluster([Host.local("a", {"cpu": 1}), Host.local("b", {"cpu": 1})]) as cluster, Faults(cluster) as faults:
        faults.fail(faulted.load, DISK)
        faults.kill(model)
        faults.kill(faulted.load)
        results = cluster.run(graph, retries=1)
        faults.kill(faulted.train)
        with cluster.executor() as executor:
            called = executor.submit(faulted.train, [1, 2]).result()
    return results[model][2], called[::2]


async def test_faults_in_plain_code() -> None:
    assert await asyncio.to_thread(in_plain_code) == (2, (1.5, 2))
