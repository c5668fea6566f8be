"""Checkpoints under faults: a task goes on from its newest checkpoint when its worker, agent or controller is killed."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

import handout
from handout import Cluster, Graph, Host
from handout.journal import Journal
from handout.testing import Faults
from tests.faults import checkpointing
from tests.faults.test_hosts import QUICK, kill_agent
from tests.faults.test_trust import suspect
from tests.journal.test_reattach import LONG
from tests.seen import until
from tests.sshd import OpenSsh

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: The sizes of two checkpoints. One travels in a message of the worker; the other is a file of the store.
SIZES = [10, 300_000]


def checkpoints_of(folder: Path) -> list[Path]:
    return list(folder.glob("*.checkpoints/*"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", ["kill", "raise"])
@pytest.mark.parametrize("fn", [checkpointing.work, checkpointing.work_later])
async def test_the_next_attempt_goes_on_on_either_host(cluster: Cluster, fn: Any, how: str, size: int) -> None:
    graph = Graph()
    out = graph.add(fn, 5, size, how, retries=1, cost={"cpu_intensive": False})
    assert (await cluster.execute(graph))[out][:2] == (3, 2)
    graph = Graph()
    out = graph.add(fn, 5, size, how, retries=1, host="gpu", cost={"cpu_intensive": False})
    assert (await cluster.execute(graph))[out] == (3, 2, "gpu")


async def test_a_call_goes_on_too(cluster: Cluster) -> None:
    called = await cluster.call(handout.options(retries=1)(checkpointing.work), 5, 10, "raise")
    assert called[:2] == (3, 2)


async def test_a_file_is_a_checkpoint(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(checkpointing.copy_a_file, "")
    assert (await cluster.execute(graph))[out] == "kept" * 50_000


async def test_a_checkpoint_that_cannot_be_kept_is_an_error_of_the_call(cluster: Cluster) -> None:
    graph = Graph()
    unpicklable, forked = graph.add(checkpointing.refuse, "lambda"), graph.add(checkpointing.refuse, "fork")
    results = await cluster.execute(graph)
    assert "checkpoint" in results[unpicklable]
    assert results[forked] == "7"


async def test_a_checkpoint_that_cannot_be_read_is_the_default_with_a_warning(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(checkpointing.keep_brittle, id="brittle", retries=1)
    async with cluster.start(graph) as execution:
        assert await execution.result(out) == ("default", 2)
        lines = [line async for line in execution.logs(out)]
    assert any("'brittle' begins anew" in line and "ValueError: cannot be read" in line for line in lines)


@pytest.mark.parametrize("size", SIZES)
async def test_the_checkpoint_of_a_lost_host_is_restored_elsewhere(sshd: OpenSsh, tmp_path: Path, size: int) -> None:
    """SIGKILL of the agent loses the host, with its store. The controller has the checkpoint by then."""
    graph = Graph()
    out = graph.add(checkpointing.work, 5, size, "stay", str(tmp_path))
    hosts = [sshd.host("near", {"cpu": 1}), sshd.host("far", {"cpu": 1})]
    async with Cluster(hosts, require="all", timings=QUICK) as cluster:
        async with cluster.start(graph) as execution:
            await until(lambda: (tmp_path / "there").exists())
            run = cast(Any, execution._run)
            first = run.hosts[0]
            await until(lambda: _step_here(execution) == 3)
            kill_agent(cluster, first)
            began, attempt, host = await execution.result(out)
    assert (began, attempt) == (3, 2)
    assert host != first


def _step_here(execution: Any) -> int:
    run = execution._run
    here = run.checkpoints.here.get(0)
    return 0 if here is None else run.objects.value(here.key).step


async def test_a_checkpoint_of_a_data_host_is_restored_only_there(
    sshd: OpenSsh, caplog: pytest.LogCaptureFixture
) -> None:
    graph = Graph()
    out = graph.add(checkpointing.take_two_numbers, retries=1)
    async with Cluster([suspect(sshd)]) as cluster:
        assert (await cluster.execute(graph))[out] == [2, [1, 2]]
    hosts = [suspect(sshd), sshd.host("near", {"cpu": 1})]
    async with Cluster(hosts, require="all") as cluster:
        # After the failure, the next attempt prefers the other host.
        results = await cluster.execute(graph, allocator=first_on_the_suspect)
    assert results[out] == [2, "default"]
    assert "only data is accepted from host suspect" in caplog.text


async def first_on_the_suspect(frontier: Any, view: Any) -> dict[str, str]:
    return {task.id: "near" if task.not_on else "suspect" for task in frontier}


async def test_all_checkpoints_are_gone_when_the_task_has_ended(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(checkpointing.work, 5, 300_000, "kill", retries=1, host="plain")
    last = graph.add(lambda before: sorted(checkpointing.stored_checkpoints()), out, host="plain")
    async with cluster.start(graph, outputs=[out, last]) as execution:
        assert (await execution.result(out))[0] == 3
        assert await execution.result(last) == []
        run = cast(Any, execution._run)
        assert not run.checkpoints.newest
        assert not run.checkpoints.here


PROGRAM = """
import asyncio, pathlib, sys
import handout
from tests.faults import test_checkpoints as t
folder = pathlib.Path(sys.argv[1])
asyncio.run(handout.execute(t.one(folder, int(sys.argv[2])), inventory=[handout.Host.local("a")],
    journal=folder / "run.db", timings=t.SHORT))
