"""Fault row 26: the caller cancels a run at each `await` at which the run waits, and again while the run is ending.

A place is the stack of source lines at which an asyncio task waits; see `tests.awaits.Site`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import handout
import handout.journal
from handout import Cluster, Graph, Host
from handout.execution.recording import recorder
from tests import work
from tests.awaits import Site, watch_awaits
from tests.ledger import Place
from tests.patience import HANG_S, stretched
from tests.seen import gone, until
from tests.sshd import need_sshd, start_sshd

ROOT = Path(__file__).parent.parent.parent
#: Seconds within which a cancelled run must return: 5 s are the promise, and 1 s is for the test itself.
LIMIT_S = 5.0 + 1.0
#: Number of tries at each place. If an agent does not end in time, the controller logs `LEFT`, and the lease ends the
#: agent later. On a very busy machine this may happen, but not in every try at one place.
TRIES = 3
LEFT = "did not confirm its end. It will end when its lease is over"
#: In a sweep, up to this number of places may not come up again in a later run. Runs differ in which host is ready
#: first, and in what the other host is doing at that time.
UNMET = 4


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, place: Place) -> Iterator[Path]:
    """Make a folder in which the hosts on this machine keep their folders."""
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setenv("HANDOUT_TMPDIR", short)
        place.watch(Path(short))  # the ledger finds stores and control groups by the names of the folders in here
        yield Path(short)


@pytest.fixture
def hosts(folder: Path) -> Sequence[Host]:
    """Return two hosts on this machine."""
    return [Host.local("a", {"cpu": 1}), Host.local("b", {"cpu": 1})]


@pytest.fixture
def far_host(folder: Path, tmp_path: Path) -> Iterator[Host]:
    """Yield a host behind an sshd. The host also keeps its folder in `folder`."""
    need_sshd()
    with start_sshd(tmp_path, [f"SetEnv HANDOUT_TMPDIR={folder}"]) as server:
        yield server.host("a", {"cpu": 1})


@dataclass
class Met:
    """The places at which one run waited, and how the run ended.

    Args:
        early: The places before the run was cancelled, in order. The values mean nothing.
        late: The places after the run was cancelled.
        in_time: True if the run's agents had ended when the run returned.
    """

    early: dict[Site, None] = field(default_factory=dict)
    late: dict[Site, None] = field(default_factory=dict)
    in_time: bool = False


@dataclass
class Watched:
    """Cancels runs at chosen places, and checks that nothing is left of them.

    Args:
        run: Returns a coroutine that carries out one run.
        folder: The folder in which the hosts keep their folders.
        caplog: The log of the runs.
        stays: True if the hosts stay connected after a run.
        unheard: Errors that asyncio reported, such as exceptions of tasks that were never retrieved.
    """

    run: Callable[[], Coroutine[Any, Any, object]]
    folder: Path
    caplog: pytest.LogCaptureFixture
    stays: bool = False
    unheard: list[str] = field(default_factory=list)

    async def once(self, at: Site | None = None, again_at: Site | None = None, *, on: bool = False) -> Met:
        """Start a run, and cancel it when it waits at `at`, or when its tasks run, whichever comes first.

        If an agent does not end in time, try again, up to `TRIES` times.

        Args:
            at: The place of the first cancellation. None: no place.
            again_at: The place of a second cancellation. None: no place.
            on: True to cancel the run again at every place at which it waits after the first cancellation.
        """
        for _ in range(TRIES):
            met = await self._once(at, again_at, on)
            if met.in_time:
                return met
        raise AssertionError(f"An agent did not end in time, {TRIES} times in a row. {_where(at, again_at, on)}")

    async def _once(self, at: Site | None, again_at: Site | None, on: bool) -> Met:
        loop = asyncio.get_running_loop()
        self.caplog.clear()
        for path in self.folder.glob("pid*"):
            path.unlink()
        tasks, descriptors = len(asyncio.all_tasks()), _descriptors()
        met, cancelled_at, accepted = Met(), 0.0, False

        def cancel() -> None:
            nonlocal cancelled_at, accepted
            accepted = running.cancel() or accepted  # `cancel` returns False if the run ended in this turn of the loop
            cancelled_at = cancelled_at or time.monotonic()

        def seen(site: Site) -> None:
            sites = met.late if cancelled_at else met.early
            if site not in sites:
                sites[site] = None
                if site == again_at or on if cancelled_at else site == at:
                    loop.call_soon(cancel)

        loop.set_exception_handler(lambda _, context: self.unheard.append(str(context)))
        try:
            with watch_awaits(seen):
                running = asyncio.ensure_future(self.run())
                while not running.done():
                    await asyncio.wait({running}, timeout=LIMIT_S if cancelled_at else 0.005)
                    late = cancelled_at and time.monotonic() - cancelled_at > LIMIT_S
                    assert not late or time.monotonic() - cancelled_at < stretched(LIMIT_S), "a cancelled run goes on"
                    if not cancelled_at and self._tasks_run():
                        cancel()
            assert running.cancelled() == accepted, "a run must end as cancelled if, and only if, it was cancelled"
            if not accepted:
                running.result()
            met.in_time = await self._look(tasks, descriptors)
        except Exception as error:
            error.add_note(_where(at, again_at, on))
            raise
        finally:
            loop.set_exception_handler(None)
        return met

    def _tasks_run(self) -> bool:
        path = self.folder / "pid"
        return path.exists() and path.read_text() != ""

    async def _look(self, tasks: int, descriptors: int) -> bool:
        """Check that nothing is left of the run. Return True if its agents had ended in time."""
        warnings = [each.getMessage() for each in self.caplog.records if each.levelno >= logging.WARNING]
        in_time = not any(LEFT in warning for warning in warnings)
        if not in_time:
            for pid in _processes(self.folder):
                os.kill(pid, signal.SIGTERM)
            await until(lambda: not _processes(self.folder))
        assert [warning for warning in warnings if LEFT not in warning] == []
        assert self.unheard == []
        for path in self.folder.glob("pid*"):
            assert not path.read_text() or gone(int(path.read_text()))
        assert len(asyncio.all_tasks()) == tasks, asyncio.all_tasks()
        # A thread of asyncssh may still be reading keys. A run that gives up a connection does not wait for the thread.
        await until(lambda: _descriptors() == descriptors, stretched(2.0))
        if not self.stays:
            assert [path.name for path in self.folder.glob("handout-*")] == []
            assert all(thread.name != "handout loop monitor" for thread in threading.enumerate())
            # A supervisor closes its connection, which ends the run, a moment before the supervisor exits.
            await until(lambda: not _processes(self.folder), stretched(5.0))
        return in_time

    async def sweep(self, sites: Iterable[Site], *, again: bool = False, on: bool = False, of: str = "") -> set[Site]:
        """Cancel a new run at each place, and at each further place that these runs come to. Return all these places.

        Args:
            sites: The places to begin with.
            again: True to cancel each run first when its tasks run, and a second time at the place.
            on: See `once`.
            of: Leave out places whose stack has no line that begins with this text.
        """
        left, swept, unmet = list(sites), set[Site](), 0
        while left:
            site = left.pop(0)
            if site in swept or not any(line.startswith(of) for line in site):
                continue
            swept.add(site)
            met = await (self.once(again_at=site) if again else self.once(site, on=on))
            found = met.late if again else met.early
            unmet += site not in found
            left += found
        assert unmet <= UNMET, f"{unmet} of {len(swept)} places were not met again"
        return swept


def _where(at: Site | None, again_at: Site | None, on: bool) -> str:
    return f"Cancelled at {_words(at)}, and again at {'every place' if on else _words(again_at)}."


def _words(site: Site | None) -> str:
    return "no chosen place" if site is None else " > ".join(site)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _processes(folder: Path) -> list[int]:
    """Return the ids of all other processes whose environment names this folder as the place for hosts' folders."""
    mark = f"HANDOUT_TMPDIR={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def endless(folder: Path) -> Graph:
    """Return the graph of `finite` with one more task, which writes its process id to a file and never ends."""
    graph = finite()
    graph.add(work.sleep_forever, str(folder / "pid"))
    return graph


