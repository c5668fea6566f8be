"""A controller is killed while its agents work. The next controller finds these agents and takes them over."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import handout
from handout import Graph, Timings
from handout.errors import OutcomeUnknownError
from handout.execution.cluster_runtime import ClusterRuntime
from handout.journal import read
from tests.awaits import Site, watch_awaits
from tests.journal import tasks
from tests.patience import HANG_S
from tests.sshd import OpenSsh

pytestmark = pytest.mark.usefixtures("ledger_of_loop")

ROOT = Path(__file__).parent.parent.parent
#: The default times divided by ten, except the lease and ``linger_s``, which are six minutes each.
LONG = Timings(host_timeout_s=3600, linger_s=3600).scaled(0.1)

PROGRAM = """
import asyncio, pathlib, sys
import handout
from handout import Inventory
from tests.journal.test_reattach import LONG, build

folder = pathlib.Path(sys.argv[1])
inventory = Inventory.load(sys.argv[2])
asyncio.run(handout.execute(build(folder), inventory=inventory, journal=folder / "run.db", timings=LONG))
"""


def build(folder: Path) -> Graph:
    """Return a graph of two tasks that wait for files, a task with a large result, and a task that takes all three.

    One of the waiting tasks, ``once``, must not run twice.
    """
    graph = Graph()
    first = graph.add(tasks.gated, str(folder), "first", id="first")
    once = graph.add(tasks.gated, str(folder), "once", id="once", idempotent=False)
    big = graph.add(tasks.big, str(folder), id="big")
    graph.add(tasks.gather, first, once, big, id="all")
    return graph


async def until(path: Path) -> None:
    async with asyncio.timeout(HANG_S):
        while not path.exists():
            await asyncio.sleep(0.005)


@pytest.fixture
def inventory(sshd: OpenSsh) -> Path:
    return sshd.inventory_file({"here": "{ cpu = 3 }"})


async def start_and_kill(folder: Path, inventory: Path) -> None:
    """Run the program until the tasks ``first``, ``once`` and ``big`` have begun, and kill it."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(inventory)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        for name in ("first.began", "once.began", "big.began"):
            await until(folder / name)
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()


def began(folder: Path, name: str) -> int:
    return (folder / f"{name}.began").read_text().count("began")


async def test_what_ran_when_the_controller_was_killed_goes_on_and_runs_once(tmp_path: Path, inventory: Path) -> None:
    await start_and_kill(tmp_path, inventory)
    (tmp_path / "first.go").touch()  # so the task ends while no controller runs
    wrong = build(tmp_path)
    wrong.add(tasks.gated, threading.Lock(), "wrong")
    # The error is raised before the controller asks any host, so the journal still knows the agents.
    with pytest.raises(handout.UnserializableError):
        await handout.execute(
            wrong, inventory=handout.Inventory.load(inventory), journal=tmp_path / "run.db", timings=LONG
        )
    resumed = handout.start(
        build(tmp_path), inventory=handout.Inventory.load(inventory), journal=tmp_path / "run.db", timings=LONG
    )
    async with resumed as execution:
        (tmp_path / "once.go").touch()
        async with asyncio.timeout(HANG_S):
            results = await execution.results()
    assert results["all"] == ["first", "once", 300_000]
    assert [began(tmp_path, name) for name in ("first", "once", "big")] == [1, 1, 1]
    story = read(tmp_path / "run.db")
    assert story.attempts == []
    assert [run.outcome for run in story.runs] == [None, "done"]


async def test_a_changed_graph_ends_what_ran_and_runs_anew(tmp_path: Path, inventory: Path) -> None:
    await start_and_kill(tmp_path, inventory)
    pid = int((tmp_path / "first.began").read_text().split()[1])
    graph = Graph()
    out = graph.add(tasks.big, str(tmp_path), id="big")
    other = graph.add(tasks.gated, str(tmp_path), "other", id="other")
    (tmp_path / "other.go").touch()
    results = await handout.execute(
        graph,
        inventory=handout.Inventory.load(inventory),
        journal=tmp_path / "run.db",
        timings=LONG,
        outputs=[out, other],
    )
    assert results["other"] == "other"
    assert not Path(f"/proc/{pid}").exists()


def supervisor_of(folder: Path) -> int:
    pid = int((folder / "first.began").read_text().split()[1])
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("where", ["SshLogin._connect", "shake_hands"])
async def test_a_call_that_is_cancelled_while_it_takes_over_an_agent_ends_it(
    tmp_path: Path, inventory: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    await start_and_kill(tmp_path, inventory)
    reached: list[Site] = []

    def cancel_there(site: Site) -> None:
        inner = [line for line in site if not line.startswith(("asyncio/", "asyncssh/"))]
        if any("HostManager._take_over" in line for line in site) and inner[-1].endswith(where) and not reached:
            reached.append(site)
            running.cancel()

    with watch_awaits(cancel_there):
        running = asyncio.ensure_future(
            handout.execute(
                build(tmp_path), inventory=handout.Inventory.load(inventory), journal=tmp_path / "run.db", timings=LONG
            )
        )
        async with asyncio.timeout(HANG_S):
            with pytest.raises(asyncio.CancelledError):
                await running
    assert reached
    assert "did not confirm" not in caplog.text


async def test_an_agent_that_is_lost_before_the_run_is_there_has_nothing_any_more(
    tmp_path: Path, inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent answers the controller, is killed, and is replaced by a new agent before the run is submitted."""
    await start_and_kill(tmp_path, inventory)
    supervisor = supervisor_of(tmp_path)
    waited = ClusterRuntime.wait_until_adopted

    async def until_another_one_is_there(cluster: ClusterRuntime) -> None:
        await waited(cluster)
        peers = cluster.driver.agents
        lost = peers["here"]
        os.kill(supervisor, signal.SIGKILL)
        async with asyncio.timeout(HANG_S):
            while peers.get("here") in (lost, None):
                await asyncio.sleep(0.005)

    monkeypatch.setattr(ClusterRuntime, "wait_until_adopted", until_another_one_is_there)
    for name in ("first.go", "once.go"):
        (tmp_path / name).touch()
    async with asyncio.timeout(HANG_S):
        results = await handout.execute(
            build(tmp_path),
            inventory=handout.Inventory.load(inventory),
            journal=tmp_path / "run.db",
            timings=LONG,
            on_failure="continue",
        )
    assert {id: failure.kind for id, failure in results.failures.items()} == {"once": "host", "all": "skipped"}
    assert isinstance(results.failures["once"].exception, OutcomeUnknownError)
    assert began(tmp_path, "once") == 1


async def test_an_agent_that_is_gone_is_replaced(tmp_path: Path, inventory: Path) -> None:
    await start_and_kill(tmp_path, inventory)
    os.kill(supervisor_of(tmp_path), signal.SIGKILL)
    for name in ("first.go", "once.go"):
        (tmp_path / name).touch()
    with pytest.raises(OutcomeUnknownError, match="'once'"):
        async with asyncio.timeout(HANG_S):
            await handout.execute(
                build(tmp_path),
                inventory=handout.Inventory.load(inventory),
                journal=tmp_path / "run.db",
                timings=LONG,
            )
    assert began(tmp_path, "once") == 1
