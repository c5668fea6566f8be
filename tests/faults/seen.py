"""What a test sees of a host from outside: its processes, its files, what its cluster thinks of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from handout import Cluster
from handout.remote.bootstrap import Started

_LIMIT_S = 20.0


async def until(condition: Callable[[], object], limit_s: float = _LIMIT_S) -> None:
    """Wait for a condition outside this process."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


def started(cluster: Cluster, host: str) -> Started:
    """Where a host's agent is."""
    found = cluster.driver.peers[host].link.started
    assert found is not None
    return found


def agent_pid(agent: Started) -> int:
    """The agent's process: its supervisor's first child."""
    return int(Path(f"/proc/{agent.supervisor}/task/{agent.supervisor}/children").read_text().split()[0])


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def living(agent: Started) -> list[int]:
    """Every process of an agent's run, its user code too, found by the mark in its environment."""
    mark = f"HANDOUT_RUN={agent.folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or gone(int(entry.name)):
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def user_code(agent: Started) -> list[int]:
    """What of it is neither its supervisor nor its agent: workers, and what they started."""
    keepers = {agent.supervisor, agent_pid(agent)} if not gone(agent.supervisor) else set()
    return [pid for pid in living(agent) if pid not in keepers]
