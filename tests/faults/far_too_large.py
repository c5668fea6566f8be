"""A caller with little memory, whose hosts make and read a large object; see test_tasks.py."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

import asyncssh

import handout
from tests import work

MB = 1_000_000
SIZE = 200 * MB


async def main(inventory: str) -> None:
    """Print the size that the consumer saw, and that this process could not have held the object."""
    graph = handout.Graph()
    made = graph.add(work.blob, SIZE, host="from")
    out = graph.add(work.length, made, host="to")
    print((await handout.execute(graph, inventory=inventory))[out])
    try:
        print(len(bytes(SIZE)))
    except MemoryError:
        print("refused")


if __name__ == "__main__":
    assert asyncssh  # what it maps is not to count
    # Private memory that can be written to, of which a stack for each thread; the address space would count reserves.
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    most = pages * resource.getpagesize() + 128 * MB
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    asyncio.run(main(sys.argv[1]))
