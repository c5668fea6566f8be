"""Use a cluster as a service does: with many calls, cancelled calls, objects that come and go, and lost hosts."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import asdict
from functools import partial
from typing import Any

from benchmarks.soak.processes import agents_held, children, held, is_marked, marked, supervisor, until
from handout import Cluster, Inventory, Stored

#: This many clients make calls one after the other.
_CLIENTS = 64
#: Each of so many calls takes a stored object.
_TAKES_STORED = 50
#: Seconds that a cancelled call would run.
_LONG_S = 60.0
#: The time limit for all calls, in seconds.
_LIMIT_S = 7200.0
#: After the calls, the soak waits up to this many seconds until all hosts have new agents.
_REJOIN_S = 180.0


def add(a: int, b: int) -> int:
    """Return the sum."""
    return a + b


def size(data: bytes, number: int) -> tuple[int, int]:
    """Return the size of a stored object, and the number of the call."""
    return len(data), number


def wait(number: int) -> int:
    """Run for longer than the client waits."""
    time.sleep(_LONG_S)
    return number


class Clients:
    """The clients of a service.

    Args:
        cluster: The cluster of the hosts.
        calls: How many calls to make.
        cancelled: How many of the calls to cancel.
        objects: How many objects to put, one after the other. Each is dropped when the next one is there.
    """

    def __init__(self, cluster: Cluster, calls: int, cancelled: int, objects: int) -> None:
        self._cluster = cluster
        self._calls = calls
        self._every = max(1, calls // cancelled) if cancelled else calls + 1
        self._objects = objects
        self._numbers = itertools.count(1)
        self._stored: Stored[bytes] | None = None
        self.done = 0
        self.put = 0
        self.outcomes: Counter[str] = Counter()

    async def run(self) -> None:
        """Make all calls."""
        async with asyncio.TaskGroup() as group:
            for seed in range(_CLIENTS):
                group.create_task(self._client(random.Random(seed)))

    async def _client(self, chance: random.Random) -> None:
        for number in self._numbers:
            if number > self._calls:
                return
            if number % max(1, self._calls // self._objects) == 1:
                await self._put(number)
            if number % self._every == 0:
                await self._cancel(number, chance.random() * 0.2)
            elif number % _TAKES_STORED == 0 and self._stored is not None:
                found: Any = await self._cluster.call(size, self._stored, number)
                self.outcomes["right" if found == (100_000, number) else "wrong"] += 1
            else:
                found = await self._cluster.call(add, number, 1)
                self.outcomes["right" if found == number + 1 else "wrong"] += 1
            self.done += 1

    async def _cancel(self, number: int, after_s: float) -> None:
        try:
            async with asyncio.timeout(after_s):
                await self._cluster.call(wait, number)
        except TimeoutError:
            self.outcomes["cancelled"] += 1
        else:
            self.outcomes["wrong"] += 1

    async def _put(self, number: int) -> None:
        self.put += 1
        before, self._stored = self._stored, await self._cluster.put(os.urandom(100_000))
        if before is not None:
            await before.drop()


class Losses:
    """Kills the agent of one host after another.

    Args:
        cluster: The cluster of the hosts.
        mark: Only processes with this mark are killed; see `processes`.
        every_s: Seconds between two kills.
    """

    def __init__(self, cluster: Cluster, mark: str, every_s: float) -> None:
        self._cluster = cluster
        self._mark = mark
        self._every_s = every_s
        self.agents = 0

    async def run(self) -> None:
        """Kill agents until this is cancelled."""
        for name in itertools.cycle(self._cluster.inventory):
            await asyncio.sleep(self._every_s)
            if len(self._cluster._runtime.driver.agents) < len(self._cluster.inventory):
                continue  # the last host has not come back yet
            pid = next(iter(children(supervisor(self._cluster, name) or -1)), None)
            if pid is not None and is_marked(pid, self._mark):
                os.kill(pid, signal.SIGKILL)
                self.agents += 1


def _holds(cluster: Cluster) -> dict[str, Any]:
    """Return what this process and the agents hold."""
    gc.collect()
    driver = cluster._runtime.driver
    return {
        **asdict(held()),
        **agents_held(cluster),
        "threads": threading.active_count(),
        "asyncio_tasks": len(asyncio.all_tasks()),
        "runs": len(driver.core.world.runs),
    }


def _is_at(clients: Clients, working: asyncio.Task[None], calls: int) -> bool:
    return clients.done >= calls or working.done()


async def soak(
    inventory: Inventory, mark: str, *, calls: int, cancelled: int, objects: int, every_s: float
) -> dict[str, Any]:
    """Make the calls, and return the figures of the soak."""
    figures: dict[str, Any] = {"calls": calls, "hosts": len(inventory)}
    before = asdict(held())
    async with Cluster(inventory, require="all") as cluster:
        clients, losses = Clients(cluster, calls, cancelled, objects), Losses(cluster, mark, every_s)
        holds: dict[str, Any] = {}
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            losing = group.create_task(losses.run())
            working = group.create_task(clients.run())
            for tenth in (1, 5, 9):
                await until(partial(_is_at, clients, working, calls * tenth // 10), _LIMIT_S)
                holds[f"after_{tenth}0_percent"] = _holds(cluster)
            await working
            losing.cancel()
        seconds = time.monotonic() - began
        await until(lambda: len(cluster._runtime.driver.agents) == len(inventory), _REJOIN_S)
        figures |= {
            "seconds": round(seconds, 1),
            "calls_per_s": round(calls / seconds),
            "agents_killed": losses.agents,
            "objects_put": clients.put,
            "calls_right": clients.outcomes["right"],
            "calls_cancelled": clients.outcomes["cancelled"],
            "results_wrong": clients.outcomes["wrong"],
        }
        clients._stored = None
        await until(lambda: len(cluster._runtime.driver.core.world.runs) <= 2, _REJOIN_S)
        holds["end"] = _holds(cluster)
    gc.collect()
    figures["held"] = {"before": before, **holds, "closed": asdict(held())}
    figures["left_processes"] = len(marked(mark))
    return figures
