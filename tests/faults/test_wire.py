"""Fault row 30: frames that are damaged at the agent's socket, where SSH cannot detect it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import handout
from handout import Cluster, Graph, Host
from tests import work
from tests.seen import started, until
from tests.sshd import OpenSsh

FLIPS = 6


class BadPipe:
    """A proxy in place of an agent's socket. It flips one bit near the beginning of each connection, in each direction.

    Args:
        path: The path of the agent's socket. `serve` renames that socket, and listens at this path.
        flips: Number of bits to flip in all connections together.
    """

    def __init__(self, path: Path, flips: int) -> None:
        self.path, self.behind = path, path.with_suffix(".behind")
        #: Number of bits that are still to be flipped, and number of connections so far.
        self.left, self.connections = flips, 0
        self._chance = random.Random(30)
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> asyncio.Server:
        """Take the place of the agent's socket: later connections to the agent come here."""
        os.rename(self.path, self.behind)
        return await asyncio.start_unix_server(self._accepted, self.path)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._join(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self.behind)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back))
                group.create_task(self._pump(there, writer))
        except* OSError:
            pass
        finally:
            for each in (writer, back):
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        good: int | None = self._chance.randrange(4096)
        while data := bytearray(await reader.read(1 << 16)):
            if good is not None and good >= len(data):
                good -= len(data)
            elif good is not None and self.left:
                data[good] ^= 1 << self._chance.randrange(8)
                self.left -= 1
                good = None
            writer.write(data)
            await writer.drain()
        writer.transport.abort()

    async def end(self) -> None:
        """Close every connection."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def bad_pipe(cluster: Cluster, host: str) -> AsyncIterator[BadPipe]:
    """Put a `BadPipe` before a host's agent, and drop the connection, so that the next one goes through the pipe."""
    pipe = BadPipe(Path(started(cluster, host).socket), FLIPS)
    server = await pipe.serve()
    try:
        cluster._runtime.driver.agents[host].link._launcher.abort()
        await until(lambda: pipe.connections)
        yield pipe
    finally:
        server.close()
        # The agent's own socket comes back to its path, so that the message that ends the agent arrives undamaged.
        os.rename(pipe.behind, pipe.path)
        conversation = cluster._runtime.driver.agents[host].conversation
        damaged = conversation.connection
        await pipe.end()
        # Closing takes a bounded time. On a busy machine a new connection may take longer, and the agent would stay
        # until its lease ends.
        await until(lambda: conversation.connection not in (None, damaged))


@pytest.mark.parametrize("launcher", ["local", "ssh"])
async def test_row_30_damaged_frames_cost_connections_and_nothing_else(
    sshd: OpenSsh, tmp_path: Path, launcher: str
) -> None:
    far = Host.local("far", {"cpu": 2}) if launcher == "local" else sshd.host("far", {"cpu": 2})
    async with Cluster([far, sshd.host("near", {"cpu": 1})], require="all") as cluster:
        near = cluster._runtime.driver.agents["near"].conversation
        line = near.connection
        # The modules of the project travel as a stream, whose bytes only SSH checks. So they travel before.
        first = Graph()
        first.add(work.identity, 1, host="far")
        await cluster.execute(first)
        async with bad_pipe(cluster, "far") as pipe:
            graph = Graph()
            outs = [
                graph.add(work.mark_and_return, str(tmp_path / "ran"), f"{i}" * 300, host="far") for i in range(100)
            ]
            elsewhere = graph.map(work.identity, range(50), host="near")
            async with cluster.start(graph) as execution:
                told: list[handout.Event] = []
                execution._run.watchers.append(told.extend)
                results = await execution.results()
            assert results[outs] == [f"{i}" * 300 for i in range(100)]
            assert results[elsewhere] == list(range(50))
            assert (tmp_path / "ran").read_text().count("ran") == 100
            assert pipe.left == 0
            assert pipe.connections > FLIPS / 2  # at most two flips in a connection, and none in the last
            assert near.connection is line
            assert not [event for event in told if isinstance(event, handout.events.HostLeft)]
            assert [host.state for host in cluster.view.hosts.values()] == ["ready"] * 2
