"""Closing a cluster and leaving a run take at most 5 s, whatever the hosts do.

No process is left on a host to which the controller can still connect.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from handout import Cluster, Graph, Host, start
from tests import work
from tests.faults.far import Far
from tests.patience import stretched
from tests.proxy import Proxy, start_proxy
from tests.seen import family, gone, started, until
from tests.sshd import OpenSsh

LIMIT_S = 5.0
#: Seconds that the rest of a test may add to the limit.
SLACK_S = 0.5


def strand_when_made_again(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Strand the next connection through a proxy just after its login, when the first command runs on it.

    A stranded connection stays open, but no more bytes pass; see `Proxy.strand`.

    Returns: An event that is set when the connection is stranded.
    """
    stranded = asyncio.Event()
    create_process = asyncssh.SSHClientConnection.create_process

    async def strand_first(self: asyncssh.SSHClientConnection, *args: Any, **options: Any) -> Any:
        if not stranded.is_set():
            stranded.set()
            proxy.strand()
        return await create_process(self, *args, **options)

    monkeypatch.setattr(asyncssh.SSHClientConnection, "create_process", strand_first)
    return stranded


def through(server: OpenSsh, proxy: Proxy, cpu: int = 1) -> Host:
    """Return a host of the server that is reached through a proxy, at the proxy's port. The host key is the same."""
    return server.host("far", {"cpu": cpu}, port=proxy.port)


def is_busy() -> bool:
    """Return True if the limit may have passed before the second connection was ready. Then the lease ends the task."""
    return stretched(1.0) > 1.5


async def until_ended(pids: list[int]) -> None:
    """Wait until the processes of an agent are gone. The first one is the supervisor.

    An idle machine has a second for this, because a supervisor exits a moment after it has closed its connection.
    """
    limit_s = stretched(1.0)
    if not is_busy():
        await until(lambda: all(map(gone, pids)), limit_s)
        return
    if not gone(pids[0]):
        os.kill(pids[0], signal.SIGTERM)
    await until(lambda: all(map(gone, pids)))


async def test_closing_over_a_stranded_line_ends_the_agent_over_another_one(sshd: OpenSsh) -> None:
    """A router has forgotten the connection and tells neither end, but a new connection works."""
    graph = Graph()
    graph.add(work.identity, 1)
    async with start_proxy(sshd.port) as proxy:
        cluster = await Cluster([through(sshd, proxy)]).open()
        agent = started(cluster, "far")
        await cluster.execute(graph)  # starts a worker
        pids = family(agent)
        proxy.strand()
        begun = time.monotonic()
        await cluster.close()
        assert time.monotonic() - begun < stretched(LIMIT_S)
        assert is_busy() or not Path(agent.folder).exists()
        await until_ended(pids)


async def test_leaving_a_run_over_a_stranded_line_is_bounded_and_ends_its_code(sshd: OpenSsh, tmp_path: Path) -> None:
    graph = Graph()
    graph.add(work.sleep_forever, str(tmp_path / "pid"))
    async with start_proxy(sshd.port) as proxy:
        async with start(graph, inventory=[through(sshd, proxy)]) as execution:
            await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
            pids = family(started(execution._cluster, "far"))
            proxy.strand()
            begun = time.monotonic()
        assert time.monotonic() - begun < stretched(LIMIT_S + SLACK_S)
        await until(lambda: gone(int((tmp_path / "pid").read_text())))
        await until_ended(pids)


async def test_leaving_while_the_line_is_stranded_as_it_is_made_again_is_bounded_and_ends_its_code(
    sshd: OpenSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may take long to make the connection again, and leaving the run does not wait for that."""
    graph = Graph()
    graph.add(work.sleep_forever, str(tmp_path / "pid"))
    async with start_proxy(sshd.port) as proxy:
        stranded = strand_when_made_again(proxy, monkeypatch)
        async with start(graph, inventory=[through(sshd, proxy)]) as execution:
            await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
            pids = family(started(execution._cluster, "far"))
            proxy.cut()
            await stranded.wait()
            begun = time.monotonic()
        assert time.monotonic() - begun < stretched(LIMIT_S + SLACK_S)
        assert is_busy() or "did not confirm" not in caplog.text
        await until(lambda: gone(int((tmp_path / "pid").read_text())))
        await until_ended(pids)


async def test_leaving_a_host_in_a_black_hole_is_bounded_and_said(
    far: Far, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = Graph()
    graph.add(work.sleep_forever, str(tmp_path / "pid"))
    async with start(graph, inventory=[far.host()]) as execution:
        await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        agent = started(execution._cluster, "far")
        far.line.drop()
        begun = time.monotonic()
    assert time.monotonic() - begun < stretched(LIMIT_S + SLACK_S)
    assert "far did not confirm its end. It will end when its lease is over" in caplog.text
    os.kill(agent.supervisor, signal.SIGTERM)
    await until(lambda: not far.living())
