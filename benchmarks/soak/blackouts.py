"""Run graphs over a network that passes no bytes for five seconds of each minute. These seconds are called a blackout.

Graphs of many short tasks run one after another. Beside these short graphs, long graphs of a few long tasks also run
one after another, so that some long tasks run when a blackout begins.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.soak.processes import agents_held, held, marked, until
from benchmarks.soak.work import build, count_runs
from handout import Cluster
from handout.events import HostLeft, TaskEnded
from tests.proxy import Proxy, start_proxy
from tests.sshd import OpenSsh

#: The duration of a blackout, in seconds.
DARK_S = 5.0
_MINUTE_S = 60.0
#: The number of tasks in each short graph.
_TASKS = 1500
#: The mean duration of a task of a short graph, in seconds.
_MEAN_S = 0.04
#: `_LONG_TASKS` is the number of tasks in each long graph. `_LONG_S` is the mean duration of such a task in seconds. A
#: long task takes longer than a blackout.
_LONG_TASKS, _LONG_S = 2, 25.0
#: The time limit for a run, in seconds. A run that takes longer counts as a hang.
_LIMIT_S = 300.0


class Flow:
    """Runs one graph after another until `over` is set, and counts what happens in these runs.

    Args:
        cluster: The cluster that runs the graphs.
        folder: The folder for the files that the tasks write.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._number = 0
        self.over = False
        self.counts: Counter[str] = Counter()
        #: The time at which a task last ended, on the event loop's clock.
        self.last_end = 0.0

    async def go_on(self, tasks: int, mean_s: float) -> None:
        """Run one graph after another until `over` is set.

        Args:
            tasks: The number of tasks in each graph.
            mean_s: The mean duration of a task, in seconds.
        """
        while not self.over:
            await self._one(tasks, mean_s)

    async def _one(self, tasks: int, mean_s: float) -> None:
        self._number += 1
        folder = self._folder / str(self._number)
        folder.mkdir()
        work = await asyncio.to_thread(build, folder, tasks, mean_s, seed=self._number)
        async with self._cluster.start(work.graph, outputs=work.outputs, timeout_s=_LIMIT_S) as execution:
            async for event in execution.events():
                if isinstance(event, TaskEnded):
                    self.last_end = asyncio.get_running_loop().time()
                    self.counts["tasks_done"] += event.outcome == "done"
                elif isinstance(event, HostLeft):
                    self.counts["hosts_left"] += 1
            results = await execution.results()
        runs = count_runs(folder)
        self.counts["graphs"] += 1
        self.counts["results_wrong"] += work.wrong(results[work.outputs])
        self.counts["runs"] += runs.begun
        self.counts["runs_again"] += runs.begun - runs.tasks
        shutil.rmtree(folder)


async def soak(server: OpenSsh, names: list[str], folder: Path, mark: str, *, minutes: int) -> dict[str, Any]:
    """Run graphs for some minutes, with one blackout in each minute. Return the figures of the soak."""
    figures: dict[str, Any] = {"hosts": len(names)}
    holds: dict[str, Any] = {}
    async with start_proxy(server.port) as proxy:
        hosts = [server.host(name, {"cpu": 2}, port=proxy.port) for name in names]
        async with Cluster(hosts, require="all") as cluster:
            (folder / "short").mkdir(parents=True)
            (folder / "long").mkdir()
            short, long = Flow(cluster, folder / "short"), Flow(cluster, folder / "long")
            await short._one(_TASKS // 5, _MEAN_S)
            short.counts.clear()
            gc.collect()
            holds["start"] = asdict(held()) | agents_held(cluster)
            connections = proxy.connections
            async with asyncio.TaskGroup() as group:
                group.create_task(short.go_on(_TASKS, _MEAN_S))
                group.create_task(long.go_on(_LONG_TASKS, _LONG_S))
                silent, first_after = [], []
                for minute in range(1, minutes + 1):
                    silent_s, first_s = await _minute(proxy, short)
                    silent.append(silent_s)
                    first_after.append(first_s)
                    holds[f"minute {minute}"] = asdict(held()) | agents_held(cluster)
                short.over = long.over = True
            figures |= dict(short.counts + long.counts)
            for name in ("hosts_left", "results_wrong", "runs_again"):
                figures[name] = short.counts[name] + long.counts[name]
            figures["long_tasks_done"] = long.counts["tasks_done"]
            figures["blackouts"] = len(first_after)
            figures["silent_s"] = {"most": max(silent), "least": min(silent)}
            figures["first_task_after_s"] = {"most": max(first_after), "least": min(first_after)}
            figures["connections_made_again"] = proxy.connections - connections
            figures["hosts_at_end"] = len(cluster._runtime.driver.agents)
            gc.collect()
            holds["end"] = asdict(held()) | agents_held(cluster)
        holds["closed"] = asdict(held())
    figures["left_processes"] = len(marked(mark))
    return figures | {"held": holds}


async def _minute(proxy: Proxy, flow: Flow) -> tuple[float, float]:
    """Wait for a minute, with a blackout in the middle of the minute.

    Returns:
        Two durations in seconds. The first is the time for which no task had ended when the blackout was over. The
        second is the time from the end of the blackout until the next task ended.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(_MINUTE_S / 2)
    proxy.stall()
    await asyncio.sleep(DARK_S)
    proxy.resume()
    light = loop.time()
    silent = light - flow.last_end
    await until(lambda: flow.last_end >= light, _LIMIT_S)
    first = flow.last_end - light
    await asyncio.sleep(max(0.0, began + _MINUTE_S - loop.time()))
    return round(silent, 2), round(first, 2)
