"""A large graph takes the event loop only in slices, so that other runs on the same cluster go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from handout import Cluster, Graph, Host
from handout.transport.timings import Timings
from tests.patience import stretched

#: The controller prepares at most about this many tasks in 10 ms of CPU time.
A_SLICE = 4000
SIZE = 10 * A_SLICE


def same(x: Any) -> Any:
    return x


class Turns:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self._count = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0)
            self._count += 1

    def take(self) -> int:
        """Return the number of turns since the last call."""
        count, self._count = self._count, 0
        return count


@asynccontextmanager
async def counted() -> AsyncIterator[Turns]:
    turns = Turns()
    async with asyncio.TaskGroup() as group:
        counting = group.create_task(turns.run())
        yield turns
        counting.cancel()


async def test_a_large_graph_is_prepared_in_many_turns_of_the_loop() -> None:
    graph = Graph()
    graph.map(same, range(SIZE))
    async with counted() as turns, Cluster([Host.local("here", {"cpu": 1})]) as cluster:
        small = Graph()
        small.add(same, 1)
        await cluster.execute(small)  # the first run also waits for the host
        turns.take()
        async with cluster.start(graph):
            assert turns.take() >= SIZE // A_SLICE


def note_start(notes: Path, seconds: float) -> str:
    """Note that the task has started, and work for a while."""
    import time

    with notes.open("a") as file:
        file.write("started\n")
    time.sleep(seconds)
    return notes.read_text()


@pytest.mark.full
async def test_a_graph_of_600_000_functions_ends_no_task_of_another_run(tmp_path: Path) -> None:
    """The timings are scaled down so far that a loop blocked for 4 s would end the tasks of all runs on their hosts.

    A busy machine gets longer than that.
    """
    graph = Graph()
    graph.map(same, range(600_000))
    other = Graph()
    noted = other.add(note_start, tmp_path / "notes", 30.0, idempotent=False)
    timings = Timings().scaled(stretched(4.0) / Timings().host_timeout_s)
    async with (
        Cluster([Host.local("here", {"cpu": 2})], timings=timings) as cluster,
        cluster.start(other) as execution,
    ):
        async with cluster.start(graph):
            pass
        assert await execution.result(noted) == "started\n"
