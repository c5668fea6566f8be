"""Fault rows 5, 10, 11, 35 and 37: connections that break, come and go, or are refused. Row 9: clocks that differ."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from collections import Counter
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import asyncssh
import pytest

import handout
from handout import Cluster, Execution, Graph, Host, Timings
from handout.events import HostJoined, HostLeft, HostQuarantined, RunEvent, TaskEnded
from handout.transport import ssh_launcher, ssh_login
from tests import work
from tests.faults.far import Far
from tests.faults.test_closing import strand_when_made_again, through
from tests.faults.test_hosts import of, watching
from tests.faults.work import boottime, end_when_told, mark_here, nap_until_told
from tests.patience import HANG_S, stretched
from tests.proxy import start_proxy
from tests.seen import started, until
from tests.sshd import OpenSsh, need_sshd, start_sshd

#: On a busy machine, a host may be silent for longer than a tenth of the default lease.
QUICK = replace(Timings().scaled(0.1), host_timeout_s=3.0)
ROOT = Path(handout.__file__).parent


async def test_row_05_a_line_reset_anywhere_within_a_frame_loses_and_repeats_nothing(
    sshd: OpenSsh, tmp_path: Path
) -> None:
    """The frames of a task are a few hundred bytes in both directions. Each round cuts them at another position."""
    cuts = 0
    async with start_proxy(sshd.port) as proxy:
        async with Cluster([through(sshd, proxy, cpu=2)], timings=Timings().scaled(0.3)) as cluster:
            agent = started(cluster, "far")
            for position in (1, 30, 90, 170, 260, 380, 550):
                path, graph = tmp_path / f"ran-{position}", Graph()
                out = graph.add(work.mark_and_return, str(path), bytes([position % 256]) * 300)
                proxy.cut_after(position)
                results = await cluster.execute(graph)
                assert results[out] == bytes([position % 256]) * 300
                assert path.read_text() == "ran\n"
                cuts += not proxy.is_armed
            assert started(cluster, "far") == agent
    assert cuts >= 6


async def test_row_05_resets_of_both_ends_by_a_firewall_lose_nothing(far: Far, sshd: OpenSsh, tmp_path: Path) -> None:
    graph = Graph()
    outs = [graph.add(mark_here, str(tmp_path / "ran"), i, host="far") for i in range(40)]
    # Both sides notice a reset at once. The lease is long only because a login may take long on a busy machine.
    async with Cluster([far.host(cpu=2)], timings=replace(QUICK, host_timeout_s=60.0)) as cluster:
        agent = started(cluster, "far")
        async with cluster.start(graph) as execution:
            async for _ in execution.ended(outs[:5]):
                pass
            far.line.reset()
            await asyncio.sleep(0.3)  # the length of the fault
            far.line.heal()
            results = await execution.results()
        assert started(cluster, "far") == agent
    assert results[outs] == list(range(40))
    assert sorted(map(int, (tmp_path / "ran").read_text().split())) == list(range(40))


@pytest.mark.parametrize(("lease_s", "connect_s"), [(15.0, 40.0), (60.0, 3.0)], ids=["short lease", "long lease"])
async def test_a_line_that_is_stranded_while_it_is_made_again_is_made_once_more(
    sshd: OpenSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lease_s: float, connect_s: float
) -> None:
    """A router forgets the new connection as well, just after the login, and tells neither end."""
    monkeypatch.setattr(ssh_launcher, "_CONNECT_TIMEOUT_S", connect_s)
    monkeypatch.setattr(ssh_login, "CONNECT_TIMEOUT_S", connect_s)
    graph = Graph()
    out = graph.add(end_when_told, str(tmp_path), "task")
    async with start_proxy(sshd.port) as proxy:
        stranded = strand_when_made_again(proxy, monkeypatch)
        timings = replace(Timings().scaled(0.3), host_timeout_s=lease_s)
        async with Cluster([through(sshd, proxy)], timings=timings) as cluster:
            agent = started(cluster, "far")
            async with cluster.start(graph) as execution:
                await until((tmp_path / "task").exists)
                proxy.cut()
                await stranded.wait()
                (tmp_path / "go").touch()
                async with asyncio.timeout(HANG_S):
                    assert (await execution.results())[out] == "far"
            assert started(cluster, "far") == agent
    assert (tmp_path / "task").read_text() == "far\n"


async def test_a_line_that_loses_one_packet_in_twenty_is_slow_and_nothing_else(far: Far, tmp_path: Path) -> None:
    graph = Graph()
    outs = [graph.add(mark_here, str(tmp_path / "ran"), i) for i in range(40)]
    big = graph.add(work.blob, 1 << 20)
    far.line.lose(5)
    async with Cluster([far.host(cpu=2)]) as cluster:
        results = await cluster.execute(graph, outputs=[*outs, big])
    assert results[outs] == list(range(40))
    assert len(results[big]) == 1 << 20
    assert sorted(map(int, (tmp_path / "ran").read_text().split())) == list(range(40))


class Pace:
    """A run of naps on three hosts, and the rate of naps on the two hosts whose connections are good.

    A test breaks the connection of the third host, and checks that this rate stays. A nap needs no processor time, so
    the rate falls only if tasks are delayed.
    """

    def __init__(self, far: Far, sshd: OpenSsh, folder: Path) -> None:
        self.hosts = [sshd.host("s1", {"cpu": 4}), sshd.host("s2", {"cpu": 4}), far.host()]
        self.graph = Graph()
        self.outs = [self.graph.add(nap_until_told, str(folder), i) for i in range(1200)]
        self._folder = folder

    def naps(self, seen: list[RunEvent]) -> int:
        return len(self._times(seen))

    def rate(self, seen: list[RunEvent]) -> float:
        times = self._times(seen)
        return (len(times) - 1) / (times[-1] - times[0])

    async def steady(self, seen: list[RunEvent]) -> float:
        """Return the rate of a hundred naps, and forget all events so far.

        The rate leaves out the first twenty naps, during which workers start.
        """
        await until(lambda: self.naps(seen) >= 20)
        seen.clear()
        await until(lambda: self.naps(seen) >= 100)
        rate = self.rate(seen)
        seen.clear()
        return rate

    def _times(self, seen: list[RunEvent]) -> list[float]:
        return [event.at_s for event in of(TaskEnded, seen) if event.host in ("s1", "s2")]

    async def check(self, execution: Execution) -> None:
        """Let the other naps end at once. Check that every result is right.

        Also check that a nap ran exactly once if it never ran on the far host.
        """
        (self._folder / "over").touch()
        results = await execution.results()
        assert results[self.outs] == [-i for i in range(len(self.outs))]
        lines = [line.split() for line in (self._folder / "ran").read_text().splitlines()]
        runs = Counter(number for number, _ in lines)
        been_far = {number for number, host in lines if host == "far"}
        assert len(runs) == len(self.outs)
        assert [number for number in runs if runs[number] > 1 and number not in been_far] == []


async def test_row_35_a_line_that_comes_and_goes_takes_nothing_from_the_others(
    far: Far, sshd: OpenSsh, tmp_path: Path
) -> None:
    """The connection is down for 3 s and up for 3 s in turn, here a tenth of that.

    While the connection is down, packets are dropped or answered with a reset, in turn.
    """
    ways = cycle([far.line.drop, far.line.reset])
    pace = Pace(far, sshd, tmp_path)
    async with Cluster(pace.hosts, require="all", timings=QUICK) as cluster:
        async with cluster.start(pace.graph) as execution, watching(execution) as seen:
            steady = await pace.steady(seen)
            while pace.naps(seen) < 200:
                # These calls run in threads. Otherwise they would block the event loop, and lower the measured rate.
                await asyncio.to_thread(next(ways))
                await asyncio.sleep(0.3)
                await asyncio.to_thread(far.line.heal)
                await asyncio.sleep(0.3)
            assert pace.rate(seen) > 0.9 * steady
            await pace.check(execution)


async def test_row_35_a_line_away_for_longer_than_the_lease_each_time_is_left_alone_for_longer_each_time(
    far: Far, sshd: OpenSsh, tmp_path: Path
) -> None:
    pace = Pace(far, sshd, tmp_path)
    # Three losses must fall within `unstable_s`. A scaled value may be too short, because logins do not get faster.
    timings = replace(QUICK, unstable_s=60.0)
    async with Cluster(pace.hosts, require="all", timings=timings) as cluster:
        async with cluster.start(pace.graph) as execution, watching(execution) as seen:
            steady = await pace.steady(seen)
            for times in range(1, 5):
                await asyncio.to_thread(far.line.drop)
                await until(lambda times=times: len(of(HostLeft, seen)) == times)
                await asyncio.to_thread(far.line.heal)
                if times < 4:
                    await until(lambda times=times: len(of(HostJoined, seen)) == times)
            assert pace.rate(seen) > 0.9 * steady
            await pace.check(execution)
    pauses = [event.pause_s for event in of(HostQuarantined, seen)]
    assert pauses == [timings.quarantine_s * factor for factor in (1, 2)]
    assert {event.host for event in of(HostLeft, seen)} == {"far"}


async def test_row_37_logins_beyond_maxstartups_wait_their_turn(tmp_path: Path) -> None:
    need_sshd()
    with start_sshd(tmp_path, ["MaxStartups 2", "MaxSessions 1"]) as server:
        hosts = [server.host(f"h{i}", {"cpu": 1}) for i in range(6)]
        graph = Graph()
        outs = [graph.add(work.where, host=host.name) for host in hosts]
        results = await handout.execute(graph, inventory=hosts, require="all")
    assert [found[0] for found in results[outs]] == [host.name for host in hosts]


async def test_row_37_a_server_that_drops_every_login_is_named_with_its_limit(
    sshd: OpenSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_login, "_FIRST_PAUSE_S", 0.001)
    async with start_proxy(sshd.port) as proxy:
        proxy.turn_away()
        graph = Graph()
        graph.add(work.identity, 1)
        with pytest.raises(handout.HostUnreachableError, match=r"far.*6 times.*MaxStartups"):
            await handout.execute(graph, inventory=[through(sshd, proxy)])


async def test_row_37_a_server_that_allows_no_session_is_named_with_its_limit(tmp_path: Path) -> None:
    need_sshd()
    with start_sshd(tmp_path, ["MaxSessions 0"]) as server:
        graph = Graph()
        graph.add(work.identity, 1)
        with pytest.raises(handout.HostError, match=r"full.*MaxSessions"):
            await handout.execute(graph, inventory=[server.host("full", {"cpu": 1})])


async def test_row_10_a_wrong_host_key_excludes_that_host_and_the_others_go_on(sshd: OpenSsh, tmp_path: Path) -> None:
    other = (sshd.folder / "client_key.pub").read_text()
    wrong = tmp_path / "known_hosts"
    wrong.write_text(f"[127.0.0.1]:{sshd.port} {other}")
    options = {**sshd.options, "known_hosts": str(wrong)}
    impostor = Host("impostor", address="127.0.0.1", port=sshd.port, username=sshd.username, ssh=options)
    graph = Graph()
    outs = graph.map(work.mark_and_return, [str(tmp_path / "ran")] * 4, range(4))
    async with Cluster([impostor, sshd.host("good", {"cpu": 1})]) as cluster:
        results = await cluster.execute(graph)
        assert isinstance(cluster.unavailable["impostor"], handout.HostKeyError)
    assert results[outs] == list(range(4))
    assert wrong.read_text() == f"[127.0.0.1]:{sshd.port} {other}"  # the server's key was not added


async def test_row_11_a_refused_key_is_told_at_once_and_tried_once(tmp_path: Path) -> None:
    need_sshd()
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(tmp_path / "stranger"))
    with start_sshd(tmp_path, ["LogLevel VERBOSE"]) as server:
        options = {**server.options, "client_keys": [str(tmp_path / "stranger")]}
        host = Host("strict", address="127.0.0.1", port=server.port, username=server.username, ssh=options)
        graph = Graph()
        graph.add(work.identity, 1)
        begun = time.monotonic()
        with pytest.raises(handout.AuthenticationError, match=rf"strict.*refused {server.username}"):
            await handout.execute(graph, inventory=[host])
        assert time.monotonic() - begun < stretched(5.0)
    log = (tmp_path / "sshd.log").read_text()
    assert log.count("Connection from ") == 1
    assert len(re.findall(r"Failed publickey for", log)) == 1


def test_row_09_no_decision_looks_at_a_clock_that_somebody_can_set() -> None:
    """Leases and durations are measured with monotonic clocks, and only durations travel. A host's date is not used."""
    settable = re.compile(r"\btime\.time(_ns)?\(|from time import|CLOCK_REALTIME|datetime\.(now|utcnow)\(|\.today\(")
    found = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if settable.search(path.read_text("utf-8"))}
    # A journal records the date for its readers. The clock of one process alone numbers the versions of a class.
    # The controller compares the times of its own files with the time at which its process began, and the times of a
    # `File` with the present time. If the clock was set, the worst is that a digest is made earlier than needed.
    own_files = {"project/loaded.py", "submission/call_digests.py"}
    assert found <= {"journal/store.py", "serialization/pickling.py"} | own_files


async def test_row_09_a_host_whose_clocks_are_a_day_ahead_is_like_any_other(tmp_path: Path) -> None:
    """The host's monotonic clocks are ahead too. This has no effect, because no times of two machines are compared."""
    need_sshd()
    ahead = "unshare --time --monotonic 86400 --boottime 86400 --fork"
    if os.geteuid() != 0 or subprocess.run([*ahead.split(), "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root, and time namespaces")
    login = tmp_path / "login"
    login.write_text(f'#!/bin/sh\nexec {ahead} /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
    login.chmod(0o755)
    folder = tmp_path / "sshd"
    folder.mkdir()
    graph = Graph()
    clock = graph.add(boottime)
    with start_sshd(folder, [f"ForceCommand {login}"]) as server:
        async with Cluster([server.host("tomorrow", {"cpu": 1})], timings=QUICK) as cluster:
            async with cluster.start(graph) as execution:
                there = (await execution.results())[clock]
            await asyncio.sleep(2 * QUICK.host_timeout_s)  # longer than the lease: the host must not count as silent
            assert "tomorrow" in cluster._runtime.driver.agents
            assert (await cluster.execute(graph))[clock] > there
    assert there - time.clock_gettime(time.CLOCK_BOOTTIME) > 80_000
