"""Measure how much processor time a task takes in all processes together: ``python -m benchmarks.cpu``.

The processes are the controller, a real sshd on loopback, and each host's supervisor, agent and workers. On a shared
machine, wall time can differ by half from one hour to the next, but processor time hardly differs. To compare two
versions of Handout, run this module in the two checkouts in turns, and compare the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.systems import handout_ssh
from handout import Cluster, Inventory
from tests.sshd import start_sshd

_PR_SET_CHILD_SUBREAPER = 36
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

#: For each workload, the number of tasks in one measurement. The system counts processor time in ticks of 10 ms. These
#: ticks are precise enough, because a measurement takes a second or more.
TASKS = {"noops": 20_000, "chain": 5_000, "diamond": 10_000}


def _stat(pid: str) -> tuple[int, int] | None:
    """Return the parent of a process, and the clock ticks that the process and its reaped children have used.

    Return None if the process has ended.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), sum(map(int, fields[11:15]))


def processor_s() -> float:
    """Return the processor seconds that this process and all its descendants have used, including daemons."""
    stats = {int(pid): stat for pid in os.listdir("/proc") if pid.isdigit() and (stat := _stat(pid)) is not None}
    family = {os.getpid()}
    grown = True
    while grown:
        more = {pid for pid, (parent, _) in stats.items() if parent in family} - family
        grown = bool(more)
        family |= more
    return sum(stats[pid][1] for pid in family if pid in stats) / _TICKS_PER_S


async def measure(repeats: int) -> dict[str, list[float]]:
    """For each workload, return one figure for each repeat: the microseconds of processor time that a task took."""
    workloads: dict[str, Callable[[Cluster, int], Awaitable[float]]] = {
        "noops": handout_ssh.noops,
        "chain": handout_ssh.chain,
        "diamond": handout_ssh.diamond,
    }
    figures: dict[str, list[float]] = {name: [] for name in workloads}
    async with Cluster(Inventory.load(Path(os.environ["BENCH_INVENTORY"])), require="all") as cluster:
        await handout_ssh.noops(cluster, 1000)
        for _ in range(repeats):
            for name, run in workloads.items():
                before = processor_s()
                await run(cluster, TASKS[name])
                figures[name].append(round(1e6 * (processor_s() - before) / TASKS[name], 2))
    return figures


def main() -> None:
    """Measure all workloads and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    # An agent outlives the process that started it. This call makes this process a subreaper: the new parent of all
    # descendants whose parent has ended. So all agents stay among the descendants of this process.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as folder, start_sshd(Path(folder)) as server:
        os.environ["BENCH_INVENTORY"] = str(server.inventory_file({"a": "{ cpu = 1 }", "b": "{ cpu = 1 }"}))
        print(json.dumps(asyncio.run(measure(arguments.repeats))))


if __name__ == "__main__":
    main()
