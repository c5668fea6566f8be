"""Find the soak's processes, and the resources that processes hold, in ``/proc``.

A mark is a random text by which a soak recognizes its own processes.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from handout import Cluster

#: The environment variable that holds the soak's mark, in every process that the soak's own sshd has started.
VARIABLE = "HANDOUT_SOAK"


def new_mark() -> str:
    """Return a new mark, which no other soak has."""
    return secrets.token_hex(8)


def is_marked(pid: int, mark: str) -> bool:
    """Return True if a process belongs to the soak with this mark."""
    try:
        return f"{VARIABLE}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def marked(mark: str) -> list[int]:
    """Return the process numbers of all live processes of the soak with this mark."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if is_marked(pid, mark) and state(pid) not in ("Z", "")]


def state(pid: int) -> str:
    """Return the letter for a process's state in ``/proc/PID/stat``, or an empty string if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """Return the process numbers of the children of a process, oldest first."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


def supervisor(cluster: Cluster, host: str) -> int | None:
    """Return the process number of a host's supervisor, or None if the host is not connected."""
    peer = cluster._runtime.driver.agents.get(host)
    started = None if peer is None else peer.link.started
    return None if started is None else started.supervisor


@dataclass(frozen=True)
class Held:
    """The resources that a process holds."""

    rss_mb: float
    descriptors: int
    threads: int
    #: The number of asyncio tasks; always 0 for a process other than this one.
    asyncio_tasks: int = 0


def held(pid: int | None = None) -> Held:
    """Return the resources that a process holds.

    Args:
        pid: The number of the process. The default is this process.

    Raises:
        FileNotFoundError: There is no such process.
        ProcessLookupError: The process is a zombie.
    """
    folder = Path(f"/proc/{pid or os.getpid()}")
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text(encoding="utf-8").splitlines())
    if "VmRSS" not in fields:
        raise ProcessLookupError(f"process {pid} has ended")  # a zombie: the parent has not reaped it yet
    return Held(
        rss_mb=round(int(fields["VmRSS"].split()[0]) / 1024, 1),
        descriptors=len(os.listdir(folder / "fd")),
        threads=int(fields["Threads"]),
        asyncio_tasks=0 if pid else len(asyncio.all_tasks()),
    )


def agents_held(cluster: Cluster) -> dict[str, float]:
    """Return the most memory and the most descriptors that any agent holds now, and the same for supervisors."""
    most = {"agent_rss_mb": 0.0, "agent_descriptors": 0, "supervisor_rss_mb": 0.0, "supervisor_descriptors": 0}
    for host in cluster._runtime.driver.agents:
        parent = supervisor(cluster, host)
        for kind, pid in (("supervisor", parent), ("agent", next(iter(children(parent or -1)), None))):
            if pid is None:
                continue
            try:
                found = held(pid)
            except OSError:
                continue  # the process has ended
            most[f"{kind}_rss_mb"] = max(most[f"{kind}_rss_mb"], found.rss_mb)
            most[f"{kind}_descriptors"] = max(most[f"{kind}_descriptors"], found.descriptors)
    return most


async def until(condition: Callable[[], bool], limit_s: float) -> None:
    """Poll a condition until it is true, or until ``limit_s`` seconds are over."""
    loop = asyncio.get_running_loop()
    limit = loop.time() + limit_s
    while not condition() and loop.time() < limit:  # noqa: ASYNC110 - another process may make it true
        await asyncio.sleep(0.005)
