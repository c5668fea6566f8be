"""What the system says of processes: which belong to the soak, and what this one holds."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from handout import Cluster

#: Every process that the soak's own sshd starts has this in its environment, with the mark of this very soak.
VARIABLE = "HANDOUT_SOAK"


def new_mark() -> str:
    """A word that no other soak has."""
    return secrets.token_hex(8)


def is_marked(pid: int, mark: str) -> bool:
    """Whether a process is one of this soak's."""
    try:
        return f"{VARIABLE}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def marked(mark: str) -> list[int]:
    """All processes of this soak that live."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if is_marked(pid, mark) and state(pid) not in ("Z", "")]


def state(pid: int) -> str:
    """The system's letter for what a process does; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """Of a process, oldest first."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


def supervisor(cluster: Cluster, host: str) -> int | None:
    """Of the agent that a host has now; None: the host is away."""
    peer = cluster._runtime.driver.peers.get(host)
    started = None if peer is None else peer.link.started
    return None if started is None else started.supervisor


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    rss_mb: float
    descriptors: int
    threads: int
    #: Of the event loop; 0 for other processes.
    asyncio_tasks: int = 0


def held(pid: int | None = None) -> Held:
    """What a process holds; this one by default.

    Raises:
        ProcessLookupError: There is no such process.
    """
    folder = Path(f"/proc/{pid or os.getpid()}")
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text(encoding="utf-8").splitlines())
    if "VmRSS" not in fields:
        raise ProcessLookupError(f"process {pid} has ended")  # and nobody has asked for its status yet
    return Held(
        rss_mb=round(int(fields["VmRSS"].split()[0]) / 1024, 1),
        descriptors=len(os.listdir(folder / "fd")),
        threads=int(fields["Threads"]),
        asyncio_tasks=0 if pid else len(asyncio.all_tasks()),
    )


def agents_held(cluster: Cluster) -> dict[str, float]:
    """The most that any agent, and any supervisor, holds at the moment: megabytes and descriptors."""
    most = {"agent_rss_mb": 0.0, "agent_descriptors": 0, "supervisor_rss_mb": 0.0, "supervisor_descriptors": 0}
    for host in cluster._runtime.driver.peers:
        keeper = supervisor(cluster, host)
        for kind, pid in (("supervisor", keeper), ("agent", next(iter(children(keeper or -1)), None))):
            if pid is None:
                continue
            try:
                found = held(pid)
            except OSError:
                continue  # it ended meanwhile
            most[f"{kind}_rss_mb"] = max(most[f"{kind}_rss_mb"], found.rss_mb)
            most[f"{kind}_descriptors"] = max(most[f"{kind}_descriptors"], found.descriptors)
    return most


async def until(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait for what nobody tells of; returns after the limit, too."""
    loop = asyncio.get_running_loop()
    limit = loop.time() + limit_s
    while not condition() and loop.time() < limit:  # noqa: ASYNC110 - it may happen outside this process
        await asyncio.sleep(0.005)
