"""Enforced memory costs: a task that takes more than its cost is ended; one that only seems to take more is not."""

from __future__ import annotations

import numpy as np
import pytest

import handout
from handout import Cluster, Graph
from tests.faults import deeds

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = {"memory": "100 MB"}


@pytest.mark.parametrize("function", [deeds.hoard, deeds.hoard_in_a_grandchild, deeds.hoard_nicely])
async def test_what_takes_more_than_its_cost_says_is_ended(cluster: Cluster, function: object) -> None:
    graph = Graph()
    graph.add(function, 300, id="greedy", cost={"cpu_intensive": False, **LIMIT}, enforce_memory=True)  # type: ignore[call-overload]
    with pytest.raises(handout.MemoryExceededError, match=r"'greedy' used .* over its memory cost of 100 MB") as caught:
        await cluster.execute(graph)
    error = caught.value
    assert error.limit == 100_000_000 < error.peak < 400_000_000
    assert error.host in ("plain", "gpu")
    assert error.attempt == 1


@pytest.mark.parametrize("kind", ["mmap", "memfd", "posix"])
async def test_shared_memory_counts_as_well(cluster: Cluster, kind: str) -> None:
    graph = Graph()
    graph.add(deeds.hoard_shared, 300, kind, id="greedy", cost=LIMIT, enforce_memory=True)
    with pytest.raises(handout.MemoryExceededError, match=r"'greedy' used .* over its memory cost of 100 MB") as caught:
        await cluster.execute(graph)
    assert 100_000_000 < caught.value.peak < 400_000_000


async def test_shared_memory_below_the_cost_may_be_held_beside_mapped_objects(cluster: Cluster) -> None:
    graph = Graph()
    made = graph.add(np.ones, 15_000_000, host="plain")
    out = graph.add(deeds.read_beside_shared, made, 40, host="plain", cost=LIMIT, enforce_memory=True)
    assert (await cluster.execute(graph))[out] == 15_000_000


async def test_shared_memory_counts_once(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(deeds.share_with_forks, 50, 6, cost=LIMIT, enforce_memory=True)
    assert (await cluster.execute(graph))[out] == 50


async def test_what_stays_below_its_cost_runs(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(deeds.hoard, 40, cost=LIMIT, enforce_memory=True)
    assert (await cluster.execute(graph))[out] == 40


async def test_by_default_a_memory_cost_only_keeps_the_books(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(deeds.hoard, 150, cost=LIMIT)
    assert (await cluster.execute(graph))[out] == 150


async def test_a_run_enforces_for_all_that_say_nothing_themselves(cluster: Cluster) -> None:
    graph = Graph()
    greedy = graph.add(deeds.hoard, 150, cost=LIMIT)
    spared = graph.add(deeds.hoard, 150, cost=LIMIT, enforce_memory=False)
    free = graph.add(deeds.hoard, 150)
    results = await cluster.execute(graph, enforce_memory=True, on_failure="continue")
    assert results[[spared, free]] == [150, 150]
    assert isinstance(results.failures[greedy.id].exception, handout.MemoryExceededError)


async def test_the_limit_is_that_of_the_variant_that_runs(cluster: Cluster) -> None:
    graph = Graph()
    variants = [{"memory": "300 MB", "has_cuda": True}, {"memory": "100 MB"}]
    large = graph.add(deeds.hoard, 150, cost=variants, host="gpu", enforce_memory=True)
    small = graph.add(deeds.hoard, 150, cost=variants, host="plain", enforce_memory=True)
    results = await cluster.execute(graph, on_failure="continue")
    assert results[large] == 150
    error = results.failures[small.id].exception
    assert isinstance(error, handout.MemoryExceededError)
    assert error.limit == 100_000_000


async def test_mapped_objects_do_not_count(cluster: Cluster) -> None:
    graph = Graph()
    made = graph.add(np.ones, 15_000_000, host="plain")
    out = graph.add(deeds.read_all, made, host="plain", cost=LIMIT, enforce_memory=True)
    assert (await cluster.execute(graph))[out] == 15_000_000


async def test_pages_that_forks_share_count_once(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(deeds.fork_with_shared_pages, 50, 6, cost=LIMIT, enforce_memory=True)
    assert (await cluster.execute(graph))[out] == 50


async def test_a_task_is_not_blamed_for_what_an_earlier_one_left(cluster: Cluster) -> None:
    def leave_behind(megabytes: int) -> int:
        import sys

        sys.left = getattr(sys, "left", []) + [bytearray(b"x" * (1 << 20)) for _ in range(megabytes)]  # type: ignore[attr-defined]
        deeds.time.sleep(0.05)
        return len(sys.left)  # type: ignore[attr-defined]

    graph = Graph()
    outs = graph.map(leave_behind, [60] * 4, cost={"cpu": 2, **LIMIT}, host="plain", enforce_memory=True)
    assert (await cluster.execute(graph))[outs] == [60] * 4


async def test_enforcing_what_was_not_said_is_refused(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(deeds.hoard, 1, id="vague", cost=[LIMIT, {"cpu": 1}], enforce_memory=True)
    with pytest.raises(handout.GraphError, match=r"'vague' has enforce_memory=True and no memory.*every variant"):
        await cluster.execute(graph)
