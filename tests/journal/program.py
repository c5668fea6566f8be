"""A program that runs a graph with a journal, and kills itself at a chosen commit.

Usage: ``program.py FOLDER WHEN [RESULTS]``. WHEN is 1 to kill the program before its first commit, 2 after the first
commit, 3 before the second commit, and so on. With 0, the program is not killed. RESULTS is the option
``journal_results``, by default "all".
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from handout import Cluster, Graph, Host
from handout.journal import writer
from handout.journal.writer import Rows, Writer
from handout.transport.timings import Timings

#: The lease does not end while the program lives, even on a busy machine. With this short ``linger_s``, the agent of a
#: killed program ends soon after its lease, because no controller takes it over.
QUICK = replace(Timings().scaled(0.1), host_timeout_s=5.0, linger_s=0.1)
FOLDER = Path(sys.argv[1])


@dataclass
class Part:
    """A class of `__main__`. Each process that runs this program makes its own class of this name."""

    value: int
    padding: bytes


def part(number: int, folder: str, padding: int) -> Part:
    with open(f"{folder}/ran", "a", encoding="utf-8") as ran:
        ran.write(f"part-{number}\n")
    return Part(number, bytes(padding))


def total(parts: list[Part], folder: str) -> int:
    with open(f"{folder}/ran", "a", encoding="utf-8") as ran:
        ran.write("total\n")
    assert all(isinstance(each, Part) for each in parts)
    return sum(each.value for each in parts)


def build() -> Graph:
    graph = Graph()
    sizes = (10, 100_000)  # the journal keeps small results in its database, and each large result in a file
    parts = [graph.add(part, n, str(FOLDER), sizes[n % 2], id=f"part-{n}") for n in range(6)]
    halves = [
        graph.add(total, parts[:3], str(FOLDER), id="half-0"),
        graph.add(total, parts[3:], str(FOLDER), id="half-1"),
    ]
    graph.add(sum, halves, id="all")
    graph.add(part, 9, str(FOLDER), 10, id="part-9")
    return graph


def die_at(commit: int) -> None:
    """Make the program kill itself: 1 is before its first commit, 2 after its first, 3 before its second, and so on."""
    commit_batch = Writer._commit
    seen = 0

    def dying(self: Writer, batch: Sequence[Rows]) -> None:
        nonlocal seen
        if batch:
            seen += 1
            if seen == (commit + 1) // 2:
                if commit % 2 == 0:
                    commit_batch(self, batch)
                os.kill(os.getpid(), signal.SIGKILL)
        commit_batch(self, batch)

    Writer._commit = dying  # type: ignore[method-assign]
    writer._GATHER_S = 0.0  # type: ignore[misc]  # no wait for more entries, so many small commits


async def main() -> None:
    results = sys.argv[3] if len(sys.argv) > 3 else "all"
    async with Cluster([Host.local("here", {"cpu": 1})], timings=QUICK) as cluster:
        made = await cluster.execute(build(), journal=FOLDER / "run.db", journal_results=results)  # type: ignore[arg-type]
        last = made["part-9"]
        print(made["all"], type(last) is Part, len(made.allocations))


if __name__ == "__main__":
    if int(sys.argv[2]):
        die_at(int(sys.argv[2]))
    asyncio.run(main())
