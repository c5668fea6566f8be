"""Tests of `current().report`, of the events that it makes, and of the number of an attempt."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import handout
from handout import Cluster, Execution, Graph, Host
from handout.events import RunEvent, TaskEnded, TaskHandedOver, TaskReported
from tests.seen import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAID = "a\x1b[2Jb"


def tell(how: str) -> int:
    task = handout.current()
    if how == "thread":
        thread = threading.Thread(target=task.report, args=(0.25,), kwargs={"text": SAID, "loss": math.nan})
        thread.start()
        thread.join()
    else:
        task.report(0.25, text=SAID, loss=math.nan)
    return os.getpid()


async def tell_later(how: str) -> int:
    await asyncio.sleep(0)
    return tell(how)


def tell_in_a_loop(seconds: float) -> int:
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        count += 1
        handout.current().report(count=count)
    return count


def tell_twice_and_wait(path: str) -> None:
    handout.current().report(0.1)
    handout.current().report(0.2)
    while not os.path.exists(path):
        time.sleep(0.005)


def tell_in_a_fork() -> int:
    pid = os.fork()
    if not pid:
        handout.current().report(0.5)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def watch(execution: Execution, seen: list[RunEvent]) -> None:
    async for event in execution.events():
        seen.append(event)


async def events_of(cluster: Cluster, graph: Graph, **options: Any) -> list[RunEvent]:
    seen: list[RunEvent] = []
    async with cluster.start(graph, **options) as execution:
        watcher = asyncio.create_task(watch(execution, seen))
        await execution.results()
        await watcher
    return seen


@pytest.mark.parametrize("how", ["main", "thread"])
@pytest.mark.parametrize("fn", [tell, tell_later])
async def test_a_report_is_an_event_before_the_end_of_its_task(cluster: Cluster, fn: Any, how: str) -> None:
    graph = Graph()
    graph.add(fn, how, id="t", host="plain", cost={"cpu_intensive": False})
    seen = await events_of(cluster, graph)
    (reported,) = [event for event in seen if isinstance(event, TaskReported)]
    assert (reported.id, reported.host, reported.attempt, reported.progress) == ("t", "plain", 1, 0.25)
    assert reported.facts["text"] == "a\\x1b[2Jb"
    assert isinstance(reported.facts["loss"], float)
    assert math.isnan(reported.facts["loss"])
    (ended,) = [event for event in seen if isinstance(event, TaskEnded)]
    assert seen.index(reported) < seen.index(ended)


async def test_a_loop_of_reports_is_ten_events_a_second_at_most_and_the_last_one_comes(cluster: Cluster) -> None:
    graph = Graph()
    out = graph.add(tell_in_a_loop, 0.5)
    seen: list[RunEvent] = []
    async with cluster.start(graph) as execution:
        watcher = asyncio.create_task(watch(execution, seen))
        began = time.monotonic()
        count = await execution.result(out)
        took_s = time.monotonic() - began
        await watcher
    told = [event.facts["count"] for event in seen if isinstance(event, TaskReported)]
    assert told[-1] == count
    assert len(told) <= 10 * max(took_s, 1.0)
    assert told == sorted({*told})


async def test_the_newest_report_comes_while_the_task_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """The second report comes right after the first, and no further call of the task sends it."""
    graph = Graph()
    graph.add(tell_twice_and_wait, str(tmp_path / "go"))
    seen: list[RunEvent] = []
    async with cluster.start(graph) as execution:
        watcher = asyncio.create_task(watch(execution, seen))
        await until(lambda: any(isinstance(event, TaskReported) and event.progress == 0.2 for event in seen))
        (tmp_path / "go").touch()
        await execution.results()
        await watcher


async def test_nothing_is_sent_while_no_program_watches(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(tell, "main", host="plain")
    async with cluster.start(graph) as execution:
        told: list[Any] = []
        execution._run.tell = told.extend  # type: ignore[method-assign]  # every event of the run passes through it
        await execution.results()
    assert not [event for event in told if isinstance(event, TaskReported)]


async def test_a_forked_process_reports_nothing(cluster: Cluster) -> None:
    graph = Graph()
    graph.add(tell_in_a_fork)
    seen = await events_of(cluster, graph)
    assert not [event for event in seen if isinstance(event, TaskReported)]
    assert [event.outcome for event in seen if isinstance(event, TaskEnded)] == ["done"]


def attempt() -> int:
    return handout.current().attempt


def hold(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


async def test_a_task_that_is_recalled_before_it_begins_keeps_the_number_of_its_attempt(tmp_path: Path) -> None:
    """The first host has tasks in its queue, and takes no further task. A second host gets its tasks."""
    graph = Graph()
    graph.add(hold, str(tmp_path / "go"), host="first")
    outs = [graph.add(attempt, id=f"t{i}") for i in range(20)]
    async with Cluster([Host.local("first", {"cpu": 1})]) as cluster:
        seen: list[RunEvent] = []
        async with cluster.start(graph) as execution:
            watcher = asyncio.create_task(watch(execution, seen))
            await until(lambda: sum(map(bool, execution._run.hosts)) > 1)
            await cluster.add(Host.local("second", {"cpu": 1}))
            assert [await execution.result(out) for out in outs] == [1] * 20
            core = cluster._runtime.driver.core
            assert max(core.attempts(execution._run.number)) > 1  # a task was handed over twice
            assert {execution.explain(f"t{i}").attempt for i in range(20)} == {1}
            (tmp_path / "go").touch()
            await execution.results()
            await watcher
    assert {event.attempt for event in seen if isinstance(event, TaskHandedOver)} == {1}
