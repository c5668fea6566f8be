"""Looks at a host from outside: its processes, its files, and its state in the cluster."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from handout import Cluster
from handout.execution.cluster_runtime import ClusterRuntime
from handout.transport.bootstrap import StartedAgent
from tests.patience import HANG_S


async def until(condition: Callable[[], object], limit_s: float = HANG_S) -> None:
    """Poll a condition until it holds. Raise TimeoutError after `limit_s` seconds."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


def started(cluster: Cluster | ClusterRuntime, host: str) -> StartedAgent:
    """Return what the running agent of a host has reported of itself, such as its folder and its supervisor."""
    runtime = cluster._runtime if isinstance(cluster, Cluster) else cluster
    found = runtime.driver.agents[host].link.started
    assert found is not None
    return found


def agent_pid(agent: StartedAgent) -> int:
    """Return the number of the agent's process, which is the first child of the supervisor."""
    return int(Path(f"/proc/{agent.supervisor}/task/{agent.supervisor}/children").read_text().split()[0])


def gone(pid: int) -> bool:
    """Return True if a process has ended, even if its parent has not waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def family(agent: StartedAgent) -> list[int]:
    """Return the numbers of a living agent's supervisor and of all processes below the supervisor."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat[1])
    found = [agent.supervisor]
    for above in found:
        found += [pid for pid, parent in parents.items() if parent == above]
    assert len(found) > 2, "expected a supervisor, its agent and at least one worker"
    return found


def descendants(pid: int) -> list[int]:
    children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *(each for child in children for each in descendants(child))]


def resident_bytes(pid: int) -> int:
    """Return the memory of a process and of all processes below it. A page that forks share counts for each fork."""
    pages = sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in descendants(pid))
    return pages * os.sysconf("SC_PAGE_SIZE")
