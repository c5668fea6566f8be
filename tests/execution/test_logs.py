"""The controller keeps the newest lines that tasks print, within bounds, and counts the lines that it drops."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

import handout
from handout import Cluster, Graph, Host
from handout.events import EventsMissed, HostLeft, RunEnded, TaskEnded
from handout.execution import event_streams, task_logs
from handout.execution.bounded_buffer import BoundedBuffer
from handout.execution.task_logs import RunLogs
from tests import work
from tests.patience import HANG_S

pytestmark = pytest.mark.usefixtures("ledger_of_loop")

LINE = "x" * 1000


def read(kept: RunLogs, task: int) -> list[str]:
    reader = kept.follow(task, lambda: None)
    try:
        return list(reader.take())
    finally:
        kept.unfollow(task, reader)


def test_the_oldest_go_and_are_counted() -> None:
    kept: BoundedBuffer[str] = BoundedBuffer(10, len)
    kept.extend(["aaaa", "bbbb", "cccc", "dd"])
    assert (list(kept.items), kept.total, kept.dropped) == (["bbbb", "cccc", "dd"], 10, 1)
    kept.extend(["x" * 11])
    assert (list(kept.items), kept.total, kept.dropped) == ([], 0, 5)
    assert kept


def test_a_task_that_prints_without_end_keeps_its_last_lines() -> None:
    kept = RunLogs()
    for i in range(1000):
        kept.add(1, [f"{i} {LINE}"])
    first, *rest = read(kept, 1)
    assert first == f"[{1000 - len(rest)} lines dropped]"
    assert rest[-1] == f"999 {LINE}"
    assert sum(map(sys.getsizeof, rest)) <= task_logs.MAX_TASK
    assert read(kept, 1) == [first, *rest]


def test_a_run_whose_tasks_all_print_is_bounded_as_a_whole() -> None:
    kept = RunLogs()
    for i in range(50):
        kept.add(0, [f"{i} {LINE}"])
    for task in range(1, 20_000):
        kept.add(task, [LINE] * 3)
    assert kept.total <= task_logs.MAX_RUN
    assert read(kept, 0) == ["[50 lines dropped]"]
    assert read(kept, 19_999) == [LINE] * 3
    kept.add(0, ["again"])
    assert read(kept, 0) == ["[50 lines dropped]", "again"]


def test_many_who_print_a_word_are_bounded_as_well() -> None:
    kept = RunLogs()
    for task in range(100_000):
        kept.add(task, ["a"])
    assert len(kept._kept) <= task_logs.MAX_RUN >> 10


def test_a_slow_reader_misses_the_oldest_and_is_told() -> None:
    kept = RunLogs()
    woken: list[int] = []
    reader = kept.follow(7, lambda: woken.append(1))
    for i in range(5000):
        kept.add(7, [f"{i} {LINE}"])
    assert len(woken) >= 5000
    first, *rest = reader.take()
    assert first == f"[{5000 - len(rest)} lines dropped]"
    assert rest[-1] == f"4999 {LINE}"
    assert sum(map(sys.getsizeof, rest)) <= task_logs.MAX_READER
    assert list(reader.take()) == []
    kept.unfollow(7, reader)
    assert not kept._readers


def test_lines_that_the_agent_dropped_are_counted_where_they_are_missing() -> None:
    kept = RunLogs()
    kept.add(0, ["a"])
    kept.add(0, ["b"], 5)
    assert read(kept, 0) == ["a", "[5 lines dropped]", "b"]
    kept.add(0, [LINE] * 1000)
    (first, *rest) = read(kept, 0)
    assert set(rest) == {LINE}
    assert first == f"[{7 + 1000 - len(rest)} lines dropped]"


def test_a_gap_beside_another_one_is_told_with_it() -> None:
    kept = RunLogs()
    kept.add(0, [], 2)
    kept.add(0, [], 1)
    assert read(kept, 0) == ["[3 lines dropped]"]
    kept.add(1, [], 1)
    assert read(kept, 1) == ["[1 line dropped]"]


async def test_a_slow_reader_of_events_misses_the_oldest_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "_MAX_EVENTS", 10)
    graph = Graph()
    for i in range(100):
        graph.add(work.identity, i)
    async with handout.start(graph, inventory=[Host.local("here", {"cpu": 1})]) as execution:
        events = execution.events()
        first = await anext(events)
        await execution.results()
        rest = [event async for event in events]
    before = 1
    if isinstance(first, EventsMissed):
        before += first.count
        assert rest.pop(0).at_s == first.at_s
    missed, *last = rest
    assert isinstance(missed, EventsMissed)
    assert missed.at_s >= first.at_s
    assert before + missed.count > 100
    assert len(last) == 10
    assert not any(isinstance(event, EventsMissed) for event in last)
    assert isinstance(rest[-1], RunEnded)
    assert isinstance(rest[-2], TaskEnded)


async def test_a_gap_is_told_before_the_event_that_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events may be dropped again while the reader handles the news of an earlier gap."""
    monkeypatch.setattr(event_streams, "_MAX_EVENTS", 2)
    graph = Graph()
    graph.add(work.identity, 1)
    async with handout.start(graph, inventory=[Host.local("here", {"cpu": 1})]) as execution:
        run = execution._active
        run.watchers.clear()
        events = execution.events()
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        (watch,) = run.watchers
        batches = [[HostLeft(float(i + 10 * batch), "far", "it was drained") for i in range(3)] for batch in range(2)]
        watch(batches[0])
        assert await first == EventsMissed(1.0, 1)
        watch(batches[1])
        told = [await anext(events) for _ in range(4)]
        assert told == [batches[0][1], EventsMissed(11.0, 2), *batches[1][1:]]
        await events.aclose()


@pytest.mark.parametrize("launcher", ["local", "ssh"])
async def test_output_comes_while_a_task_runs_and_after_its_process_was_killed(
    request: pytest.FixtureRequest, tmp_path: Path, launcher: str
) -> None:
    host = Host.local("one", {"cpu": 1})
    if launcher == "ssh":
        host = request.getfixturevalue("sshd").host("one", {"cpu": 1})
    graph = Graph()
    path = tmp_path / "pid"
    out = graph.add(work.say_and_stay, str(path), 3)
    async with Cluster([host]) as cluster, cluster.start(graph, on_failure="continue") as execution:
        heard: list[str] = []
        async with asyncio.timeout(HANG_S):
            async for line in execution.logs(out):
                heard.append(line)
                if len(heard) == 4:
                    # The task still runs, so these lines have arrived live.
                    assert sorted(heard) == ["line 0", "line 1", "line 2", "to stderr"]
                if len(heard) % 4 == 0:
                    os.kill(int(path.read_text()), signal.SIGKILL)
        results = await execution.results()
        assert len(heard) == 12  # four lines from each of the three attempts
        assert [line async for line in execution.logs(out)] == heard
    failure = results.failures[out.id]
    assert isinstance(failure.exception, handout.WorkerDiedError)
    assert list(failure.stderr_tail) == ["to stderr"]


async def test_a_terminal_obeys_nothing_that_a_task_prints_but_colours_if_asked() -> None:
    graph = Graph()
    out = graph.add(work.say_in_colours)
    async with Cluster([Host.local("one")]) as cluster, cluster.start(graph) as execution:
        await execution.results()
        plain = [line async for line in execution.logs(out)]
        coloured = [line async for line in execution.logs(out, colours=True)]
    assert plain == ["\\x1b[31mred\\x1b[0m \\x1b[2J\\x1b]0;title\\x07"]
    assert coloured == ["\x1b[31mred\x1b[0m \\x1b[2J\\x1b]0;title\\x07"]
