"""Tests that leave something behind. `tests.test_ledger` runs them, and checks that the ledger reports each thing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from handout import Cluster, Graph, Host
from tests import ledger, work
from tests.seen import agent_pid, family, gone, started, until

pytestmark = pytest.mark.usefixtures("ledger_of_loop")

ledger.LIMIT_S = 0.2

_kept: list[object] = []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster([Host.local("here", {"cpu": 2})]) as opened:
        yield opened


def test_leaves_a_child() -> None:
    _kept.append(subprocess.Popen(["sleep", "30"]))


def test_leaves_a_daemon() -> None:
    # The call returns when the daemon has closed its copy of the pipe, so the daemon exists by then.
    subprocess.run(["sh", "-c", "setsid sh -c 'exec sleep 31 >/dev/null 2>&1' &"], check=True, stdout=subprocess.PIPE)


def test_leaves_a_descriptor() -> None:
    _kept.append(os.pipe())


def test_leaves_a_thread() -> None:
    threading.Thread(target=threading.Event().wait, args=(20,), name="untidy", daemon=True).start()


def test_leaves_a_folder(place: ledger.Place) -> None:
    tempfile.mkdtemp(prefix="handout-untidy-", dir=place.folder)


async def forever() -> None:
    await asyncio.Event().wait()


async def test_leaves_a_task() -> None:
    _kept.append(asyncio.ensure_future(forever()))


@pytest.mark.asyncio(loop_scope="module")
async def test_leaves_a_task_in_the_modules_loop(cluster: Cluster) -> None:
    _kept.append(asyncio.ensure_future(forever()))


@pytest.mark.asyncio(loop_scope="module")
async def test_leaves_a_task_on_a_host(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(work.sleep, 10.0)
    running = asyncio.ensure_future(cluster.execute(graph))
    await until(lambda: cluster.view.hosts["here"].running)
    _kept.append(running)


@pytest.mark.asyncio(loop_scope="module")
async def test_leaves_nothing(cluster: Cluster) -> None:
    graph = Graph()
    outs = graph.map(work.identity, range(20))
    assert (await cluster.execute(graph))[outs] == list(range(20))


async def fail() -> None:
    raise ValueError("never retrieved")


async def test_leaves_an_exception_that_nobody_heard_of() -> None:
    running = asyncio.ensure_future(fail())
    await asyncio.wait({running})


async def test_leaves_what_nobody_looks_after_any_more() -> None:
    """The run's folder, store and control group stay, because the test kills the supervisor and the agent."""
    async with Cluster([Host.local("lost", {"cpu": 1})]) as cluster:
        graph = Graph()
        graph.add(work.identity, 1)
        await cluster.execute(graph)
        agent = started(cluster, "lost")
        pids = family(agent)
        os.kill(agent.supervisor, signal.SIGSTOP)
        os.kill(agent_pid(agent), signal.SIGKILL)
        os.kill(agent.supervisor, signal.SIGKILL)
        await until(lambda: all(map(gone, pids)))
        await cluster.close()
