"""The SSH launcher over a real sshd, with connections that fall silent or drop at a bad moment."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Never

import asyncssh
import pytest

import handout
from handout import Cluster, Graph, Host
from handout.errors import BootstrapError, HostLostError, HostUnreachableError
from handout.transport import ssh_launcher, ssh_login
from handout.transport.bootstrap import Bootstrap, StartedAgent
from handout.transport.ssh_launcher import SshLauncher
from handout.transport.timings import Timings
from tests import work
from tests.patience import HANG_S, stretched
from tests.proxy import Proxy, start_proxy
from tests.seen import until
from tests.sshd import OpenSsh, need_sshd, start_login, start_sshd

NOWHERE = StartedAgent("/f", "/f/none.sock", "/f/b", "python3", (3, 12, 0), {}, True, "a1")


def stay(folder: Path) -> str:
    """Return a shell command that runs until the test makes a file, even if the connection drops before."""
    return f"until test -e {folder}/over; do sleep 0.1; done"


class Deaf:
    """A receiver that ignores everything."""

    def received(self, data: bytes) -> None: ...
    def paused(self) -> None: ...
    def resumed(self) -> None: ...
    def lost(self, error: Exception | None) -> None: ...


def behind(server: OpenSsh, proxy: Proxy) -> Host:
    return server.host("far", {"cpu": 1}, port=proxy.port)


async def test_a_host_that_falls_silent_while_its_agent_starts_ends_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_sshd()
    monkeypatch.setattr(ssh_launcher, "_START_TIMEOUT_S", 0.5)
    folder = tmp_path / "sshd"
    folder.mkdir()
    with start_sshd(folder, [f"ForceCommand touch {tmp_path}/begun; cat >/dev/null; {stay(tmp_path)}"]) as server:
        async with start_proxy(server.port) as proxy:
            launcher = SshLauncher(behind(server, proxy))
            starting = asyncio.ensure_future(launcher.start(Bootstrap("far", None, {})))
            await until((tmp_path / "begun").exists)
            proxy.stall()
            async with asyncio.timeout(HANG_S):
                with pytest.raises(BootstrapError, match=r"No agent answered.*'far'"):
                    await starting
                await launcher.aclose()
    (tmp_path / "over").touch()


async def test_a_connection_lost_while_its_agent_starts_is_no_fault_of_the_login_shell(tmp_path: Path) -> None:
    need_sshd()
    folder = tmp_path / "sshd"
    folder.mkdir()
    with start_sshd(folder, [f"ForceCommand touch {tmp_path}/begun; {stay(tmp_path)}"]) as server:
        async with start_proxy(server.port) as proxy:
            launcher = SshLauncher(behind(server, proxy))
            starting = asyncio.ensure_future(launcher.start(Bootstrap("far", None, {})))
            for _ in range(3):
                await until((tmp_path / "begun").exists)
                (tmp_path / "begun").unlink()
                proxy.cut()
            with pytest.raises(HostUnreachableError, match=r"lost.*in 3 starts"):
                await starting
            await launcher.aclose()
    (tmp_path / "over").touch()


async def test_the_reason_that_a_server_gives_for_a_disconnect_is_escaped_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Closed:
        def is_closed(self) -> bool:
            return True

    async def breaks(*_: object) -> Never:
        raise asyncssh.ConnectionLost("bye\x1b[2J\nINFO all is well")

    async def connected() -> Closed:
        return Closed()

    caplog.set_level(logging.INFO, "handout")
    launcher = SshLauncher(Host("far", address="far.invalid"))
    monkeypatch.setattr(launcher, "_connected", connected)
    monkeypatch.setattr(launcher, "_bootstrap", breaks)
    with pytest.raises(HostUnreachableError):
        await launcher.start(Bootstrap("far", None, {}))
    assert len(caplog.messages) == 2
    assert all(each.isprintable() and r"bye\x1b[2J\nINFO" in each for each in caplog.messages)


@pytest.mark.parametrize("nbytes", [500, 4_000, 8_000, 100_000, 400_000])
async def test_a_line_that_breaks_once_before_the_agent_answers_is_made_again(sshd: OpenSsh, nbytes: int) -> None:
    """The break comes during the key exchange, the login, the start command and the bundle."""
    graph = Graph()
    out = graph.add(work.add, 1, 2)
    async with start_proxy(sshd.port) as proxy:
        proxy.cut_after(nbytes)
        results = await handout.execute(graph, inventory=[behind(sshd, proxy)])
        assert not proxy.is_armed
    assert results[out] == 3


async def test_a_line_that_drops_while_the_agent_is_reached_does_not_mean_that_it_is_gone(sshd: OpenSsh) -> None:
    async with start_proxy(sshd.port) as proxy:
        launcher = SshLauncher(behind(sshd, proxy))
        connection = await launcher._connected()
        await connection.run("exec true")
        launcher._had_session = launcher._forwards = True
        proxy.stall()
        reaching = asyncio.ensure_future(launcher.connect(NOWHERE, Deaf()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        proxy.cut()
        with pytest.raises(HostUnreachableError):
            await reaching
        await launcher.aclose()


async def test_if_nothing_listens_on_its_socket_the_agent_is_gone(sshd: OpenSsh) -> None:
    launcher = SshLauncher(sshd.host("far", {"cpu": 1}))
    try:
        with pytest.raises(HostLostError, match="'far' is gone") as caught:
            await launcher.connect(NOWHERE, Deaf())
        assert caught.value.gone
    finally:
        await launcher.aclose()


async def test_an_agent_is_reached_again_although_the_login_leaves_a_program_in_the_background(tmp_path: Path) -> None:
    socket = tmp_path / "agent.sock"
    with start_login(tmp_path, [f"({stay(tmp_path)}) &", 'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"']) as server:
        async with await asyncio.start_unix_server(lambda reader, writer: writer.close(), socket):
            launcher = SshLauncher(server.host("busy", {"cpu": 1}))
            try:
                transport = await launcher.connect(replace(NOWHERE, socket=str(socket)), Deaf())
                transport.close()
            finally:
                (tmp_path / "over").touch()
                await launcher.aclose()


async def test_a_connection_that_a_router_forgot_is_replaced_within_the_lease(sshd: OpenSsh, tmp_path: Path) -> None:
    graph = Graph()
    out = graph.add(work.wait_for_file, str(tmp_path / "go"))
    async with start_proxy(sshd.port) as proxy:
        timings = replace(Timings().scaled(0.4), host_timeout_s=Timings().host_timeout_s)
        async with Cluster([behind(sshd, proxy)], timings=timings) as cluster:
            async with cluster.start(graph) as execution:
                events = execution.events()
                async for event in events:
                    if isinstance(event, handout.events.TaskStarted):
                        break
                seen = proxy.connections
                proxy.strand()
                await until(lambda: proxy.connections > seen)
                (tmp_path / "go").touch()
                results = await execution.results()
                rest = [type(event).__name__ async for event in events]
    assert results[out] == str(tmp_path / "go")
    assert rest == ["TaskEnded", "RunEnded"]


async def test_a_caller_cancelled_while_the_agent_starts_leaves_nothing_on_the_host(tmp_path: Path) -> None:
    need_sshd()
    folder = tmp_path / "sshd"
    folder.mkdir()
    wrapper = tmp_path / "login"
    with tempfile.TemporaryDirectory() as short, start_sshd(folder, [f"ForceCommand {wrapper}"]) as server:
        there = Path(short)
        wrapper.write_text(f'#!/bin/sh\nexport HANDOUT_TMPDIR={there}\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
        wrapper.chmod(0o755)
        opening = asyncio.ensure_future(Cluster([server.host("far", {"cpu": 1})]).open())
        await until(lambda: list(there.iterdir()))
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not list(there.iterdir())


async def test_a_login_with_long_round_trips_is_limited_by_its_steps_and_the_slow_line_is_told(
    sshd: OpenSsh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A login takes seven round trips, which are 3.5 s here. Each of its steps takes 1.5 s."""
    monkeypatch.setattr(ssh_login, "CONNECT_TIMEOUT_S", stretched(3.0))
    monkeypatch.setattr(ssh_launcher, "_SLOW_S", 0.2)
    graph = Graph()
    out = graph.add(work.add, 1, 2)
    async with start_proxy(sshd.port, delay_s=0.25) as proxy:
        timings = replace(Timings(), reconnect_s=14.0)  # the lease leaves 1 s for a new connection
        results = await handout.execute(graph, inventory=[behind(sshd, proxy)], timings=timings)
    assert results[out] == 3
    (early,) = (each for each in caplog.messages if "still being started after 0 s: the login is not complete" in each)
    assert "pass timings=Timings().scaled(4)" in early
    assert "a round trip took" in caplog.text
    assert caplog.text.count("timings=Timings().scaled(") == 2
    assert "did not confirm its end" not in caplog.text


async def test_a_start_over_a_narrow_line_has_time_as_long_as_bytes_arrive(
    sshd: OpenSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_launcher, "_START_TIMEOUT_S", stretched(3.0))
    graph = Graph()
    out = graph.add(work.add, 1, 2)
    # On an idle machine, the bundle takes twice the limit.
    async with start_proxy(sshd.port, bytes_per_s=len(Bootstrap("far", None, {}).stdin()) / 6) as proxy:
        results = await handout.execute(graph, inventory=[behind(sshd, proxy)])
    assert results[out] == 3
