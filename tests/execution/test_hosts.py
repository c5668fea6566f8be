"""Hosts that cannot be used, hosts with unusual servers or logins, and hosts that are lost, all over a real sshd."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import handout
from handout import Cluster, Graph, Host
from handout.transport.timings import Timings
from tests import work
from tests.patience import HANG_S, stretched
from tests.proxy import start_proxy
from tests.seen import agent_pid, gone, started, until
from tests.sshd import OpenSsh, need_sshd, start_sshd

pytestmark = pytest.mark.usefixtures("ledger_of_loop")

ONE = {"cpu": 1}

#: A tenth of the default timings, but a lease of 3 s: on a busy machine, a host may be silent for longer than 1.5 s.
QUICK = replace(Timings().scaled(0.1), host_timeout_s=3.0)


def one_task() -> Graph:
    graph = Graph()
    graph.add(work.identity, 1, id="one")
    return graph


async def test_a_host_that_is_not_there_is_named_with_a_remedy(sshd: OpenSsh) -> None:
    with pytest.raises(handout.errors.HostUnreachableError, match=r"nowhere.*ssh") as caught:
        await handout.execute(one_task(), inventory=[Host("nowhere", address="127.0.0.1", port=1, ssh=sshd.options)])
    assert caught.value.host == "nowhere"
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.__traceback__ is None, "its frames are those of libraries"


@pytest.mark.parametrize("name", ["execute", "start", "run"])
async def test_hosts_that_are_given_by_position_are_refused(name: str) -> None:
    with pytest.raises(handout.HandoutError, match=rf"handout\.{name}\(graph, inventory=\.\.\.\)"):
        await getattr(handout, name)(one_task(), ["node1"])


@pytest.mark.parametrize("option", ["known_hosts", "client_keys"])
async def test_a_file_of_keys_that_is_missing_here_is_named(sshd: OpenSsh, tmp_path: Path, option: str) -> None:
    missing = str(tmp_path / "missing")
    host = Host("keyless", address="127.0.0.1", port=sshd.port, ssh={**sshd.options, option: missing})
    with pytest.raises(handout.errors.InventoryError, match=rf"keyless.*{missing}.*No such file"):
        await handout.execute(one_task(), inventory=[host])


async def test_a_wrong_host_key_ends_it_before_any_code_is_sent(sshd: OpenSsh, tmp_path: Path) -> None:
    other = (sshd.folder / "client_key.pub").read_text()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {other}")
    host = sshd.host("suspect", ONE)
    host = Host(
        "suspect",
        address="127.0.0.1",
        port=sshd.port,
        username=host.username,
        ssh={**sshd.options, "known_hosts": str(tmp_path / "known_hosts")},
    )
    with pytest.raises(handout.errors.HostKeyError, match="host key"):
        await handout.execute(one_task(), inventory=[host])


async def test_a_refused_key_is_tried_once(sshd: OpenSsh, tmp_path: Path) -> None:
    import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(tmp_path / "stranger"))
    host = Host(
        "strict",
        address="127.0.0.1",
        port=sshd.port,
        username=sshd.username,
        ssh={**sshd.options, "client_keys": [str(tmp_path / "stranger")]},
    )
    with pytest.raises(handout.errors.AuthenticationError, match=r"strict.*refused.*ssh -i \S*stranger"):
        await handout.execute(one_task(), inventory=[host])


async def test_a_host_without_a_python_says_what_was_tried(sshd: OpenSsh) -> None:
    with pytest.raises(handout.errors.BootstrapError, match=r"no-such-python.*Correct Host\(\.\.\., python="):
        await handout.execute(one_task(), inventory=[sshd.host("bare", ONE, python="no-such-python")])


async def test_a_key_that_may_do_nothing_but_run_commands_is_enough(tmp_path: Path) -> None:
    need_sshd()
    with start_sshd(tmp_path) as server:
        keys = tmp_path / "authorized_keys"
        keys.write_text(f'restrict,command="sh -c \\"$SSH_ORIGINAL_COMMAND\\"" {keys.read_text()}')
        results = await handout.execute(one_task(), inventory=[server.host("restricted", ONE)])
    assert results["one"] == 1


async def test_a_python_that_is_too_old_is_named(sshd: OpenSsh, tmp_path: Path) -> None:
    old = tmp_path / "python-of-2016"
    old.write_text("#!/bin/sh\nexit 93\n")
    old.chmod(0o755)
    with pytest.raises(handout.errors.BootstrapError, match=r"older ones \(.*python-of-2016"):
        await handout.execute(one_task(), inventory=[sshd.host("old", ONE, python=str(old))])


async def test_the_run_goes_on_without_a_host_that_the_others_can_cover(sshd: OpenSsh) -> None:
    broken = sshd.host("broken", ONE, python="no-such-python")
    graph = Graph()
    out = graph.add(work.where)
    results = await handout.execute(graph, inventory=[broken, sshd.host("fine", ONE)])
    assert results[out][0] == "fine"


async def test_a_host_that_comes_up_later_is_used_then(sshd: OpenSsh) -> None:
    async with start_proxy(sshd.port) as proxy:
        proxy.refuse()
        late = sshd.host("late", None, port=proxy.port)
        async with Cluster([late, sshd.host("early", ONE)]) as cluster:
            await until(lambda: "late" in cluster.unavailable)
            await proxy.listen()
            await until(lambda: cluster.view.hosts["late"].state == "ready")
            graph = Graph()
            out = graph.add(work.where, host="late")
            assert (await cluster.execute(graph))[out][0] == "late"


async def test_require_all_makes_a_missing_host_fatal(sshd: OpenSsh) -> None:
    broken = sshd.host("broken", ONE, python="no-such-python")
    with pytest.raises(handout.HostError, match="broken"):
        await handout.execute(one_task(), inventory=[broken, sshd.host("fine", ONE)], require="all")


async def test_what_only_a_missing_host_could_run_is_refused_by_name(sshd: OpenSsh) -> None:
    graph = Graph()
    graph.add(work.identity, 1, cost={"memory": "6 GB"}, id="big")
    broken = sshd.host("broken", {"cpu": 1, "memory": "8 GB"}, python="no-such-python")
    with pytest.raises(handout.PlacementError, match="big") as caught:
        await handout.execute(graph, inventory=[broken, sshd.host("small", {"cpu": 1, "memory": "1 GB"})])
    assert "no-such-python" in "\n".join([str(caught.value), *caught.value.__notes__])


async def test_a_login_shell_that_prints_noise_is_no_obstacle(tmp_path: Path) -> None:
    need_sshd()
    # sshd runs this script for every command. The script prints noise, as a .bashrc may, and then runs the command.
    noisy = tmp_path / "noisy"
    noisy.write_text(
        '#!/bin/sh\necho "Welcome!"; printf "\\033[1mmotd\\033[0m\\n\\377\\376"\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    noisy.chmod(0o755)
    folder = tmp_path / "sshd"
    folder.mkdir()
    with start_sshd(folder, [f"ForceCommand {noisy}"]) as server:
        graph = Graph()
        out = graph.add(work.where)
        results = await handout.execute(graph, inventory=[server.host("noisy", ONE)])
        assert results[out][0] == "noisy"


async def test_a_bashrc_that_prints_noise_is_no_obstacle(tmp_path: Path) -> None:
    need_sshd()
    home = tmp_path / "home"
    home.mkdir()
    (home / ".bashrc").write_text('echo "noise of a .bashrc"\n')
    folder = tmp_path / "sshd"
    folder.mkdir()
    # Before bash runs the command, it reads the file that BASH_ENV names: this .bashrc.
    wrapper = tmp_path / "login"
    wrapper.write_text(f'#!/bin/sh\nexport HOME={home} BASH_ENV={home}/.bashrc\nexec bash -c "$SSH_ORIGINAL_COMMAND"\n')
    wrapper.chmod(0o755)
    with start_sshd(folder, [f"ForceCommand {wrapper}"]) as server:
        graph = Graph()
        out = graph.add(work.where)
        results = await handout.execute(graph, inventory=[server.host("noisy", ONE)])
        assert results[out][0] == "noisy"


async def test_a_host_without_room_is_named_with_its_places_and_the_run_goes_on_elsewhere(
    tmp_path: Path, sshd: OpenSsh
) -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs root and mount namespaces, for file systems that are full")
    # A virtual environment's link to the interpreter may lie in /tmp, which another file system hides on this server.
    python = os.path.realpath(sys.executable)
    # The agent finds no room in its usual places: /tmp and /var/tmp are too small, and the home folder is read-only.
    cramped = tmp_path / "cramped"
    cramped.write_text(
        "#!/bin/sh -e\n"
        "export HOME=/mnt\n"
        "mount -t tmpfs -o ro tmpfs /mnt\n"
        "mount -t tmpfs -o size=64k tmpfs /var/tmp\n"
        "mount -t tmpfs -o size=64k tmpfs /tmp\n"
        'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    cramped.chmod(0o755)
    folder = tmp_path / "sshd"
    folder.mkdir()
    with start_sshd(folder, [f"ForceCommand unshare -m {cramped}"]) as server:
        with pytest.raises(handout.errors.BootstrapError) as caught:
            await handout.execute(one_task(), inventory=[server.host("full", ONE, python=python)])
        told = str(caught.value)
        assert "'full'" in told
        for part in ("/tmp: ", "/var/tmp: ", "bytes free", "/mnt: ", "Free some space"):
            assert part in told
        results = await handout.execute(
            one_task(), inventory=[server.host("full", ONE, python=python), sshd.host("roomy", ONE)]
        )
        assert results["one"] == 1
        with pytest.raises(handout.errors.HostError, match="full"):
            await handout.execute(
                one_task(), inventory=[server.host("full", ONE, python=python), sshd.host("roomy", ONE)], require="all"
            )


@pytest.mark.parametrize("inodes", [1, 3, 5, 6])  # enough for no folder, no log, no folder of objects, no socket
async def test_a_host_without_inodes_for_the_agent_is_told_by_number(tmp_path: Path, inodes: int) -> None:
    need_sshd()
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs root and mount namespaces, for file systems without inodes")
    cramped = tmp_path / "cramped"
    cramped.write_text(
        "#!/bin/sh -e\n"
        "export HOME=/var/tmp\n"
        "mount -t tmpfs -o nr_inodes=1 tmpfs /var/tmp\n"
        f"mount -t tmpfs -o nr_inodes={inodes} tmpfs /tmp\n"
        'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    cramped.chmod(0o755)
    folder = tmp_path / "sshd"
    folder.mkdir()
    with start_sshd(folder, [f"ForceCommand unshare -m {cramped}"]) as server:
        host = server.host("full", ONE, python=os.path.realpath(sys.executable))
        with pytest.raises(handout.errors.BootstrapError) as caught:
            await handout.execute(one_task(), inventory=[host])
    told = str(caught.value)
    assert f"the file system has no inodes left (it has {inodes} in all)" in told
    assert "Free some space (or inodes)" in told
    assert "Traceback" not in told


async def test_a_login_shell_that_ends_early_is_told_with_what_it_printed(tmp_path: Path) -> None:
    need_sshd()
    folder = tmp_path / "sshd"
    folder.mkdir()
    with start_sshd(folder, ["ForceCommand echo This account is closed."]) as server:
        with pytest.raises(handout.errors.BootstrapError, match="This account is closed"):
            await handout.execute(one_task(), inventory=[server.host("closed", ONE)])


async def test_a_server_that_forbids_forwarding_and_allows_one_session(tmp_path: Path) -> None:
    need_sshd()
    with start_sshd(tmp_path, ["DisableForwarding yes", "MaxSessions 1"]) as server:
        graph = Graph()
        big = graph.add(work.blob, 5 << 20)
        outs = graph.map(work.identity, range(200))
        length = graph.add(work.length, os.urandom(3 << 20))
        results = await handout.execute(graph, inventory=[server.host("strict", ONE)])
        assert results[outs] == list(range(200))
        assert len(results[big]) == 5 << 20
        assert results[length] == 3 << 20


async def test_thirty_hosts_at_once_behind_one_sshd(sshd: OpenSsh) -> None:
    hosts = [sshd.host(f"h{i:02}", ONE) for i in range(30)]
    graph = Graph()
    outs = [graph.add(work.where, host=host.name) for host in hosts]
    results = await handout.execute(graph, inventory=hosts, require="all")
    assert [r[0] for r in results[outs]] == [host.name for host in hosts]


async def test_an_agent_that_is_killed_costs_only_time(sshd: OpenSsh, tmp_path: Path) -> None:
    graph = Graph()
    made = graph.add(work.blob, 1 << 20)
    held = [graph.add(work.first_waits, str(tmp_path / "go"), 0) for _ in range(2)]
    length = graph.add(work.length, made)
    async with Cluster([sshd.host("a", ONE), sshd.host("b", ONE)], require="all", timings=QUICK) as cluster:
        async with cluster.start(graph, outputs=[*held, length]) as execution:
            async for event in execution.events():
                if isinstance(event, handout.events.TaskStarted):
                    break
            victim = execution.explain(held[0]).host or execution.explain(held[1]).host
            assert victim is not None
            os.kill(agent_pid(started(cluster, victim)), signal.SIGKILL)
            (tmp_path / "go").touch()
            results = await execution.results()
    assert results[held] == [0, 0]
    assert results[length] == 1 << 20


async def test_results_that_die_with_their_host_are_made_again(sshd: OpenSsh, tmp_path: Path) -> None:
    graph = Graph()
    made = graph.add(work.blob, 2 << 20)
    gate = graph.add(work.wait_for_file, str(tmp_path / "go"))
    length = graph.add(lambda data, _: len(data), made, gate)
    async with Cluster([sshd.host("a", ONE), sshd.host("b", ONE)], require="all", timings=QUICK) as cluster:
        async with cluster.start(graph, outputs=[length]) as execution:
            async for done in execution.ended([made]):
                assert done.failure is None
            owner = next(e for e in cluster._runtime.driver.agents if execution._active.hosts[0] == e)
            os.kill(agent_pid(started(cluster, owner)), signal.SIGKILL)
            (tmp_path / "go").touch()
            assert (await execution.results())[length] == 2 << 20


async def test_when_the_last_host_goes_for_good_the_run_ends_by_name(tmp_path: Path) -> None:
    need_sshd()
    graph = Graph()
    graph.add(work.sleep_forever, str(tmp_path / "pid"))
    folder = tmp_path / "sshd"
    folder.mkdir()
    with start_sshd(folder) as server:
        async with start_proxy(server.port) as proxy:
            host = server.host("only", None, port=proxy.port)
            async with Cluster([host], timings=QUICK) as cluster:
                async with cluster.start(graph) as execution:
                    await until(lambda: (tmp_path / "pid").exists())
                    proxy.refuse()
                    proxy.cut()
                    with pytest.raises(handout.HandoutError, match="only"):
                        await execution.results()


async def test_a_line_that_drops_for_a_moment_loses_and_repeats_nothing(sshd: OpenSsh, tmp_path: Path) -> None:
    async with start_proxy(sshd.port) as proxy:
        host = sshd.host("far", {"cpu": 2}, port=proxy.port)
        graph = Graph()
        outs = [graph.add(work.mark_and_return, str(tmp_path / "ran"), i) for i in range(300)]
        gate = graph.add(work.wait_for_file, str(tmp_path / "go"))
        big = graph.add(work.blob, 4 << 20)
        async with Cluster([host]) as cluster:
            async with cluster.start(graph, outputs=[*outs, gate, big]) as execution:
                async for _ in execution.ended(outs[:20]):
                    pass
                for _ in range(3):
                    seen = proxy.connections
                    proxy.cut()
                    await until(lambda seen=seen: proxy.connections > seen)
                (tmp_path / "go").touch()
                results = await execution.results()
        assert results[outs] == list(range(300))
        assert results[big] == bytes(4 << 20)
        assert (tmp_path / "ran").read_text().count("ran") == 300


async def test_closing_while_the_line_is_down_leaves_no_agent_behind(sshd: OpenSsh) -> None:
    async with start_proxy(sshd.port) as proxy:
        host = sshd.host("far", None, port=proxy.port)
        async with Cluster([host]) as cluster:
            await cluster.execute(one_task())
            started = cluster._runtime.driver.agents["far"].link.started
            assert started is not None
            proxy.cut()
        assert not Path(started.folder).exists()
        # The supervisor has done all its work when its connection closes, but it may still be exiting.
        await until(lambda: gone(started.supervisor))


async def test_a_silent_line_is_noticed_and_user_code_ends_with_its_lease(sshd: OpenSsh, tmp_path: Path) -> None:
    async with start_proxy(sshd.port) as proxy:
        far = sshd.host("far", ONE, port=proxy.port)
        graph = Graph()
        path = tmp_path / "pid"
        stuck = graph.add(work.sleep_forever, str(path), host="far")
        async with Cluster([far, sshd.host("near", ONE)], require="all", timings=QUICK) as cluster:
            async with cluster.start(graph) as execution:
                await until(lambda: path.exists() and bool(path.read_text()))
                proxy.refuse()
                proxy.stall()
                with pytest.raises(handout.HandoutError):
                    await execution.results()
        assert gone(int(path.read_text()))
        del stuck


async def test_on_a_slow_line_control_is_at_most_half_a_second_late_past_bulk_in_both_directions(
    sshd: OpenSsh,
) -> None:
    """Each direction is measured alone, on one clock: the agent runs a program that prints the time."""
    async with start_proxy(sshd.port, bytes_per_s=250_000) as proxy:  # 2 Mbit/s each way
        host = sshd.host("slow", {"cpu": 2}, port=proxy.port)
        graph = Graph()
        up = graph.add(work.length, os.urandom(800_000))
        down = graph.add(os.urandom, 800_000)
        async with Cluster([host]) as cluster:
            warm = await cluster.execute(one_task())
            assert warm["one"] == 1
            there: list[float] = []
            back: list[float] = []
            async with cluster.start(graph) as execution:
                ended = asyncio.ensure_future(execution.results())
                while not ended.done():
                    left, reached, returned = await _echo(cluster, "slow")
                    there.append(reached - left)
                    back.append(returned - reached)
                results = await ended
        assert results[up] == len(results[down]) == 800_000
        assert len(there) > 5
        limit_s = stretched(0.5)
        assert max(there) < limit_s
        assert max(back) < limit_s


async def _echo(cluster: Cluster, host: str) -> tuple[float, float, float]:
    """Return the times at which a control message was sent, the host had received it, and the answer arrived here."""
    answered: asyncio.Future[tuple[float, float]] = asyncio.get_running_loop().create_future()
    clock = [sys.executable, "-S", "-c", "import time; print(time.monotonic())"]
    left = time.monotonic()
    cluster._runtime.driver.agents[host].run_program(
        clock, HANG_S, lambda status, output: answered.set_result((float(output), time.monotonic()))
    )
    return (left, *await answered)
