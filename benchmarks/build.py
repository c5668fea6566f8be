"""Measure the time and the memory that it takes to build a graph of a million functions, and to compile it into a plan.

    python -m benchmarks.build [FUNCTIONS]

The figures are microseconds and bytes for each function. The aims for building are 3 us and 350 bytes. The benchmark
keeps all outputs in a list, as a caller would. The bytes include the arguments, and 8 bytes for the entry in that list.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from handout.graph import Graph, Output

Built = tuple[Graph, list[Output[Any]]]


def step(x: int) -> int:
    return x + 1


def independent(count: int) -> Built:
    """Return a graph in which no function takes a result of another function."""
    graph = Graph()
    add = graph.add
    return graph, [add(step, i) for i in range(count)]


def chain(count: int) -> Built:
    """Return a graph in which each function takes the result of the function before it."""
    graph = Graph()
    add = graph.add
    outputs = [add(step, 0)]
    for _ in range(count - 1):
        outputs.append(add(step, outputs[-1]))
    return graph, outputs


def mapped(count: int) -> Built:
    """Return a graph of independent functions that `Graph.map` has added."""
    graph = Graph()
    return graph, graph.map(step, range(count))


def priced(count: int) -> Built:
    """Return a graph in which each call has a cost, written as a dict."""
    graph = Graph()
    add = graph.add
    return graph, [add(step, i, cost={"memory": "1 GB"}) for i in range(count)]


SHAPES: dict[str, Callable[[int], Built]] = {
    "independent": independent,
    "chain": chain,
    "mapped": mapped,
    "priced": priced,
}


def measure(build: Callable[[int], Built], count: int) -> dict[str, float]:
    """Measure how much time and memory a graph takes, and return the figures for one of its functions.

    Time and memory are measured in separate passes, because tracing memory slows the code down.
    """
    gc.collect()
    began = time.perf_counter()
    graph, outputs = build(count)
    built_us = (time.perf_counter() - began) / count * 1e6
    began = time.perf_counter()
    plan = graph.compile()
    compiled_us = (time.perf_counter() - began) / count * 1e6
    assert len(plan) == len(outputs) == count
    del graph, outputs, plan
    tracemalloc.start()
    graph, outputs = build(count)
    nbytes = tracemalloc.get_traced_memory()[0] / count
    plan = graph.compile()
    plan_bytes = tracemalloc.get_traced_memory()[0] / count - nbytes
    del outputs, plan
    tracemalloc.stop()
    return {
        "build_us": round(built_us, 3),
        "build_bytes": round(nbytes, 1),
        "compile_us": round(compiled_us, 3),
        "plan_bytes": round(plan_bytes, 1),
    }


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    for name, build in SHAPES.items():
        print(json.dumps({"shape": name, "functions": count, **measure(build, count)}), flush=True)


if __name__ == "__main__":
    main()
