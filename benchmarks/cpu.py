"""Measure the processor time of all processes for one task, over a real sshd on loopback: ``python -m benchmarks.cpu``.

On a shared machine, wall time can differ by half from one hour to the next. Processor time does not. The sum covers
the controller, sshd, and each host's supervisor, agent and workers. To compare two versions of Handout, run this module
in the two checkouts in turns, and compare the medians.
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

#: For each workload, the number of tasks in one measurement. A measurement takes a second or more, so the 10 ms ticks
#: of the system's accounting are precise enough.
TASKS = {"noops": 20_000, "chain": 5_000, "diamond": 10_000}


def _stat(pid: str) -> tuple[int, int] | None:
    """Return a process's parent and the process's clock ticks, with those of its reaped children; None if it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), sum(map(int, fields[11:15]))


def processor_s() -> float:
    """Return the processor seconds of this process and all its descendants, including daemons."""
    stats = {int(pid): stat for pid in os.listdir("/proc") if pid.isdigit() and (stat := _stat(pid)) is not None}
    family = {os.getpid()}
    grown = True
    while grown:
        more = {pid for pid, (parent, _) in stats.items() if parent in family} - family
        grown = bool(more)
        family |= more
    return sum(stats[pid][1] for pid in family if pid in stats) / _TICKS_PER_S


async def measure(repeats: int) -> dict[str, list[float]]:
    """Return, for each workload, the microseconds of processor time for a task, with one figure for each repeat."""
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
    # An agent outlives its login session and becomes an orphan. A subreaper adopts orphans, so this process keeps all
    # agents among its descendants.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as folder, start_sshd(Path(folder)) as server:
        os.environ["BENCH_INVENTORY"] = str(server.inventory_file({"a": "{ cpu = 1 }", "b": "{ cpu = 1 }"}))
        print(json.dumps(asyncio.run(measure(arguments.repeats))))


if __name__ == "__main__":
    main()
