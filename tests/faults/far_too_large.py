"""A program for test_tasks.py: a caller with little memory passes a large object from one host to another."""

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
    """Print the size that the consumer saw. Then print "refused" if this process cannot allocate that much memory."""
    graph = handout.Graph()
    made = graph.add(work.blob, SIZE, host="from")
    out = graph.add(work.length, made, host="to")
    print((await handout.execute(graph, inventory=inventory))[out])
    try:
        print(len(bytes(SIZE)))
    except MemoryError:
        print("refused")


if __name__ == "__main__":
    assert asyncssh  # imported before the limit is set, so that its memory does not count
    # RLIMIT_DATA limits private writable memory, which includes the stacks of threads. A limit of the address space
    # would also count memory that is reserved and not used.
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    most = pages * resource.getpagesize() + 128 * MB
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    asyncio.run(main(sys.argv[1]))
