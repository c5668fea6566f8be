"""A program that starts its hosts anew for each of many runs is told once that a `Cluster` keeps them."""

from __future__ import annotations

import asyncio
import logging

import pytest

import handout
from handout import Graph
from handout.execution import execution
from handout.execution.start_hint import Starts


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    """Return a count that begins at 0, and that executions use."""
    fresh = Starts()
    monkeypatch.setattr(execution, "STARTS", fresh)
    return fresh


def hints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if "has started its hosts" in each.getMessage()]


async def execute() -> None:
    graph = Graph()
    out = graph.add(int, "1")
    assert (await handout.execute(graph))[out] == 1


async def test_the_fifth_run_of_a_loop_gives_one_hint(starts: Starts, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(4):
        await execute()
    assert hints(caplog) == []
    for _ in range(2):
        await execute()
    (hint,) = hints(caplog)
    assert "started its hosts 5 times" in hint
    assert "`with handout.Cluster(inventory) as cluster:`, and in this block `cluster.run(graph)`" in hint
    assert "`async with` and `await cluster.execute(graph)`" in hint
    assert [each.levelno for each in caplog.records if each.getMessage() == hint] == [logging.WARNING]


async def test_runs_of_a_cluster_give_no_hint(starts: Starts, caplog: pytest.LogCaptureFixture) -> None:
    graph = Graph()
    graph.add(int, "1")
    async with handout.Cluster() as cluster:
        for _ in range(6):
            await cluster.execute(graph)
    assert hints(caplog) == []
    assert starts._count == 0


async def test_runs_that_overlap_and_runs_that_fail_do_not_count(starts: Starts) -> None:
    await asyncio.gather(*[execute() for _ in range(3)])
    assert starts._count == 1
    graph = Graph()
    graph.add(repr, handout.File("no-such-file"))
    with pytest.raises(handout.UnserializableError):
        await handout.execute(graph)
    assert starts._count == 1
    await execute()
    assert starts._count == 2


def test_a_start_that_ends_twice_ends_once() -> None:
    starts = Starts()
    first = starts.begin()
    first.end()
    first.end()
    starts.begin().succeed()
    assert starts._count == 1
