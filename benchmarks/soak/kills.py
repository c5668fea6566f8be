"""Kill workers and agents while a graph runs."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import random
import signal
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.soak.processes import agents_held, children, held, is_marked, marked, state, supervisor, until
from benchmarks.soak.work import Work, build, count_runs, running
from handout import Cluster, Execution, Inventory
from handout.events import HostLeft, TaskEnded
from handout.scheduler.handlers.retries import MAX_DEATHS
from handout.scheduler.state.runs import FailureCount

#: The kills are spread over the run so that all kills are done when this share of the tasks has ended.
_DONE_BY = 0.95
#: The time limit for the run, in seconds.
_LIMIT_S = 1800.0
#: The pause between two looks at the processes, in seconds.
_TICK_S = 0.002
#: The probability that the killer kills an idle worker when it looks at this worker.
_IDLE = 0.05
#: An agent is killed only while more than this share of the hosts is connected, because a run without hosts ends.
_LEAST_HOSTS = 0.25
#: After the run, the soak waits up to this many seconds until all hosts have new agents.
_REJOIN_S = 180.0


class Killer:
    """Sends SIGKILL to the soak's own agents and their workers, while the tasks run.

    Args:
        cluster: The cluster of the hosts.
        execution: The execution of the graph.
        folder: The folder in which each task of the graph records when it begins and ends.
        mark: Only processes with this mark are killed; see `processes`.
        seed: The seed of the random choices.
    """

    def __init__(self, cluster: Cluster, execution: Execution, folder: Path, mark: str, seed: int) -> None:
        self._cluster = cluster
        self._execution = execution
        self._folder = folder
        self._mark = mark
        self._chance = random.Random(seed)
        #: The tasks during which a worker was killed. Each task is in the set at most once.
        self._hit: set[int] = set()
        #: The number of workers that were killed.
        self.workers = 0
        #: The number of workers that were killed during a task.
        self.at_work = 0
        #: For each host, the number of its agents that were killed.
        self.agents: Counter[str] = Counter()
        #: For each task, how often the run reported its end.
        self.ended: Counter[str] = Counter()
        #: How often the run reported that a host left.
        self.left = 0

    async def watch(self) -> None:
        """Count the tasks that end, and the hosts that leave, from the run's events."""
        async for event in self._execution.events():
            if isinstance(event, TaskEnded):
                self.ended[event.id] += 1
            elif isinstance(event, HostLeft):
                self.left += 1

    async def kill(self, tasks: int, workers: int, agents: int) -> None:
        """Kill workers and agents, spread evenly over a run of `tasks` tasks."""
        while self.workers < workers or self.agents.total() < agents:
            await asyncio.sleep(_TICK_S)
            share = min(1.0, len(self.ended) / (tasks * _DONE_BY))
            self._kill_workers(math.ceil(workers * share) - self.workers)
            if self.agents.total() < int(agents * share):
                self._kill_agent()

    def _kill_workers(self, count: int) -> None:
        """Kill up to `count` workers, chosen at random among those that may die now."""
        if count <= 0:
            return
        supervisors = {name: supervisor(self._cluster, name) for name in self._cluster._runtime.driver.agents}
        workers = [(pid, name) for name, each in supervisors.items() if each is not None for pid in children(each)[1:]]
        self._chance.shuffle(workers)
        for pid, host in workers:
            # Most idle workers are spared, because the soak is about interrupted tasks.
            if running(self._folder, pid) is None and self._chance.random() >= _IDLE:
                continue
            if is_marked(pid, self._mark) and self._kill_worker(pid, host):
                count -= 1
            if not count:
                return

    def _kill_worker(self, pid: int, host: str) -> bool:
        """Kill a worker, unless a task would then fail for good. Return True if the worker was killed."""
        try:
            # A stopped worker cannot begin another task between the check and the kill.
            os.kill(pid, signal.SIGSTOP)
            until_s = time.monotonic() + 0.01
            while state(pid) not in ("T", "Z", "") and time.monotonic() < until_s:
                pass
            if state(pid) == "T" and self._may_die(pid, host):
                os.kill(pid, signal.SIGKILL)
                self.workers += 1
                return True
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # the worker has already ended
        return False

    def _may_die(self, pid: int, host: str) -> bool:
        """Return True if no task fails for good when this stopped worker dies. Note the task that the worker runs."""
        task, deaths = running(self._folder, pid), self._deaths()
        if task is None:
            # A task may be on its way to an idle worker. The soak cannot see which task the death would count against.
            # If a task has two attempts, the death of the other attempt's worker may not be counted yet.
            return all(count < MAX_DEATHS - 2 or host not in hosts for count, hosts in deaths.values())
        if task in self._hit or deaths.get(f"t{task}", (0, ()))[0] >= MAX_DEATHS - 1:
            return False
        self._hit.add(task)
        self.at_work += 1
        return True

    def _deaths(self) -> dict[str, tuple[int, set[str]]]:
        """Return how often a worker has died while it ran a task, and the hosts of the task, for unfinished tasks."""
        world = self._cluster._runtime.driver.core.world
        run = world.runs.get(self._execution._active.number)
        found: dict[str, tuple[int, set[str]]] = {}
        if run is None:
            return found
        for (kind, t), count in run.failures.items():
            if kind is FailureCount.WORKER_DIED and not run.ended(t):
                second = run.second_attempts.get(t)
                at = [world.fleet.at(i) for i in (run.host[t], -1 if second is None else second.host) if i >= 0]
                found[run.name_of(t)] = count, {host.name for host in at if host is not None}
        return found

    def _kill_agent(self) -> None:
        """Kill the agent of one of the hosts whose agents were killed least often."""
        names = list(self._cluster._runtime.driver.agents)
        if len(names) <= len(self._cluster.inventory) * _LEAST_HOSTS:
            return
        self._chance.shuffle(names)
        for name in sorted(names, key=self.agents.__getitem__)[:1]:
            pid = next(iter(children(supervisor(self._cluster, name) or -1)), None)
            if pid is not None and is_marked(pid, self._mark):
                os.kill(pid, signal.SIGKILL)
                self.agents[name] += 1


