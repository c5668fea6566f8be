"""What a run tells its journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handout import Graph
from handout.execution.failure import from_report
from handout.execution.recording import Recorder
from handout.journal import Journal
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
    recorder._journal.start([(identity, "once", "far", 1)], lambda error: None)
    recorder.failed(from_report("once", "far", 1, report, b""), 0, 1)
    await recorder.close(10)
    journal = Journal(tmp_path / "run.db")
    assert journal.started([identity]) == ({identity: ("far", 1)} if open_ else {})
    journal.close()
