"""Measure Ray with two workers on this machine."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import ray

from benchmarks.systems import work

SIZE = 256 << 20


def connect() -> None:
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)


def startup() -> float:
    start = time.perf_counter()
    connect()
    task = ray.remote(work.nothing)
    assert ray.get([task.remote(i) for i in range(2)]) == [0, 1]
    seconds = time.perf_counter() - start
    ray.shutdown()
    return seconds


def noops(count: int) -> None:
    task = ray.remote(work.nothing)
    assert ray.get([task.remote(i) for i in range(count)])[-1] == count - 1


def chain(count: int) -> None:
    task = ray.remote(work.successor)
    out: Any = task.remote(0)
    for _ in range(count - 1):
        out = task.remote(out)
    assert ray.get(out) == count


def diamond(width: int) -> None:
    first, each = ray.remote(work.nothing), ray.remote(work.successor)
    gather = ray.remote(lambda *parts: sum(parts))
    root = first.remote(1)
    parts = [each.remote(root) for _ in range(width)]
    while len(parts) > 1:
        parts = [gather.remote(*parts[i : i + 16]) for i in range(0, len(parts), 16)]
    assert ray.get(parts[0]) == 2 * width


def main(repeats: int) -> dict[str, float]:
    figures = {"startup_s": work.median(startup, repeats)}
    connect()
    noops(1000)
    figures["noop_per_s"] = 10_000 / work.median(lambda: work.timed(lambda: noops(10_000)), repeats)
    figures["chain_us"] = 1e3 * work.median(lambda: work.timed(lambda: chain(1000)), repeats)
    figures["diamond_per_s"] = 5_336 / work.median(lambda: work.timed(lambda: diamond(5000)), repeats)
    length = ray.remote(work.length)
    for kind, make in work.KINDS.items():
        maker, data = ray.remote(make), make(SIZE)

        def down(maker: Any = maker) -> float:
            made = maker.remote(SIZE)
            ray.wait([made])
            return work.timed(lambda: ray.get(made))

        def up(data: Any = data) -> None:
            ray.get(length.remote(ray.put(data)))

        figures[f"down_{kind}_mib_s"] = SIZE / 2**20 / work.median(down, repeats)
        figures[f"up_{kind}_mib_s"] = SIZE / 2**20 / work.median(lambda up=up: work.timed(up), repeats)
    ray.shutdown()
    return figures


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
