"""What a run records in its journal, and that it releases the journal even if no thread can be started."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from handout import Graph
from handout.errors import JournalError
from handout.execution.recording import recorder as recording
from handout.execution.recording.recorder import Recorder
from handout.failures import from_report
from handout.graph.plan import Plan
from handout.journal import AttemptStart, Journal
from tests import work


@pytest.mark.parametrize(
    ("report", "open_"),
    [
        ({"kind": "disk", "message": "full", "argument": True}, False),
        ({"kind": "disk", "message": "full"}, True),
        ({"kind": "cancelled", "elapsed_s": 0.0}, False),
        ({"kind": "cancelled", "elapsed_s": 0.1}, True),
    ],
)
async def test_a_start_is_called_off_where_the_function_was_not_called(
    tmp_path: Path, report: dict[str, Any], open_: bool
) -> None:
    graph = Graph()
    graph.add(work.identity, 1, id="once", idempotent=False)
    recorder = await Recorder.open(tmp_path / "run.db", graph.compile())
    identity = recorder._tasks[0]
    recorder._journal.record_starts([AttemptStart(identity, "once", "far", 1, 1)], lambda error: None)
    recorder.failed(from_report("once", "far", 1, report, b""), 0, 1)
    await recorder.close(10)
    journal = Journal(tmp_path / "run.db")
    assert journal.open_starts([identity]) == ({identity: ("far", 1, 1)} if open_ else {})
    journal.close()


class NoThreads:
    """Simulates a system that can start only `left` more threads."""

    def __init__(self, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = left
        start = threading.Thread.start

        def scarce(thread: threading.Thread) -> None:
            if self.left <= 0:
                raise RuntimeError("can't start new thread")
            self.left -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", scarce)

    def check_let_go(self, path: Path) -> None:
        """Check that the journal was released, by opening it again now that threads can be started."""
        self.left = 9
        Journal(path).close()


@pytest.fixture
def plan() -> Plan:
    graph = Graph()
    graph.add(work.identity, 1)
    return graph.compile()


@pytest.mark.parametrize("left", [1, 2])
async def test_a_journal_whose_opening_is_cancelled_is_let_go_where_no_thread_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan, left: int
) -> None:
    begun, opens = threading.Event(), threading.Event()

    def slow(path: str) -> Journal:
        begun.set()
        opens.wait(20)
        return Journal(path)

    monkeypatch.setattr(recording, "Journal", slow)
    threads = NoThreads(left, monkeypatch)
    opening = asyncio.ensure_future(Recorder.open(tmp_path / "run.db", plan))
    while not begun.is_set():
        await asyncio.sleep(0.01)
    opening.cancel()
    await asyncio.sleep(0)
    opens.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    threads.check_let_go(tmp_path / "run.db")


async def test_a_journal_is_closed_where_no_thread_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan
) -> None:
    threads = NoThreads(2, monkeypatch)
    recorder = await Recorder.open(tmp_path / "run.db", plan)
    await recorder.close(10)
    threads.check_let_go(tmp_path / "run.db")


async def test_a_journal_that_finds_no_thread_left_says_so_and_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan
) -> None:
    threads = NoThreads(1, monkeypatch)
    with pytest.raises(JournalError, match=r"run\.db' cannot be used: can't start new thread"):
        await Recorder.open(tmp_path / "run.db", plan)
    threads.check_let_go(tmp_path / "run.db")
