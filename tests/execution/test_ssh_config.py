"""Handout reaches hosts as ``ssh`` does: with its configuration, aliases, jump hosts, ssh-agent and known hosts."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import handout
from handout import Graph, Host
from tests import work
from tests.sshd import OpenSsh


def where() -> tuple[Graph, handout.Output[tuple[str, int, str]]]:
    graph = Graph()
    return graph, graph.add(work.where)


@pytest.fixture
def configuration(sshd: OpenSsh, tmp_path: Path) -> Path:
    """Write an ssh_config, and return its path. Its alias ``inner`` is reached through a jump host."""
    path = tmp_path / "config"
    common = (
        f"  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.username}\n"
        f"  IdentityFile {sshd.folder / 'client_key'}\n  UserKnownHostsFile {sshd.folder / 'known_hosts'}\n"
    )
    path.write_text(f"Host bastion\n{common}Host inner\n{common}  ProxyJump bastion\nHost plain\n{common}")
    return path


@pytest.fixture
def agent(sshd: OpenSsh, tmp_path: Path) -> Iterator[str]:
    """Run an ssh-agent that holds the client's key, and yield the path of its socket."""
    socket = str(tmp_path / "agent")
    started = subprocess.run(["ssh-agent", "-a", socket], capture_output=True, text=True, check=True)
    pid = int(started.stdout.split("SSH_AGENT_PID=")[1].split(";")[0])
    try:
        environment = {**os.environ, "SSH_AUTH_SOCK": socket}
        subprocess.run(["ssh-add", "-q", sshd.folder / "client_key"], env=environment, check=True)
        yield socket
    finally:
        os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("alias", ["plain", "inner"])
async def test_an_alias_of_the_users_configuration_is_enough(configuration: Path, alias: str) -> None:
    graph, out = where()
    results = await handout.execute(graph, inventory=[Host(alias, ssh={"config": [str(configuration)]})])
    assert results[out][0] == alias


async def test_the_key_may_be_in_an_agent(
    sshd: OpenSsh, agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    options = {"config": [], "known_hosts": str(sshd.folder / "known_hosts")}
    host = Host("held", address="127.0.0.1", port=sshd.port, username=sshd.username, ssh=options)
    graph, out = where()
    assert (await handout.execute(graph, inventory=[host]))[out][0] == "held"


async def test_checking_host_keys_is_turned_off_for_one_host_on_purpose(sshd: OpenSsh) -> None:
    options = {**sshd.options, "known_hosts": None}
    host = Host("trusting", address="127.0.0.1", port=sshd.port, username=sshd.username, ssh=options)
    graph, out = where()
    assert (await handout.execute(graph, inventory=[host]))[out][0] == "trusting"


async def test_a_host_that_is_not_on_record_is_refused(sshd: OpenSsh, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").touch()
    options = {**sshd.options, "known_hosts": str(tmp_path / "known_hosts")}
    host = Host("unknown", address="127.0.0.1", port=sshd.port, username=sshd.username, ssh=options)
    with pytest.raises(handout.HostKeyError, match="ssh-keyscan"):
        await handout.execute(where()[0], inventory=[host])