def finite() -> Graph:
    graph = Graph()
    graph.add(work.add, graph.add(work.add, 1, 2), 3)
    return graph


async def journaled(graph: Graph, hosts: Sequence[Host], path: Path) -> None:
    """Run a graph with a journal. Afterwards, check that the journal can be read and opened again."""
    path.unlink(missing_ok=True)
    try:
        await handout.execute(graph, inventory=hosts, journal=path)
    finally:
        if path.exists():
            handout.journal.read(path)
            handout.journal.Journal(path).close()


async def test_row_26_cancelled_at_every_await_nothing_is_left(
    folder: Path, hosts: Sequence[Host], caplog: pytest.LogCaptureFixture
) -> None:
    """The first sweep cancels runs before their tasks have ended. The second sweep cancels runs after that."""
    path = folder / "run.db"
    beginning = Watched(lambda: journaled(endless(folder), hosts, path), folder, caplog)
    swept = await beginning.sweep((await beginning.once()).early)
    ending = Watched(lambda: journaled(finite(), hosts[:1], path), folder, caplog)
    met = await ending.once()
    swept |= await ending.sweep(site for site in met.early if site not in swept)
    gc.collect()  # asyncio reports an exception that was never retrieved only when its task is collected
    assert beginning.unheard + ending.unheard == []
    assert len(swept) > 25


