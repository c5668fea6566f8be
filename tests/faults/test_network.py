"""Faults of the connection between a controller and a host, as the caller sees them.

The rows are those of the table in docs/reliability.md. The timings are a tenth of the defaults: a silent host is
suspected after 0.6 s, its lease ends after 1.5 s, and its tasks run elsewhere 0.3 s later.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import handout
from handout import Cluster, Graph, Timings
from handout.events import RunEvent
from handout.scheduler.events import Event, HostLost, HostSuspected
from tests.faults.far import Far
from tests.faults.work import end_when_told, stay_at
from tests.patience import stretched
from tests.seen import gone, started, until
from tests.sshd import OpenSsh

#: On a busy machine, a host may be silent for longer than a tenth of the default lease.
QUICK = replace(Timings().scaled(0.1), host_timeout_s=3.0)


def runs(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


async def ended_once(execution: Any, id: str) -> list[str]:
    """Return the outcomes of a task in the events of its run."""
    return [e.outcome async for e in execution.events() if isinstance(e, handout.events.TaskEnded) and e.id == id]


async def told(execution: Any, kind: type[RunEvent]) -> list[RunEvent]:
    """Return all events of one kind that a run sends."""
    return [event async for event in execution.events() if isinstance(event, kind)]


def note_posts(cluster: Cluster) -> list[object]:
    """Return a list to which every event for the core is appended from now on."""
    posted: list[object] = []
    post = cluster._runtime.driver.post

    def note(*events: Event) -> None:
        posted.extend(events)
        post(*events)

    cluster._runtime.driver.post = note  # type: ignore[method-assign]
    return posted


async def far_first(frontier: Any, view: Any) -> dict[str, str]:
    """Place all tasks on the far host while it is ready, otherwise on the near host."""
    return {task.id: "far" if view.hosts["far"].state == "ready" else "near" for task in frontier}


async def test_row_04_a_black_hole_is_suspected_then_lost_and_its_tasks_run_elsewhere(
    far: Far, sshd: OpenSsh, tmp_path: Path
) -> None:
    graph = Graph()
    stuck = graph.add(stay_at, "far", str(tmp_path), id="stuck")
    late = graph.add(end_when_told, str(tmp_path), "late", id="late")
    hosts = [far.host(cpu=2), sshd.host("near", {"cpu": 2})]
    async with Cluster(hosts, allocator=far_first, require="all", timings=QUICK) as cluster:
        agent = started(cluster, "far")
        async with cluster.start(graph) as execution:
            outcomes = asyncio.ensure_future(ended_once(execution, "late"))
            await until(lambda: (tmp_path / "far").exists() and runs(tmp_path / "late"))
            far.line.drop()
            dark = time.monotonic()
            (tmp_path / "go").touch()
            await until(lambda: cluster._runtime.driver.core.world.fleet.by_name["far"].suspected)
            assert time.monotonic() - dark < stretched(1.2)
            victim = int((tmp_path / "far").read_text())
            assert not gone(victim)  # the host is suspected, but not lost
            assert runs(tmp_path / "late.ended") == ["far"]
            await until(lambda: gone(victim))
            killed = time.monotonic() - dark
            assert runs(tmp_path / "runs") == ["far"]  # its attempt on the far host ended before another one began
            results = await execution.results()
            moved = time.monotonic() - dark
            assert not far.user_code(agent)
            far.line.heal()  # the far host now reports a task that ended within the lease, but the report is too late
            await until(lambda: "far" in cluster._runtime.driver.agents)
        assert await outcomes == ["done"]
    assert results[stuck] == results[late] == "near"
    assert runs(tmp_path / "runs") == runs(tmp_path / "late") == ["far", "near"]
    assert 1.0 < killed < moved < stretched(5.0)
    assert results.failures == {}


@pytest.mark.parametrize("way", ["drop", "arriving", "leaving"])
async def test_row_04_a_blackout_of_a_third_of_the_lease_repeats_nothing(
    far: Far, sshd: OpenSsh, tmp_path: Path, way: str
) -> None:
    """In the blackout, packets are dropped in both directions or in one of them."""
    graph = Graph()
    outs = graph.map(end_when_told, [str(tmp_path)] * 2, ["a", "b"])
    hosts = [far.host(cpu=2), sshd.host("near", {"cpu": 2})]
    async with Cluster(hosts, allocator=far_first, require="all", timings=QUICK) as cluster:
        async with cluster.start(graph) as execution:
            await until(lambda: runs(tmp_path / "a") and runs(tmp_path / "b"))
            break_line(far, way)
            await asyncio.sleep(QUICK.host_timeout_s / 3)  # the length of the fault
            mend_line(far)
            await asyncio.sleep(QUICK.host_timeout_s)  # the host is not lost later either
            (tmp_path / "go").touch()
            results = await execution.results()
    assert results[outs] == ["far", "far"]
    assert runs(tmp_path / "a") == runs(tmp_path / "b") == ["far"]


@pytest.mark.parametrize("way", ["arriving", "leaving"])
async def test_row_29_a_line_that_is_open_one_way_only_is_lost_and_neither_side_goes_on_alone(
    far: Far, sshd: OpenSsh, tmp_path: Path, way: str
) -> None:
    """TCP reports no error. Both sides let go, even the side that still hears the other one."""
    graph = Graph()
    out = graph.add(stay_at, "far", str(tmp_path))
    hosts = [far.host(), sshd.host("near", {"cpu": 1})]
    async with Cluster(hosts, allocator=far_first, require="all", timings=QUICK) as cluster:
        agent = started(cluster, "far")
        async with cluster.start(graph) as execution:
            await until(lambda: (tmp_path / "far").exists())
            break_line(far, way)
            assert (await execution.results())[out] == "near"
            assert not far.user_code(agent)
    assert runs(tmp_path / "runs") == ["far", "near"]


def break_line(far: Far, way: str) -> None:
    if way == "pull":
        far.line.pull()
    else:
        far.line.drop(arriving=way != "leaving", leaving=way != "arriving")


def mend_line(far: Far) -> None:
    far.line.plug()
    far.line.heal()


@pytest.mark.parametrize("blocked_s", [1.0, 3.0], ids=["shorter than the lease", "longer"])
async def test_row_28_a_blocked_loop_of_the_caller_is_named_and_no_host_is_blamed(
    sshd: OpenSsh, tmp_path: Path, caplog: pytest.LogCaptureFixture, blocked_s: float
) -> None:
    """A callback sleeps for 10 or 30 s, and the lease is 15 s. In this test, all times are a tenth of that."""

    def block() -> None:
        time.sleep(blocked_s)

    graph = Graph()
    outs = graph.map(end_when_told, [str(tmp_path)] * 2, ["a", "b"])
    hosts = [sshd.host("one", {"cpu": 1}), sshd.host("two", {"cpu": 1})]
    async with Cluster(hosts, require="all", timings=replace(QUICK, blocked_s=0.5)) as cluster:
        async with cluster.start(graph) as execution:
            left = asyncio.ensure_future(told(execution, handout.events.HostLeft))
            await until(lambda: runs(tmp_path / "a") and runs(tmp_path / "b"))
            posted = note_posts(cluster)
            asyncio.get_running_loop().call_soon(block)
            await asyncio.sleep(0)
            for _ in range(30):  # 1.5 s, the lease: a host that is blamed is lost by then
                await asyncio.sleep(0.05)
                assert len(cluster._runtime.driver.agents) == 2
            (tmp_path / "go").touch()
            results = await execution.results()
        assert await left == []
    assert sorted(results[outs]) == ["one", "two"]
    assert not [event for event in posted if isinstance(event, HostSuspected | HostLost)]
    times = [len(runs(tmp_path / name)) for name in "ab"]
    assert times == ([1, 1] if blocked_s < QUICK.host_timeout_s else [2, 2])
    (warning,) = [record for record in caplog.records if record.name == "handout"]
    assert f"{__file__}:{block.__code__.co_firstlineno + 1} (" in warning.getMessage()
    said_s = float(warning.getMessage().split("blocked for ")[1].split(" s ")[0])
    assert blocked_s - 0.2 < said_s < blocked_s + 1.0
