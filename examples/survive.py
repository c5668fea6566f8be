"""Tests of a graph under trouble: run them with pytest, or this file itself. No host but this machine is needed.

python examples/survive.py
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import handout
from handout import Cluster, ClusterView, Graph, Host, MemoryExceededError, Output, Task
from handout.testing import Faults


def load(path: str) -> list[float]:
    return [1.0, 2.0, 3.0]


def train(rows: list[float], epochs: int) -> float:
    task = handout.current()
    epoch, weight = task.restore((0, 0.0))
    while epoch < epochs:
        epoch, weight = epoch + 1, weight + 0.5 * (sum(rows) / len(rows) - weight)
        task.checkpoint((epoch, weight))
        task.report(epoch / epochs, weight=weight)
    return weight


def build() -> tuple[Graph, Output[float]]:
    graph = Graph()
    rows = graph.add(load, "a.csv")
    return graph, graph.add(train, rows, 20, cost={"gpu": 1, "memory": "1 GB"})


@asynccontextmanager
async def lab() -> AsyncIterator[Cluster]:
    """Open real agents and workers, on hosts that are only names."""
    hosts = [Host.local("gpu1", {"gpu": 1}), Host.local("gpu2", {"gpu": 1}), Host.local("cpu1", {"gpu": 0})]
    async with Cluster(hosts, require="all") as cluster:
        yield cluster


async def gpu1_first(frontier: Sequence[Task], view: ClusterView) -> Mapping[str, str]:
    """Place the training on gpu1 while that host is there."""
    gpu = "gpu1" if view.hosts["gpu1"].state == "ready" else "gpu2"
    return {task.id: gpu if task.id.startswith("train") else "cpu1" for task in frontier}


async def test_training_survives_the_loss_of_its_host() -> None:
    graph, weight = build()
    async with lab() as cluster:
        with Faults(cluster) as faults:
            faults.lose("gpu1", during=train)
            faults.fail(load, OSError("the disk is away"), times=2)
            results = await cluster.execute(graph, retries=2, allocator=gpu1_first)
    assert results.allocations[weight] == "gpu2"
    assert round(results[weight], 3) == 2.0


async def test_training_survives_its_worker_and_its_link() -> None:
    graph, weight = build()
    async with lab() as cluster:
        with Faults(cluster) as faults:
            faults.kill(weight, times=2)
            faults.cut("cpu1", for_s=0.5)
            results = await cluster.execute(graph)
    assert round(results[weight], 3) == 2.0


async def test_training_that_takes_too_much_is_not_tried_for_ever() -> None:
    graph, _ = build()
    async with lab() as cluster:
        try:
            with Faults(cluster) as faults:
                faults.starve(train, times=2)
                await cluster.execute(graph, retries=1)
        except MemoryExceededError:
            return
    raise AssertionError("the training was tried again")


def test_the_graph_alone() -> None:
    """Run the graph in this process: breakpoints and coverage work, and the source of the data is replaced."""
    graph = Graph()
    rows = graph.add(load, "missing.csv", id="rows")
    weight = graph.add(train, rows, 20)
    assert round(handout.evaluate(graph, given={rows: [4.0, 4.0]})[weight], 3) == 4.0


async def main() -> None:
    for test in (
        test_training_survives_the_loss_of_its_host,
        test_training_survives_its_worker_and_its_link,
        test_training_that_takes_too_much_is_not_tried_for_ever,
    ):
        await test()
        print(f"{test.__name__}: passed")
    test_the_graph_alone()
    print("test_the_graph_alone: passed")


if __name__ == "__main__":
    asyncio.run(main())
