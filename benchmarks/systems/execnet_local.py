"""Measure execnet's channels to two local interpreters, without a scheduler, a graph or recovery."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import execnet

from benchmarks.systems import work

SIZE = 64 << 20

LOOP = """
while True:
    item = channel.receive()
    if item is None:
        break
    kind, value = item
    if kind == "one":
        channel.send(value)
    elif kind == "next":
        channel.send(value + 1)
    elif kind == "sum":
        channel.send(sum(value))
    elif kind == "make":
        import os
        channel.send(os.urandom(1 << 20) * (value >> 20))
    else:
        channel.send(len(value))
"""


def connect() -> tuple[Any, list[Any]]:
    group = execnet.Group()
    return group, [group.makegateway("popen").remote_exec(LOOP) for _ in range(2)]


def close(group: Any, channels: list[Any]) -> None:
    for channel in channels:
        channel.send(None)
    group.terminate(timeout=2)


def startup() -> float:
    start = time.perf_counter()
    group, channels = connect()
    for channel in channels:
        channel.send(("one", 1))
    assert [c.receive() for c in channels] == [1, 1]
    seconds = time.perf_counter() - start
    close(group, channels)
    return seconds


def spread(channels: list[Any], items: list[tuple[str, Any]]) -> list[Any]:
    """Send the items to the two channels in turn, and return the answers in the order of the items."""
    for i, item in enumerate(items):
        channels[i % 2].send(item)
    return [channels[i % 2].receive() for i in range(len(items))]


def chain(channels: list[Any], count: int) -> None:
    value = 0
    for _ in range(count):
        channels[0].send(("next", value))
        value = channels[0].receive()
    assert value == count


def diamond(channels: list[Any], width: int) -> None:
    (root,) = spread(channels, [("one", 1)])
    parts = spread(channels, [("next", root)] * width)
    while len(parts) > 1:
        parts = spread(channels, [("sum", parts[i : i + 16]) for i in range(0, len(parts), 16)])
    assert parts[0] == 2 * width


def main(repeats: int) -> dict[str, float]:
    figures = {"startup_s": work.median(startup, repeats)}
    group, channels = connect()
    items = [("one", i) for i in range(10_000)]
    figures["noop_per_s"] = 10_000 / work.median(lambda: work.timed(lambda: spread(channels, items)), repeats)
    figures["chain_us"] = 1e3 * work.median(lambda: work.timed(lambda: chain(channels, 1000)), repeats)
    figures["diamond_per_s"] = 5_336 / work.median(lambda: work.timed(lambda: diamond(channels, 5000)), repeats)

    def exchange(item: tuple[str, Any]) -> float:
        return work.timed(lambda: spread(channels[:1] * 2, [item]))

    figures["down_bytes_mib_s"] = SIZE / 2**20 / work.median(lambda: exchange(("make", SIZE)), repeats)
    data = os.urandom(1 << 20) * (SIZE >> 20)
    figures["up_bytes_mib_s"] = SIZE / 2**20 / work.median(lambda: exchange(("len", data)), repeats)
    close(group, channels)
    return figures


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
