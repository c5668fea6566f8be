"""Measure Handout over sshd on loopback, with two hosts of one worker each."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import handout
from benchmarks.systems import work
from handout import Cluster, Graph, Inventory, Output
from handout.execution.run_options import RunOptions

SIZE = 256 << 20


def inventory() -> Inventory:
    """Return the inventory of the benchmark's own sshd."""
    return Inventory.load(Path(os.environ["BENCH_INVENTORY"]))


async def startup() -> float:
    """Return the seconds until every host has returned a result. At the beginning, no agent runs on the hosts."""
    start = time.perf_counter()
    graph = Graph()
    outs = [graph.add(work.nothing, i, host=name) for i, name in enumerate(inventory())]
    results = await handout.execute(graph, inventory=inventory(), require="all")
    assert results[outs] == list(range(len(outs)))
    return time.perf_counter() - start


async def noops(cluster: Cluster, count: int, journal: bool = False) -> float:
    """Return the seconds for independent no-op tasks, including the time to build the graph."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        graph = Graph()
        outs = graph.map(work.nothing, range(count))
        options: RunOptions = {"journal": Path(folder) / "run.db"} if journal else {}
        results = await cluster.execute(graph, **options)
        seconds = time.perf_counter() - start
    assert results[outs[-1]] == count - 1
    return seconds


async def chain(cluster: Cluster, count: int) -> float:
    """Return the seconds for a chain of tasks, including the time to build the graph."""
    start = time.perf_counter()
    graph = Graph()
    out: Output[int] = graph.add(work.successor, 0)
    for _ in range(count - 1):
        out = graph.add(work.successor, out)
    results = await cluster.execute(graph)
    assert results[out] == count
    return time.perf_counter() - start


async def diamond(cluster: Cluster, width: int) -> float:
    """Return the seconds for a diamond, including the time to build the graph.

    A diamond is one task, `width` tasks that take its result, and tasks that join up to 16 results each until only one
    result is left.
    """
    start = time.perf_counter()
    graph = Graph()
    root = graph.add(work.nothing, 1)
    parts = [graph.add(work.successor, root) for _ in range(width)]
    while len(parts) > 1:
        parts = [graph.add(work.total, parts[i : i + 16]) for i in range(0, len(parts), 16)]
    results = await cluster.execute(graph)
    assert results[parts[0]] == 2 * width
    return time.perf_counter() - start


async def down(cluster: Cluster, kind: str) -> float:
    """Return how many bytes a host sends to the controller in a second. The time to make the bytes does not count."""
    graph = Graph()
    out = graph.add(work.KINDS[kind], SIZE)
    async with cluster.start(graph) as execution:
        made_at = 0.0
        async for event in execution.events():
            if isinstance(event, handout.events.TaskEnded):
                made_at = time.perf_counter()
        results = await execution.results()
        seconds = time.perf_counter() - made_at
        assert len(results[out]) == SIZE
    return SIZE / seconds


async def up(cluster: Cluster, kind: str) -> float:
    """Return how many bytes the controller sends to a host in a second."""
    data = work.KINDS[kind](SIZE)
    graph = Graph()
    out = graph.add(work.length, data)
    start = time.perf_counter()
    results = await cluster.execute(graph)
    assert results[out] == SIZE
    return SIZE / (time.perf_counter() - start)


async def main(repeats: int) -> dict[str, float]:
    """Return all figures. Each figure is the median of several measurements."""
    figures = {"startup_s": sorted([await startup() for _ in range(repeats)])[repeats // 2]}
    async with Cluster(inventory(), require="all") as cluster:
        await noops(cluster, 1000)

        async def middle(measure: object, *args: object) -> float:
            return sorted([await measure(cluster, *args) for _ in range(repeats)])[repeats // 2]  # type: ignore[operator]

        figures["noop_per_s"] = 10_000 / await middle(noops, 10_000)
        figures["journal_per_s"] = 10_000 / await middle(noops, 10_000, True)
        figures["chain_us"] = 1e6 * await middle(chain, 1000) / 1000
        figures["diamond_per_s"] = 5_336 / await middle(diamond, 5000)
        for kind in work.KINDS:
            figures[f"down_{kind}_mib_s"] = await middle(down, kind) / 2**20
            figures[f"up_{kind}_mib_s"] = await middle(up, kind) / 2**20
    return figures


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1])))))
