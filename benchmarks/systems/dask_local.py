"""Measure Dask with two worker processes of one thread each, on this machine.

Dask starts these workers over SSH for the start-up figure, and without SSH for the other figures.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from distributed import Client, LocalCluster, SSHCluster

from benchmarks.systems import work

SIZE = 256 << 20


def connect() -> Client:
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50)
    client = Client(cluster)
    client.wait_for_workers(2)
    return client


def connect_over_ssh() -> Client:
    """Start a scheduler and two workers behind the benchmark's own sshd, with Dask's SSHCluster."""
    options = json.loads(os.environ["BENCH_SSH"])
    cluster = SSHCluster(
        ["127.0.0.1"] * 3,
        connect_options=options,
        worker_options={"nthreads": 1, "host": "127.0.0.1"},
        scheduler_options={"port": 0, "dashboard": False, "host": "127.0.0.1"},
        remote_python=sys.executable,
    )
    client = Client(cluster)
    client.wait_for_workers(2)
    return client


def startup() -> float:
    start = time.perf_counter()
    client = connect_over_ssh()
    workers = list(client.scheduler_info()["workers"])
    # The tasks call a builtin function, because Dask's workers over SSH have none of this repository's modules.
    assert client.gather([client.submit(abs, i, workers=[w], pure=False) for i, w in enumerate(workers)]) == [0, 1]
    seconds = time.perf_counter() - start
    client.shutdown()
    return seconds


def noops(client: Client, count: int) -> None:
    futures = client.map(work.nothing, range(count), pure=False)
    assert client.gather(futures)[-1] == count - 1


def chain(client: Client, count: int) -> None:
    future: Any = client.submit(work.successor, 0, pure=False)
    for _ in range(count - 1):
        future = client.submit(work.successor, future, pure=False)
    assert future.result() == count


def diamond(client: Client, width: int) -> None:
    root = client.submit(work.nothing, 1, pure=False)
    parts = [client.submit(work.successor, root, pure=False) for _ in range(width)]
    while len(parts) > 1:
        parts = [client.submit(work.total, parts[i : i + 16], pure=False) for i in range(0, len(parts), 16)]
    assert parts[0].result() == 2 * width


def main(repeats: int) -> dict[str, float]:
    figures = {"startup_s": work.median(startup, repeats)}
    client = connect()
    noops(client, 1000)
    figures["noop_per_s"] = 10_000 / work.median(lambda: work.timed(lambda: noops(client, 10_000)), repeats)
    figures["chain_us"] = 1e3 * work.median(lambda: work.timed(lambda: chain(client, 1000)), repeats)
    figures["diamond_per_s"] = 5_336 / work.median(lambda: work.timed(lambda: diamond(client, 5000)), repeats)
    for kind, make in work.KINDS.items():
        made = client.submit(make, SIZE, pure=False)
        client.submit(work.length, made).result()
        data = make(SIZE)

        def up(data: Any = data) -> None:
            client.submit(work.length, client.scatter(data, hash=False)).result()

        figures[f"down_{kind}_mib_s"] = SIZE / 2**20 / work.median(lambda made=made: work.timed(made.result), repeats)
        figures[f"up_{kind}_mib_s"] = SIZE / 2**20 / work.median(lambda up=up: work.timed(up), repeats)
    client.shutdown()
    return figures


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