"""
#: The agents of a killed controller end soon.
SHORT = dataclasses.replace(handout.Timings().scaled(0.1), host_timeout_s=2.0, linger_s=0.1)


def one(folder: Path, size: int) -> Graph:
    graph = Graph()
    graph.add(checkpointing.stay_once, 5, size, str(folder), id="one")
    return graph


@pytest.mark.parametrize("size", SIZES)
async def test_a_resumed_run_goes_on_within_the_task(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGKILL of the controller, and of its agent: only the journal is left."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), str(size)], start_new_session=True)
    try:
        await until(lambda: (tmp_path / "there").exists() and _in_journal(tmp_path) == 3)
    finally:
        process.kill()
        process.wait()
    await until(lambda: not _agents_of(tmp_path))
    # Other arguments, so the checkpoint is of another function call.
    changed = Graph()
    changed.add(checkpointing.stay_once, 6, size, str(tmp_path), id="one")
    with caplog.at_level(logging.WARNING):
        results = await handout.execute(changed, inventory=[Host.local("a")], journal=tmp_path / "run.db")
    assert results["one"][0] == 0
    assert "the function or its arguments have changed" in caplog.text
    results = await handout.execute(one(tmp_path, size), inventory=[Host.local("a")], journal=tmp_path / "run.db")
    assert results["one"] == (3, 1, "a")
    assert checkpoints_of(tmp_path) == []
    journal = Journal(tmp_path / "run.db")
    assert journal.checkpoints() == []
    journal.close()


def _in_journal(folder: Path) -> int:
    """Return the step of the checkpoint that is committed, while the run goes on."""
    import pickle
    import sqlite3
    from contextlib import closing

    from handout.serialization import pickling

    try:
        with closing(sqlite3.connect(f"file:{folder}/run.db?mode=ro", uri=True)) as database:
            row = database.execute("SELECT file, data FROM checkpoints").fetchone()
        data = b"" if row is None else row[1] or (folder / "run.db.checkpoints" / row[0]).read_bytes()
        return 0 if not data else pickling.loads(data).step
    except (sqlite3.Error, OSError, pickle.UnpicklingError):
        return 0


def _agents_of(folder: Path) -> list[str]:
    text = str(folder).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


async def test_checkpoints_survive_a_link_that_is_cut(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(checkpointing.keep_on, 10, id="t", retries=1)
    async with cluster.start(graph) as execution:
        await until(lambda: bool(cast(Any, execution._run).checkpoints.newest))
        with Faults(cluster) as faults:
            faults.cut(cast(Any, execution._run).hosts[0], for_s=0.2)
            assert await execution.result(out) == (10, 2)


TAKEN_OVER = """
import asyncio, pathlib, sys
import handout
from tests.faults import test_checkpoints as t
folder = pathlib.Path(sys.argv[1])
asyncio.run(handout.execute(t.told(folder), inventory=handout.Inventory.load(sys.argv[2]),
    journal=folder / "run.db", timings=t.LONG))
"""


def told(folder: Path) -> Graph:
    graph = Graph()
    graph.add(checkpointing.fail_when_told, str(folder), id="t", retries=1)
    return graph


async def test_after_a_takeover_the_next_attempt_goes_on_from_what_the_agent_kept(
    sshd: OpenSsh, tmp_path: Path
) -> None:
    """SIGKILL of the controller. Its agent goes on, and the next controller takes it over."""
    inventory = sshd.inventory_file({"near": "{ cpu = 1 }"})
    arguments = [sys.executable, "-c", TAKEN_OVER, str(tmp_path), str(inventory)]
    process = subprocess.Popen(arguments, start_new_session=True)
    try:
        await until(lambda: (tmp_path / "there").exists())
    finally:
        process.kill()
        process.wait()
    hosts = handout.Inventory.load(inventory)
    async with handout.start(told(tmp_path), inventory=hosts, journal=tmp_path / "run.db", timings=LONG) as execution:
        await until(lambda: execution._run is not None)
        (tmp_path / "go").touch()
        assert await execution.result("t") == (7, 2)
