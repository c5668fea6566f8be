"""Workers that the kernel kills for lack of memory: on a host that has too little, or at a limit of their own."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handout
from handout import Graph
from handout.host.system import cgroups
from tests import work
from tests.faults import deeds
from tests.seen import agent_pid, started, until
from tests.sshd import OpenSsh

LIMIT = 160 << 20


@pytest.fixture(params=["its own", "above"])
def group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Make a control group with little memory. Yield this group, or a group below it, for a host's processes."""
    base = cgroups.parent_groups().get("memory")
    if base is None:
        pytest.skip("no control group of memory can be made here")
    made = Path(base) / f"handout-test-{os.getpid()}"
    made.mkdir()
    group = made / "login" if request.param == "above" else made
    try:
        files = [made / name for name in ("memory.max", "memory.limit_in_bytes")]  # of version 2, of version 1
        next(file for file in files if file.exists()).write_text(str(LIMIT))
        group.mkdir(exist_ok=True)
        if request.param == "above" and (made / "cgroup.controllers").exists():
            (made / "cgroup.subtree_control").write_text("+memory +pids")
        yield group
    finally:
        for each in dict.fromkeys([group, made]):
            each.rmdir()


def _python_in(group: Path, folder: Path) -> str:
    """Write a script that enters the group and then becomes Python. Return its path.

    If a host uses this script as its Python, its supervisor, agent and workers are in the group.
    """
    script = folder / "python"
    script.write_text(f'#!/bin/sh\necho $$ > {group}/cgroup.procs && exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


async def test_row_03_what_the_kernel_kills_for_lack_of_memory_is_told_as_such(
    sshd: OpenSsh, group: Path, tmp_path: Path
) -> None:
    graph = Graph()
    graph.add(deeds.hoard, 400, id="greedy", cost={"memory": "100 MB"})
    host = sshd.host("tight", {"cpu": 1, "memory": "160 MB"}, python=_python_in(group, tmp_path))
    async with handout.Cluster([host]) as cluster:
        with pytest.raises(handout.WorkerDiedError, match="killed by the kernel for lack of memory") as caught:
            await cluster.execute(graph)
        error = caught.value
        assert (error.signal, error.out_of_memory, error.declared_memory) == (signal.SIGKILL, True, 100_000_000)
        assert error.peak_memory is not None
        assert 50_000_000 < error.peak_memory < LIMIT
        assert "declared memory 100 MB" in str(error)
        assert "Raise memory in the task's cost" in error.remedy

        # The kernel spared the agent and the supervisor. A later death with another cause is not reported as lack of
        # memory.
        after = Graph()
        out = after.add(work.identity, 5)
        assert (await cluster.execute(after))[out] == 5
        plain = Graph()
        plain.add(deeds.die_of, int(signal.SIGKILL))
        with pytest.raises(handout.WorkerDiedError, match=r"SIGKILL.*The kernel did not kill it") as caught:
            await cluster.execute(plain)
        assert caught.value.out_of_memory is False
    await until(lambda: not (group / "cgroup.procs").read_text())


async def test_a_host_that_has_too_little_is_no_fault_of_a_task_within_its_limit(
    sshd: OpenSsh, group: Path, tmp_path: Path
) -> None:
    graph = Graph()
    graph.add(deeds.hoard, 400, id="greedy", cost={"memory": "2 GB"}, enforce_memory=True)
    async with handout.Cluster(
        [sshd.host("tight", {"cpu": 1, "memory": "4 GB"}, python=_python_in(group, tmp_path))]
    ) as cluster:
        with pytest.raises(handout.WorkerDiedError, match="killed by the kernel for lack of memory") as caught:
            await cluster.execute(graph)
        assert caught.value.out_of_memory is True
        failure = handout.failure(caught.value)
        assert failure is not None
        assert failure.attempts == 3
    await until(lambda: not (group / "cgroup.procs").read_text())


@pytest.fixture
def limiting() -> None:
    """Skip the test if agents on this machine cannot make a control group for a worker."""
    if "memory" not in cgroups.parent_groups():
        pytest.skip("no control group of memory can be made here")


@pytest.mark.parametrize("deed", [deeds.hoard_at_once, deeds.forget_a_killed_child, deeds.wait_though_killed])
async def test_the_kernel_holds_a_limit_while_nobody_looks(
    sshd: OpenSsh, limiting: None, tmp_path: Path, deed: Callable[[str, str, int], int]
) -> None:
    ready, go = tmp_path / "ready", tmp_path / "go"
    graph = Graph()
    graph.add(deed, str(ready), str(go), 400, id="greedy", cost={"memory": "100 MB"}, enforce_memory=True)
    async with handout.Cluster([sshd.host("watched", {"cpu": 1})]) as cluster:
        async with cluster.start(graph) as execution:
            await until(Path(f"{ready}.whole").exists)
            worker = Path("/proc") / Path(f"{ready}.whole").read_text()
            agent = agent_pid(started(cluster, "watched"))
            os.kill(agent, signal.SIGSTOP)
            try:
                go.touch()
                # Wait until the kernel has killed the worker or its child. After the death of its child, a worker ends
                # itself, or its task goes on and writes a file.
                await until(lambda: not worker.exists() or Path(f"{ready}.after").exists())
            finally:
                os.kill(agent, signal.SIGCONT)
            with pytest.raises(handout.MemoryExceededError, match="over its memory cost of 100 MB") as caught:
                await execution.results()
        error = caught.value
        assert error.limit == 100_000_000
        assert error.peak == cgroups.kernel_limit(100_000_000)
        after = Graph()
        out = after.add(work.identity, 5)
        assert (await cluster.execute(after))[out] == 5


async def test_results_of_a_limited_task_are_no_part_of_its_memory(sshd: OpenSsh, limiting: None) -> None:
    graph = Graph()
    made = [graph.add(np.ones, 7_500_000, cost={"memory": "200 MB"}, enforce_memory=True) for _ in range(6)]
    read = graph.add(deeds.sum_all, made, cost={"memory": "200 MB"}, enforce_memory=True)
    async with handout.Cluster([sshd.host("watched", {"cpu": 1})]) as cluster:
        assert (await cluster.execute(graph, outputs=[read]))[read] == 45_000_000


async def test_files_in_memory_that_earlier_tasks_left_are_no_part_of_a_tasks_memory(
    sshd: OpenSsh, limiting: None, tmp_path: Path
) -> None:
    path = Path("/dev/shm") / f"left-{os.getpid()}"
    costs: dict[str, Any] = {"cost": {"memory": "120 MB"}, "enforce_memory": True}
    graph = Graph()
    held = graph.add(deeds.hoard, graph.add(deeds.leave_file, str(path), 110, 80, **costs), **costs)
    try:
        async with handout.Cluster([sshd.host("watched", {"cpu": 1})]) as cluster:
            assert (await cluster.execute(graph, outputs=[held]))[held] == 80
    finally:
        path.unlink(missing_ok=True)


async def test_an_argument_that_is_a_file_in_memory_is_no_part_of_a_tasks_memory(
    limiting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tmp_path / "content"
    content.write_bytes(bytes(250_000_000))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        monkeypatch.setenv("HANDOUT_TMPDIR", folder)
        graph = Graph()
        size = graph.add(deeds.size_of, handout.File(content), cost={"memory": "100 MB"}, enforce_memory=True)
        results = await handout.execute(graph, inventory=[handout.Host.local("here", {"cpu": 1})])
    assert results[size] == 250_000_000
