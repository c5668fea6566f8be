"""Fault row 3: the kernel kills a worker for lack of memory, in a control group that the test made."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import handout
from handout import Graph
from tests import work
from tests.faults import deeds
from tests.sshd import OpenSsh

LIMIT = 160 << 20


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Path]:
    """A group below the one that the tests run in, with little memory; removed once it is empty."""
    path = _own_group()
    if path is None:
        pytest.skip("no memory controller of control groups, version 1, is mounted here")
    made = path / f"handout-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        (made / "memory.limit_in_bytes").write_text(str(LIMIT))
        yield made
    finally:
        made.rmdir()


def _own_group() -> Path | None:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    found = [line.split(":", 2)[2] for line in lines if "memory" in line.split(":", 2)[1].split(",")]
    path = Path("/sys/fs/cgroup/memory" + found[0]) if found else None
    return path if path is not None and (path / "memory.limit_in_bytes").exists() else None


def _python_in(group: Path, folder: Path) -> str:
    """A Python that enters the group first: so the supervisor, the agent and the workers are in it."""
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
        assert "Raise memory=" in error.remedy

        # The agent and the supervisor were spared, and a later death by other means is not taken for one like that.
        after = Graph()
        out = after.add(work.identity, 5)
        assert (await cluster.execute(after))[out] == 5
        plain = Graph()
        plain.add(deeds.die_of, int(signal.SIGKILL))
        with pytest.raises(handout.WorkerDiedError, match=r"SIGKILL.*not the kernel") as caught:
            await cluster.execute(plain)
        assert caught.value.out_of_memory is False
    async with asyncio.timeout(20):
        while (group / "cgroup.procs").read_text():
            await asyncio.sleep(0.005)