async def soak(
    inventory: Inventory, folder: Path, mark: str, *, tasks: int, workers: int, agents: int
) -> dict[str, Any]:
    """Run the graph, kill workers and agents during the run, and return the figures of the soak."""
    figures: dict[str, Any] = {"tasks": tasks, "hosts": len(inventory)}
    _made(folder)
    before = asdict(held())
    async with Cluster(inventory, require="all") as cluster:
        await _warm_up(cluster, folder)
        work = await asyncio.to_thread(build, _made(folder / "runs"), tasks, 0.004, seed=1)
        figures |= await _run(cluster, work, folder / "runs", mark, workers, agents)
        began = time.monotonic()
        await until(lambda: len(cluster._runtime.driver.agents) == len(inventory), _REJOIN_S)
        figures["all_hosts_back_after_s"] = round(time.monotonic() - began, 1)
        figures["hosts_at_end"] = len(cluster._runtime.driver.agents)
        gc.collect()
        figures["held"]["end"] = asdict(held()) | agents_held(cluster)
    gc.collect()
    figures["held"] = {"before": before, **figures["held"], "closed": asdict(held())}
    figures["left_processes"] = len(marked(mark))
    return figures


async def _warm_up(cluster: Cluster, folder: Path) -> None:
    """Run some tasks on every host, so that later figures leave out resources that a host takes only once."""
    work = build(_made(folder / "warm"), 400, 0.004, seed=0)
    results = await cluster.execute(work.graph, outputs=work.outputs)
    assert work.wrong(results[work.outputs]) == 0


async def _run(cluster: Cluster, work: Work, folder: Path, mark: str, workers: int, agents: int) -> dict[str, Any]:
    tasks = len(work.outputs)
    small = [i for i, each in enumerate(work.expected) if isinstance(each, int)]
    outputs = [work.outputs[i] for i in small]
    gc.collect()
    holds: dict[str, Any] = {"start": asdict(held()) | agents_held(cluster)}
    began = time.monotonic()
    async with cluster.start(work.graph, outputs=outputs, timeout_s=_LIMIT_S, on_failure="continue") as execution:
        killer = Killer(cluster, execution, folder, mark, seed=2)
        async with asyncio.TaskGroup() as group:
            group.create_task(killer.watch())
            killing = group.create_task(killer.kill(tasks, workers, agents))
            middle = group.create_task(_middle(cluster, killer, tasks, holds))
            results = await execution.results()
            seconds = time.monotonic() - began
            killing.cancel()
            middle.cancel()
    runs = count_runs(folder)
    failed = len(results.failures)
    wrong = sum(1 for i in small if f"t{i}" not in results.failures and results[f"t{i}"] != work.expected[i])
    return {
        "seconds": round(seconds, 1),
        "workers_killed": killer.workers,
        "workers_killed_at_work": killer.at_work,
        "agents_killed": killer.agents.total(),
        "hosts_left": killer.left,
        "tasks_done": len(killer.ended) - failed,
        "tasks_failed": failed,
        "failures": [str(failure.exception) for failure in results.failures.values()][:5],
        "ended_twice": sum(1 for n in killer.ended.values() if n > 1),
        "results_wrong": wrong,
        "runs": runs.begun,
        "runs_again": runs.begun - runs.tasks,
        "runs_again_of_ended": runs.ended - runs.tasks,
        "most_runs_of_a_task": runs.most,
        "held": holds,
    }


async def _middle(cluster: Cluster, killer: Killer, tasks: int, holds: dict[str, Any]) -> None:
    """Note the resources that processes hold when a quarter, a half and three quarters of the tasks have ended."""
    for name, share in (("quarter", 0.25), ("middle", 0.5), ("three quarters", 0.75)):
        await until(lambda share=share: len(killer.ended) >= tasks * share, _LIMIT_S)  # type: ignore[misc]
        holds[name] = asdict(held()) | agents_held(cluster)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
