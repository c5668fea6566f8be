"""A program for test_interrupt.py: it runs one task that never ends, on the hosts of an inventory file.

    python -m tests.faults.interrupted INVENTORY PATH

The task writes its process id to PATH.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import handout
from handout import Graph, Timings
from tests import work

if __name__ == "__main__":
    graph = Graph()
    graph.add(work.sleep_forever, sys.argv[2])
    try:
        handout.run(graph, inventory=sys.argv[1], timings=replace(Timings().scaled(0.2), linger_s=1.0))
    except SystemExit:
        print("the program's own clean-up", file=sys.stderr)
        raise
