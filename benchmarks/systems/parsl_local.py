"""Measure Parsl's high-throughput executor, with two workers on this machine."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import parsl
from parsl.config import Config
from parsl.dataflow.dependency_resolvers import DEEP_DEPENDENCY_RESOLVER
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

from benchmarks.systems import work

SIZE = 64 << 20


def connect() -> None:
    executor = HighThroughputExecutor(
        label="htex", max_workers_per_node=2, address="127.0.0.1", provider=LocalProvider(init_blocks=1, max_blocks=1)
    )
    parsl.load(
        Config(
            executors=[executor],
            run_dir=tempfile.mkdtemp(),
            initialize_logging=False,
            # Tasks of the diamond take lists of futures. By default, Parsl does not look for futures inside lists.
            dependency_resolver=DEEP_DEPENDENCY_RESOLVER,
        )
    )


def close() -> None:
    parsl.dfk().cleanup()
    parsl.clear()


def app(function: Any) -> Any:
    return parsl.python_app(function)


def startup() -> float:
    start = time.perf_counter()
    connect()
    task = app(work.nothing)
    assert [f.result() for f in [task(i) for i in range(2)]] == [0, 1]
    seconds = time.perf_counter() - start
    close()
    return seconds


def noops(count: int) -> None:
    task = app(work.nothing)
    assert [f.result() for f in [task(i) for i in range(count)]][-1] == count - 1


def chain(count: int) -> None:
    task = app(work.successor)
    out = task(0)
    for _ in range(count - 1):
        out = task(out)
    assert out.result() == count


def diamond(width: int) -> None:
    first, each, gather = app(work.nothing), app(work.successor), app(work.total)
    root = first(1)
    parts = [each(root) for _ in range(width)]
    while len(parts) > 1:
        parts = [gather(parts[i : i + 16]) for i in range(0, len(parts), 16)]
    assert parts[0].result() == 2 * width


def main(repeats: int) -> dict[str, float]:
    figures = {"startup_s": work.median(startup, repeats)}
    connect()
    noops(100)
    figures["noop_per_s"] = 10_000 / work.median(lambda: work.timed(lambda: noops(10_000)), repeats)
    figures["chain_us"] = 1e3 * work.median(lambda: work.timed(lambda: chain(1000)), repeats)
    figures["diamond_per_s"] = 5_336 / work.median(lambda: work.timed(lambda: diamond(5000)), repeats)
    # No array is measured. Parsl's pickle protocol has no out-of-band buffers, so Parsl treats an array like bytes.
    blob, length, data = app(work.blob), app(work.length), work.blob(SIZE)
    figures["down_bytes_mib_s"] = SIZE / 2**20 / work.median(lambda: work.timed(lambda: blob(SIZE).result()), repeats)
    figures["up_bytes_mib_s"] = SIZE / 2**20 / work.median(lambda: work.timed(lambda: length(data).result()), repeats)
    close()
    return figures


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
