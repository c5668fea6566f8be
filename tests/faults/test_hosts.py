"""Hosts that die, come back, die again and again, or are all lost. The tests use a real sshd and short timings."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import signal
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import handout
from handout import Cluster, Graph, Host, Timings
from handout.events import (
    HostLeft,
    HostQuarantined,
    HostUnavailable,
    RunEvent,
    TaskEnded,
    TaskHandedOver,
    TaskSpeculated,
    TaskStarted,
)
from handout.scheduler.state.hosts import HostRecord
from tests import work
from tests.patience import stretched
from tests.proxy import Proxy, start_proxy
from tests.seen import agent_pid, gone, started, until
from tests.sshd import OpenSsh

ONE = {"cpu": 1}
#: With the default lease, no host is lost while its agent lives, also on a busy machine. A killed agent is noticed at once.
QUICK = dataclasses.replace(Timings().scaled(0.1), host_timeout_s=15.0)
QUICKER = Timings().scaled(0.05)


def behind(server: OpenSsh, proxy: Proxy, name: str, capabilities: dict[str, Any]) -> Host:
    """Return a host of this server behind a proxy, which can break the connection."""
    known_hosts = server.folder / f"known_hosts_{proxy.port}"
    known_hosts.write_text((server.folder / "known_hosts").read_text().replace(f":{server.port} ", f":{proxy.port} "))
    return Host(
        name,
        address="127.0.0.1",
        port=proxy.port,
        username=server.username,
        capabilities=capabilities,
        ssh={**server.options, "known_hosts": str(known_hosts)},
    )


def kill_agent(cluster: Cluster, host: str) -> None:
    os.kill(agent_pid(started(cluster, host)), signal.SIGKILL)


async def kill_whenever_it_is_back(cluster: Cluster, host: str, times: int) -> None:
    for _ in range(times):
        await until(lambda: host in cluster._runtime.driver.agents)
        peer = cluster._runtime.driver.agents[host]
        kill_agent(cluster, host)
        await until(lambda peer=peer: cluster._runtime.driver.agents.get(host) is not peer)


@asynccontextmanager
async def watching(execution: handout.Execution) -> AsyncIterator[list[RunEvent]]:
    """Yield a list to which all events of a run are appended as they come."""
    seen: list[RunEvent] = []

    async def watch() -> None:
        async for event in execution.events():
            seen.append(event)

    task = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait({task})


def of(kind: type[RunEvent], seen: list[RunEvent]) -> list[Any]:
    return [event for event in seen if isinstance(event, kind)]


async def test_row_01_what_ran_under_a_killed_agent_runs_elsewhere_within_a_second(
    sshd: OpenSsh, tmp_path: Path
) -> None:
    graph = Graph()
    out = graph.add(work.wait_for_file, str(tmp_path / "go"))
    async with Cluster([sshd.host("a", ONE), sshd.host("b", ONE)], require="all") as cluster:
        async with cluster.start(graph) as execution, watching(execution) as seen:
            await until(lambda: of(TaskStarted, seen))
            victim = of(TaskStarted, seen)[0].host
            kill_agent(cluster, victim)
            killed_at = time.monotonic()
            await until(lambda: any(event.attempt == 2 for event in of(TaskHandedOver, seen)))
            assert time.monotonic() - killed_at < stretched(1.0)
            (tmp_path / "go").touch()
            results = await execution.results()
    assert results[out]
    assert results.allocations[out] != victim


def host_records() -> list[HostRecord]:
    """Return the records of hosts that cores of this process have."""
    return [each for each in gc.get_objects() if type(each) is HostRecord]


async def test_nothing_of_a_lost_agent_is_left_in_the_controller(sshd: OpenSsh) -> None:
    """A service runs for weeks, and its hosts are lost and come back all the time."""
    timings = dataclasses.replace(QUICK, unstable_s=0.001)  # no quarantine
    earlier = set(host_records())
    async with Cluster([sshd.host("a", ONE)], timings=timings) as cluster:
        seen = []
        for _ in range(2):
            assert await cluster.call(work.add, 1, 1) == 2
            peer = cluster._runtime.driver.agents["a"]
            seen += [weakref.ref(each) for each in (peer, peer.link, peer.conversation, peer.link._launcher)]
            del peer
            await kill_whenever_it_is_back(cluster, "a", 1)
        assert await cluster.call(work.add, 1, 1) == 2
        gc.collect()
        assert [each() for each in seen] == [None] * 8
        assert len([each for each in host_records() if each not in earlier]) == 1


async def test_row_01_a_host_whose_agent_is_killed_is_started_again_then_put_in_quarantine_then_used_again(
    sshd: OpenSsh,
) -> None:
    graph = Graph()
    out = graph.add(work.where, host="a")
    # Three logins must fit into these two times. Logins do not get faster, so the times are not scaled.
    timings = dataclasses.replace(QUICKER, host_timeout_s=15.0, unstable_s=60.0)
    async with Cluster([sshd.host("a", ONE), sshd.host("b", ONE)], require="all", timings=timings) as cluster:
        for _ in range(2):
            await kill_whenever_it_is_back(cluster, "a", 1)
            assert (await cluster.execute(graph))[out][0] == "a"
        await kill_whenever_it_is_back(cluster, "a", 1)
        await until(lambda: "a" in cluster.unavailable)
        error = cluster.unavailable["a"]
        assert isinstance(error, handout.errors.HostUnstableError)
        assert (error.host, error.losses, error.pause_s) == ("a", 3, QUICKER.quarantine_s)
        assert "lost again (3 times within 60 s)" in str(error)
        assert (await cluster.execute(graph))[out][0] == "a"
        assert not cluster.unavailable


@pytest.mark.parametrize("hopeless", [False, True])
async def test_row_34_what_only_hosts_in_quarantine_can_run_waits_for_its_end_unless_they_never_stay(
    hopeless: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hopeless:
        monkeypatch.setattr("handout.execution.membership.quarantine._LONGEST_QUARANTINE", 1)
    graph = Graph()
    out = graph.add(work.wait_for_file, str(tmp_path / "go"), id="waits")
    # The quarantine is longer than the time for which the controller waits for a lost host.
    timings = dataclasses.replace(QUICKER, host_timeout_s=2.0, quarantine_s=5.0)
    async with Cluster([Host.local("a", ONE)], timings=timings) as cluster:
        async with cluster.start(graph) as execution, watching(execution) as seen:
            await kill_whenever_it_is_back(cluster, "a", 3)
            if hopeless:
                with pytest.raises(handout.PlacementError, match="waits"):
                    await execution.results()
                return
            await until(lambda: of(HostQuarantined, seen))
            assert "a (in quarantine for 5 s" in execution.explain("waits").reason
            (tmp_path / "go").touch()
            assert (await execution.results())[out]
    assert not of(HostUnavailable, seen)


async def test_row_02_a_task_that_kills_its_worker_three_times_is_stopped_and_spends_no_more_hosts(
    sshd: OpenSsh,
) -> None:
    graph = Graph()
    bad = graph.add(work.crash, id="poison")
    good = graph.map(work.identity, range(20))
    hosts = [sshd.host(name, ONE) for name in ("a", "b", "c", "d")]
    async with Cluster(hosts, require="all") as cluster:
        async with cluster.start(graph, on_failure="continue") as execution, watching(execution) as seen:
            results = await execution.results()
            tries = [event.attempt for event in of(TaskHandedOver, seen) if event.id == "poison"]
        assert [host.state for host in cluster.view.hosts.values()] == ["ready"] * 4
    assert results[good] == list(range(20))
    error = results.failures["poison"].exception
    assert isinstance(error, handout.WorkerDiedError)
    assert error.signal == signal.SIGSEGV
    assert max(tries) == len(error.hosts) == 3
    del bad


@pytest.mark.parametrize("speculate", [True, False])
async def test_row_06_a_straggler_gets_a_second_attempt_and_the_first_to_finish_counts(
    sshd: OpenSsh, tmp_path: Path, speculate: bool
) -> None:
    graph = Graph()
    outs = [graph.add(work.nap, str(tmp_path), number, id=f"nap-{number}") for number in range(24)]
    first = tmp_path / "0-1"
    timings = dataclasses.replace(QUICK, host_timeout_s=5.0)
    async with Cluster(
        [sshd.host("a", {"cpu": 4}), sshd.host("b", {"cpu": 4})], require="all", timings=timings
    ) as cluster:
        agents = [started(cluster, name) for name in ("a", "b")]
        async with cluster.start(graph, speculate=speculate) as execution, watching(execution) as seen:
            await until(lambda: first.exists() and first.read_text())
            slow = int(first.read_text())
            os.kill(slow, signal.SIGSTOP)
            await until(lambda: len(of(TaskEnded, seen)) == 23)
            if not speculate:
                # This is longer than the lease. But the controller always hears the host, so the host is not lost.
                await asyncio.sleep(timings.host_timeout_s + timings.grace_s)
                assert not (tmp_path / "0-2").exists()
                os.kill(slow, signal.SIGCONT)
            results = await execution.results()
        assert results[outs] == list(range(24))
        told = of(TaskSpeculated, seen)
        assert len(told) == speculate
        if speculate:
            assert (told[0].id, told[0].attempt) == ("nap-0", 2)
            assert {told[0].host, told[0].beside} == {"a", "b"}
            assert told[0].running_s >= told[0].limit_s >= 0.6
            assert results.allocations["nap-0"] == told[0].host
            await until(lambda: gone(slow))
        assert not of(HostLeft, seen)
        assert [started(cluster, name) for name in ("a", "b")] == agents


async def test_row_33_a_lost_intermediate_is_made_again_from_the_nearest_that_is_left(
    sshd: OpenSsh, tmp_path: Path
) -> None:
    """In a chain of 50 tasks, the caller has the result of the 25th. The host that dies had the result of the last."""
    ran, go = tmp_path / "ran", tmp_path / "go"
    graph = Graph()
    chain = [graph.add(work.grow, str(ran), 0, b"x" * 100_000)]
    for number in range(1, 50):
        chain.append(graph.add(work.grow, str(ran), number, chain[-1]))
    middle, end = chain[24], chain[49]
    gate = graph.add(work.wait_for_file, str(go))
    length = graph.add(lambda data, _: len(data), end, gate)
    async with Cluster([sshd.host("a", ONE), sshd.host("b", ONE)], require="all", timings=QUICK) as cluster:
        async with cluster.start(graph, outputs=[middle, length]) as execution:
            async for _ in execution.ended([end]):
                assert len(await execution.result(middle)) == 100_025
            kill_agent(cluster, execution.explain(end).host)
            await until(lambda: len(ran.read_text().split()) == 75)
            go.touch()
            results = await execution.results()
    assert results[length] == 100_050
    assert Counter(map(int, ran.read_text().split())) == {n: 1 if n < 25 else 2 for n in range(50)}


async def test_row_34_when_all_hosts_are_gone_the_run_ends_in_time_by_name_and_keeps_what_it_has(
    sshd: OpenSsh, tmp_path: Path
) -> None:
    graph = Graph()
    done = graph.add(work.identity, 7, id="done")
    graph.add(work.sleep_forever, str(tmp_path / "pid"), cost={"memory": "3 GB"}, id="stuck")
    async with start_proxy(sshd.port) as first, start_proxy(sshd.port) as second:
        offer = {"cpu": 1, "memory": "4 GB"}
        hosts = [behind(sshd, first, "a", offer), behind(sshd, second, "b", offer)]
        async with Cluster(hosts, require="all", timings=QUICKER) as cluster:
            async with cluster.start(graph) as execution:
                assert await execution.result(done) == 7
                await until((tmp_path / "pid").exists)
                for line in (first, second):
                    line.refuse()
                    line.cut()
                limit_s = 4 * QUICKER.host_timeout_s + 2 * QUICKER.grace_s + 2.0
                with pytest.raises(handout.PlacementError, match="stuck") as caught:
                    async with asyncio.timeout(stretched(limit_s)):
                        await execution.results()
                assert await execution.result(done) == 7
    told = str(caught.value)
    for part in ("'stuck'", "host 'a' was lost", "host 'b' was lost", "Host 'a' (127.0.0.1", "Host 'b' (127.0.0.1"):
        assert part in told, told


async def test_row_35_a_host_that_keeps_dying_is_left_alone_for_longer_each_time(sshd: OpenSsh) -> None:
    graph = Graph()
    for _ in range(800):
        graph.add(work.sleep, 0.1)
    # Three losses must fall within `unstable_s`. A scaled value is too short on a busy machine, because logins do not
    # get faster. Only the host whose agent is killed may be lost.
    timings = dataclasses.replace(QUICKER, host_timeout_s=15.0, unstable_s=60.0)
    async with Cluster(
        [sshd.host("s1", {"cpu": 4}), sshd.host("flapping", ONE)], require="all", timings=timings
    ) as cluster:
        async with cluster.start(graph) as execution, watching(execution) as seen:
            await kill_whenever_it_is_back(cluster, "flapping", 4)
            await until(lambda: len(of(HostQuarantined, seen)) == 2)
            assert [event.pause_s for event in of(HostQuarantined, seen)] == [0.5, 1.0]
            assert all(event.outcome == "done" for event in of(TaskEnded, seen))
