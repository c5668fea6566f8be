"""Fault row 26: the caller cancels, at whatever it is waiting for just then."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import handout
import handout.journal
from handout import Graph, Host
from tests import work


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the hosts of this machine keep their folders."""
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setenv("HANDOUT_TMPDIR", short)
        yield Path(short)


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 8, 16, 32, 64, 128, 512, 2048, 8192])
@pytest.mark.parametrize("journaled", [False, True])
async def test_row_26_cancelled_anywhere_nothing_is_left(folder: Path, steps: int, journaled: bool) -> None:
    graph = Graph()
    first = graph.add(work.add, 1, 2)
    graph.map(work.sleep_forever, [str(folder / f"pid-{n}") for n in range(2)])
    graph.add(work.add, first, 3)
    journal = {"journal": folder / "run.db"} if journaled else {}
    descriptors = len(os.listdir("/proc/self/fd"))
    inventory = [Host.local("a", {"cpu": 1}), Host.local("b", {"cpu": 2})]
    running = asyncio.ensure_future(handout.execute(graph, inventory=inventory, **journal))  # type: ignore[arg-type]
    for _ in range(steps):
        await asyncio.sleep(0)
    running.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [path for path in folder.iterdir() if path.name.startswith("handout-")] == []
    for path in folder.glob("pid-*"):
        assert not path.read_text() or not Path(f"/proc/{path.read_text()}").exists()
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    if journaled and (folder / "run.db").exists():
        handout.journal.read(folder / "run.db")
        handout.journal.Journal(folder / "run.db").close()