async def test_row_26_cancelled_again_at_every_await_of_the_end_nothing_is_left(
    folder: Path, hosts: Sequence[Host], caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(lambda: journaled(endless(folder), hosts[:1], folder / "run.db"), folder, caplog)
    swept = await watched.sweep((await watched.once()).late, again=True)
    gc.collect()
    assert watched.unheard == []
    assert len(swept) > 10


async def test_row_26_cancelled_again_and_again_from_every_await_on_nothing_is_left(
    folder: Path, hosts: Sequence[Host], caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(lambda: handout.execute(endless(folder), inventory=hosts), folder, caplog)
    swept = await watched.sweep((await watched.once()).early, on=True)
    gc.collect()
    assert watched.unheard == []
    assert len(swept) > 8


async def test_row_26_cancelled_at_every_await_of_ssh_nothing_is_left(
    folder: Path, far_host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """The sweeps cancel only at places in the SSH launcher and its login. A run with local hosts has no such places."""
    beginning = Watched(lambda: handout.execute(endless(folder), inventory=[far_host]), folder, caplog)
    met = await beginning.once()
    swept = await beginning.sweep(met.early, of="transport/ssh_")
    again = await beginning.sweep(met.late, again=True, of="transport/ssh_")
    ending = Watched(lambda: handout.execute(finite(), inventory=[far_host]), folder, caplog)
    met = await ending.once()
    swept |= await ending.sweep((site for site in met.early if site not in swept), of="transport/ssh_")
    gc.collect()
    assert beginning.unheard + ending.unheard == []
    assert len(swept | again) > 8


async def test_row_26_cancelled_at_every_await_of_a_run_on_an_open_cluster_only_that_is_gone(
    folder: Path, hosts: Sequence[Host], caplog: pytest.LogCaptureFixture
) -> None:
    async with Cluster(hosts, require="all") as cluster:

        async def run() -> None:
            async with cluster.start(endless(folder)) as execution:
                await execution.results()

        await cluster.execute(finite())  # when this ends, the background work of opening the cluster has ended too
        watched = Watched(run, folder, caplog, stays=True)
        met = await watched.once()
        swept = await watched.sweep(met.early) | await watched.sweep(met.late, again=True)
        await cluster.execute(finite())
        gc.collect()
        assert watched.unheard == []
        assert len(swept) > 2
    assert not list(folder.glob("handout-*"))


class SlowDisk:
    """A disk on which a journal is opened and closed only when the test allows it."""

    def __init__(self) -> None:
        self.begun, self.opens, self.closes, self.closed = (threading.Event() for _ in range(4))

    def open(self, path: str) -> handout.journal.Journal:
        disk = self

        class Slow(handout.journal.Journal):
            def close(self) -> None:
                disk.closes.wait(60)
                super().close()
                disk.closed.set()

        self.begun.set()
        self.opens.wait(60)
        return Slow(path)


async def test_row_26_cancelled_while_the_disk_of_the_journal_does_not_answer_the_await_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SlowDisk()
    disk.closes.set()
    monkeypatch.setattr(recorder, "Journal", disk.open)
    monkeypatch.setattr(recorder, "_CALL_OFF_S", 0.2)
    tasks, descriptors = len(asyncio.all_tasks()), _descriptors()
    path = tmp_path / "run.db"
    running = asyncio.ensure_future(handout.execute(finite(), inventory=[Host.local("a")], journal=path))
    await until(disk.begun.is_set)
    cancelled_at = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - cancelled_at < stretched(LIMIT_S)
    assert f"The journal {path} is still being opened" in caplog.text
    disk.opens.set()
    await until(disk.closed.is_set)
    await until(lambda: len(asyncio.all_tasks()) == tasks)
    await until(lambda: _descriptors() == descriptors)
    handout.journal.Journal(path).close()


@pytest.mark.parametrize("how", ["cancelled", "left to the end of the loop"])
def test_row_26_a_journal_that_is_never_opened_does_not_keep_the_program_from_ending(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-m", "tests.faults.hanging_journal", str(tmp_path / "run.db"), how]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert ended.stdout == "ended\n", ended.stderr
    assert "InvalidStateError" not in ended.stderr
    assert ended.returncode == 0


async def test_a_journal_that_is_slow_to_open_and_slower_to_close_is_waited_for_within_one_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SlowDisk()
    monkeypatch.setattr(recorder, "Journal", disk.open)
    monkeypatch.setattr(recorder, "_CALL_OFF_S", 1.5)
    path = tmp_path / "run.db"
    opening = asyncio.ensure_future(recorder.Recorder.open(path, finite().compile()))
    await until(disk.begun.is_set)
    cancelled_at = time.monotonic()
    opening.cancel()
    await asyncio.sleep(1.2)
    disk.opens.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert time.monotonic() - cancelled_at < stretched(2.4)
    assert f"The journal {path} is still being written" in caplog.text
    disk.closes.set()
    await until(lambda: not any(thread.name == "handout-journal-opener" for thread in threading.enumerate()))
    handout.journal.Journal(path).close()
