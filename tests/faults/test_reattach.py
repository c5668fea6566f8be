"""The promises of the lease: within it, nothing is lost and nothing runs twice. After it, no user code runs on."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from handout import Cluster, Graph, Timings
from tests.faults.far import Far
from tests.faults.test_closing import through
from tests.faults.test_network import far_first, runs
from tests.faults.work import end_when_told, large, length_when_told, stay_at
from tests.proxy import start_proxy
from tests.seen import agent_pid, gone, started, until
from tests.sshd import OpenSsh

#: On a busy machine, a host may be silent for longer than a tenth of the default lease.
QUICK = replace(Timings().scaled(0.1), host_timeout_s=3.0)


async def test_a_link_that_drops_is_made_again_to_the_same_agent_which_kept_what_the_other_missed(
    sshd: OpenSsh, tmp_path: Path
) -> None:
    """While the connection is down, tasks end, and the controller hands over another task. All results arrive later."""
    graph = Graph()
    outs = graph.map(end_when_told, [str(tmp_path)] * 3, ["a", "b", "c"])
    async with start_proxy(sshd.port) as proxy:
        # The lease is long, because on a busy machine a new login may take longer than a short lease.
        async with Cluster([through(sshd, proxy, cpu=3)], timings=replace(QUICK, host_timeout_s=60.0)) as cluster:
            agent = started(cluster, "far")
            async with cluster.start(graph) as execution:
                await until(lambda: all(runs(tmp_path / name) for name in "abc"))
                proxy.refuse()
                proxy.cut()
                (tmp_path / "go").touch()
                await until(lambda: all(runs(tmp_path / f"{name}.ended") for name in "abc"))
                second = cluster.start(small_graph(tmp_path))
                async with second:
                    await proxy.listen()
                    assert (await second.results())["second"] == "far"
                assert (await execution.results())[outs] == ["far"] * 3
            assert started(cluster, "far") == agent
    assert [runs(tmp_path / name) for name in ("a", "b", "c", "second")] == [["far"]] * 4


def small_graph(folder: Path) -> Graph:
    graph = Graph()
    graph.add(end_when_told, str(folder), "second", id="second")
    return graph


async def test_past_the_lease_user_code_is_dead_and_past_the_lingering_agent_and_files_are_gone(
    far: Far, tmp_path: Path
) -> None:
    """Invariant R3 (no orphans), checked with all processes in the namespace of the host."""
    timings = replace(QUICK, linger_s=1.5)
    graph = Graph()
    graph.add(stay_at, "far", str(tmp_path), id="stuck")
    async with Cluster([far.host()], timings=timings) as cluster:
        agent = started(cluster, "far")
        store = [Path(link) for link in links(agent.supervisor) if link.startswith("/dev/shm/handout-")]
        async with cluster.start(graph) as execution:
            await until(lambda: (tmp_path / "far").exists())
            assert far.user_code(agent)
            far.line.drop()
            dark = time.monotonic()
            await until(lambda: not far.user_code(agent))
            killed = time.monotonic() - dark
            assert Path(agent.folder).exists()  # the agent lingers, with the results of finished tasks
            assert far.living()
            await until(lambda: not far.living())
            ended = time.monotonic() - dark
            assert not Path(agent.folder).exists()
            assert store
            assert not any(path.exists() for path in store)
            far.line.heal()
            await execution.cancel()
    assert timings.host_timeout_s * 0.6 < killed < timings.host_timeout_s + 1.5
    assert killed + 0.5 < ended < timings.host_timeout_s + timings.linger_s + 5.0


def links(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        found.append(os.readlink(entry))
    return found


async def test_finished_results_outlive_the_lease_and_are_fetched_not_made_again(far: Far, tmp_path: Path) -> None:
    """The caller's event loop is blocked until the host's lease has ended. Then the results are still on the host."""
    graph = Graph()
    made = graph.add(large, str(tmp_path), id="made")
    length = graph.add(length_when_told, str(tmp_path), made, id="length")
    async with Cluster([far.host()], timings=QUICK) as cluster:
        agent = started(cluster, "far")
        async with cluster.start(graph, outputs=[made, length]) as execution:
            async for each in execution.ended([made]):
                assert each.failure is None
            await until(lambda: runs(tmp_path / "length"))
            time.sleep(QUICK.host_timeout_s * 1.5)  # as if the caller's laptop were closed
            assert gone(int((tmp_path / "length.pid").read_text()))  # the lease ended while this task ran
            (tmp_path / "go").touch()
            results = await execution.results()
        assert started(cluster, "far") == agent
    assert results[length] == 1 << 20
    assert len(results[made]) == 1 << 20
    assert runs(tmp_path / "made") == ["far"]
    assert runs(tmp_path / "length") == ["far", "far"]


async def test_a_long_lease_lets_running_tasks_outlive_a_closed_laptop(far: Far, tmp_path: Path) -> None:
    """The lease is an hour, and the cut is twice as long as the default lease. Here all times are a tenth of that."""
    timings = replace(QUICK, host_timeout_s=360.0)  # a tenth of an hour
    graph = Graph()
    outs = graph.map(end_when_told, [str(tmp_path)] * 2, ["a", "b"])
    async with Cluster([far.host(cpu=2)], timings=timings) as cluster:
        agent = started(cluster, "far")
        async with cluster.start(graph) as execution:
            await until(lambda: runs(tmp_path / "a") and runs(tmp_path / "b"))
            far.line.pull()
            await asyncio.sleep(2 * QUICK.host_timeout_s)  # the length of the fault
            (tmp_path / "go").touch()
            await until(lambda: runs(tmp_path / "a.ended") and runs(tmp_path / "b.ended"))
            far.line.plug()
            results = await execution.results()
        assert started(cluster, "far") == agent
    assert results[outs] == ["far", "far"]
    assert runs(tmp_path / "a") == runs(tmp_path / "b") == ["far"]


async def test_row_07_an_agent_stopped_for_a_third_of_the_lease_survives(
    far: Far, sshd: OpenSsh, tmp_path: Path
) -> None:
    graph = Graph()
    out = graph.add(end_when_told, str(tmp_path), "a")
    async with Cluster(
        [far.host(), sshd.host("near", {"cpu": 1})], allocator=far_first, require="all", timings=QUICK
    ) as cluster:
        agent = started(cluster, "far")
        async with cluster.start(graph) as execution:
            await until(lambda: runs(tmp_path / "a"))
            pid = agent_pid(agent)
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.5)  # the length of the fault
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(1.0)
            (tmp_path / "go").touch()
            assert (await execution.results())[out] == "far"
        assert started(cluster, "far") == agent
    assert runs(tmp_path / "a") == ["far"]


async def test_row_07_an_agent_stopped_for_longer_than_its_lease_is_refused_and_ends(
    far: Far, sshd: OpenSsh, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="handout")
    timings = replace(QUICK, linger_s=1.0)
    graph = Graph()
    out = graph.add(stay_at, "far", str(tmp_path))
    async with Cluster(
        [far.host(), sshd.host("near", {"cpu": 1})], allocator=far_first, require="all", timings=timings
    ) as cluster:
        agent = started(cluster, "far")
        async with cluster.start(graph) as execution:
            await until(lambda: (tmp_path / "far").exists())
            victim, pid = int((tmp_path / "far").read_text()), agent_pid(agent)
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: gone(victim))  # its supervisor has killed it
            assert (await execution.results())[out] == "near"
            if not gone(pid):
                os.kill(pid, signal.SIGCONT)
            await until(lambda: gone(agent.supervisor) and gone(pid))
            assert not Path(agent.folder).exists()
            await until(lambda: "far" in cluster._runtime.driver.agents)
            assert started(cluster, "far") != agent  # a new agent
    assert runs(tmp_path / "runs") == ["far", "near"]
