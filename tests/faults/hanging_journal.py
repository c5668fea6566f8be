"""A program that opens its journal on a disk that never answers. The program must end nevertheless.

    python -m tests.faults.hanging_journal PATH HOW

With "cancelled" for HOW, the program cancels the run and waits for its end. Otherwise the main coroutine just returns,
and `asyncio.run` cancels the run.
"""

from __future__ import annotations

import asyncio
import sys
import threading

import handout
from handout import Graph, Host
from handout.execution.recording import recorder
from tests import work

begun = threading.Event()


def never(path: str) -> None:
    """Wait forever, in place of opening the journal."""
    begun.set()
    threading.Event().wait()


async def main() -> None:
    graph = Graph()
    graph.add(work.identity, 1)
    running = asyncio.ensure_future(handout.execute(graph, inventory=[Host.local("a")], journal=sys.argv[1]))
    while not begun.is_set():
        await asyncio.sleep(0.01)
    if sys.argv[2] == "cancelled":
        running.cancel()
        await asyncio.wait({running})


if __name__ == "__main__":
    recorder.Journal = never  # type: ignore[misc, assignment]
    asyncio.run(main())
    print("ended")
