"""Handout reaches hosts as ``ssh`` does: with its configuration, aliases, jump hosts, ssh-agent and known hosts."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

import handout
from handout import Graph, Host
from handout.transport import ssh_configuration, ssh_login
from handout.transport.ssh_configuration import read_configuration
from tests import work
from tests.patience import HANG_S
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


def written(sshd: OpenSsh, path: Path, extra: str = "", **changes: str) -> Path:
    """Write a configuration whose alias ``plain`` is the server, and return its path.

    Args:
        sshd: The server.
        path: The file to write.
        extra: Lines for the end of the alias's block.
        changes: For options of the block, the whole line that takes its place.
    """
    block = {
        "HostName": "HostName 127.0.0.1",
        "Port": f"Port {sshd.port}",
        "User": f"User {sshd.username}",
        "IdentityFile": f"IdentityFile {sshd.folder / 'client_key'}",
        "UserKnownHostsFile": f"UserKnownHostsFile {sshd.folder / 'known_hosts'}",
        **changes,
    }
    path.write_text("\n  ".join(["Host plain", *block.values(), extra]) + "\n")
    return path


async def reached(path: Path, alias: str = "plain") -> bool:
    graph, out = where()
    results = await handout.execute(graph, inventory=[Host(alias, ssh={"config": [str(path)]})])
    return results[out][0] == alias


@pytest.mark.parametrize(
    "extra",
    [
        "RequestTTY force",
        "RequestTTY yes # always",
        "IdentityFile ~/.ssh/not_here",
        "ServerAliveInterval 1m",
        "ConnectTimeout 20s",
        "Compression yes",
        "Ciphers ^aes256-ctr",
        "KexAlgorithms -diffie-hellman-*",
        "ControlMaster auto\n  ControlPath ~/.ssh/%C\n  ControlPersist 10m",
        "LocalForward 1 localhost:1\n  ExitOnForwardFailure no",
        "AddKeysToAgent yes\n  UseKeychain yes\n  IgnoreUnknown UseKeychain",
        "PermitLocalCommand yes\n  LocalCommand false",
        "RemoteCommand top",
        'SetEnv COLOR=1 "NAME=a b"',
        "GSSAPIAuthentication yes\n  VisualHostKey yes",
    ],
)
async def test_options_with_which_ssh_connects_do_no_harm(sshd: OpenSsh, tmp_path: Path, extra: str) -> None:
    if "UseKeychain" in extra:
        extra = "IgnoreUnknown UseKeychain\n  " + extra
    assert await reached(written(sshd, tmp_path / "config", extra))


@pytest.mark.parametrize(
    "line", ["HostName 127.0.0.1 # on the shelf", 'HostName "127.0.0.1"', "hostname=127.0.0.1", "HOSTNAME = 127.0.0.1"]
)
async def test_a_value_may_be_written_in_any_way_that_ssh_reads(sshd: OpenSsh, tmp_path: Path, line: str) -> None:
    assert await reached(written(sshd, tmp_path / "config", HostName=line))


@pytest.mark.parametrize(
    "match",
    [
        "Match all # by a tool",
        "Match host 127.0.0.1",
        "Match originalhost plain,other",
        'Match exec "test %n = plain"',
        "Match !host other",
        "Match final all",
        "Match originalhost p* !exec false",
        "Host p?ain !other # mine",
    ],
)
async def test_blocks_of_every_kind_hold_where_ssh_says_so(sshd: OpenSsh, tmp_path: Path, match: str) -> None:
    path = tmp_path / "config"
    text = written(sshd, path).read_text().replace(f"  Port {sshd.port}\n", "")
    path.write_text(f"{text}{match}\n  Port {sshd.port}\nMatch host nowhere\n  User nobody\n")
    assert await reached(path)


async def test_a_final_match_in_one_of_several_files_counts(sshd: OpenSsh, tmp_path: Path) -> None:
    """For ``Match final``, ``ssh`` reads its configuration twice."""
    path, other = tmp_path / "config", tmp_path / "other config"
    written(sshd, path)
    path.write_text(path.read_text().replace(f"  Port {sshd.port}\n", ""))
    other.write_text(f"Match final host 127.0.0.1\n  Port {sshd.port}\n")
    configured = await read_configuration("plain", None, None, [str(path), str(other)], "plain")
    assert configured.port == sshd.port


async def test_files_that_the_configuration_includes_count_and_may_have_spaces_in_their_paths(
    sshd: OpenSsh, tmp_path: Path
) -> None:
    folder = tmp_path / "my files"
    folder.mkdir()
    (folder / "a known").write_text((sshd.folder / "known_hosts").read_text())
    (folder / "plain key").write_text((sshd.folder / "client_key").read_text())
    (folder / "plain key").chmod(0o600)
    written(
        sshd,
        folder / "one",
        IdentityFile=f'IdentityFile "{folder}/%n key"',
        UserKnownHostsFile=f'UserKnownHostsFile "{folder}/a known" /nowhere',
    )
    path = tmp_path / "config"
    path.write_text(f'Include "{folder}/o*"\n')
    assert await reached(path)


async def test_a_proxy_command_runs_in_a_shell_with_its_tokens(sshd: OpenSsh, configuration: Path) -> None:
    with configuration.open("a") as file:
        file.write(f"Host proxied\n  ProxyCommand sh -c 'echo noise >&2; ssh -F {configuration} -W %h:%p bastion'\n")
        file.write(configuration.read_text().partition("Host plain\n")[2])
    assert await reached(configuration, "proxied")


#: Carries the bytes of a connection, and prints on standard error all the while.
CARRY = """
import os, select, socket, sys
line = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    for ready in select.select([0, line], [], [])[0]:
        print("carrying", file=sys.stderr, flush=True)
        data = os.read(0, 65536) if ready == 0 else line.recv(65536)
        if not data:
            sys.exit()
        line.sendall(data) if ready == 0 else os.write(1, data)
"""


async def test_what_a_proxy_command_prints_does_the_connection_no_harm(sshd: OpenSsh, tmp_path: Path) -> None:
    (tmp_path / "carry.py").write_text(CARRY)
    path = written(sshd, tmp_path / "config", f"ProxyCommand {sys.executable} {tmp_path / 'carry.py'} %p")
    assert await reached(path)


async def test_how_a_proxy_command_failed_and_what_it_printed_is_in_the_error(
    sshd: OpenSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_login, "_FIRST_PAUSE_S", 0.0)
    path = written(sshd, tmp_path / "config", "ProxyCommand sh -c \"printf 'no route\\033[31m\\n' >&2; exit 3\"")
    with pytest.raises(handout.HostUnreachableError) as caught:
        await reached(path)
    assert "cannot be reached: the proxy command ended with exit status 3 (before the login" in str(caught.value)
    assert "The proxy command printed: 'no route\\x1b[31m'." in str(caught.value)
    assert "Broken pipe" not in str(caught.value)


@pytest.mark.parametrize("command", ["nc 'x", " "])
async def test_a_proxy_command_that_is_no_command_is_told(command: str) -> None:
    host = Host("far", ssh={"config": [], "proxy_command": command})
    with pytest.raises(handout.InventoryError, match=r"'far'.*refuses its options.*(No closing quotation|is empty)"):
        await handout.execute(where()[0], inventory=[host])


async def test_a_proxy_command_that_hangs_is_ended(
    sshd: OpenSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_login, "CONNECT_TIMEOUT_S", 3.0)  # long enough for `sh` to print on a busy machine
    path = written(sshd, tmp_path / "config", "ProxyCommand sh -c 'echo waiting for a token >&2; exec sleep 600'")
    with pytest.raises(handout.HostUnreachableError, match=r"no answer within 3 s.*printed: 'waiting for a token'"):
        await reached(path)


async def test_a_key_that_only_the_agent_has_is_found_by_its_public_half(
    sshd: OpenSsh, agent: str, tmp_path: Path
) -> None:
    (tmp_path / "key.pub").write_text((sshd.folder / "client_key.pub").read_text())
    path = written(
        sshd,
        tmp_path / "config",
        f"IdentitiesOnly yes\n  IdentityAgent {agent}",
        IdentityFile=f"IdentityFile {tmp_path}/key.pub",
    )
    assert await reached(path)


async def test_the_users_own_file_is_read_where_home_says(
    sshd: OpenSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir(mode=0o700)
    written(sshd, tmp_path / ".ssh" / "config")
    monkeypatch.setenv("HOME", str(tmp_path))
    graph, out = where()
    assert (await handout.execute(graph, inventory=["plain"]))[out][0] == "plain"


async def test_without_a_program_ssh_the_configuration_is_read_by_asyncssh_with_a_warning(
    sshd: OpenSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".ssh").mkdir(mode=0o700)
    written(sshd, tmp_path / ".ssh" / "config")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("handout.transport.ssh_login.find_ssh", lambda: None)
    graph, out = where()
    assert (await handout.execute(graph, inventory=["plain"]))[out][0] == "plain"
    assert "no program `ssh`" in caplog.text


async def test_a_configuration_that_ssh_refuses_is_told_with_file_and_line(sshd: OpenSsh, tmp_path: Path) -> None:
    path = written(sshd, tmp_path / "config", "Prot 22")
    with pytest.raises(handout.errors.InventoryError, match=rf"{path}.*line 7.*prot.*ssh -F {path} -G plain"):
        await reached(path)


async def test_a_program_of_the_configuration_that_hangs_is_told(
    sshd: OpenSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handout.transport.ssh_configuration._READ_TIMEOUT_S", 0.5)
    path = tmp_path / "config"
    path.write_text(f'Match exec "sleep 60; touch {tmp_path}/ended"\n  Port 1\n')
    with pytest.raises(handout.errors.HostUnreachableError, match="Match exec"):
        await reached(path)
    assert not (tmp_path / "ended").exists()


async def test_a_program_of_the_configuration_does_not_hold_up_a_cancellation(tmp_path: Path) -> None:
    path, held = tmp_path / "config", tmp_path / "held"
    os.mkfifo(held)
    path.write_text(f'Match exec "exec 9>{held}; echo held >&9; sleep 600"\n  Port 1\n')
    reading = asyncio.create_task(read_configuration("plain", None, None, [str(path)], "plain"))
    with await asyncio.to_thread(held.open) as end:
        assert await asyncio.to_thread(end.readline) == "held\n"
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        async with asyncio.timeout(HANG_S):
            assert await asyncio.to_thread(end.read) == ""  # no process holds the pipe any more


async def test_a_program_of_the_configuration_is_killed_if_it_is_cancelled_while_it_starts(tmp_path: Path) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)
    command = f"exec 9>{held}; echo held >&9; sleep 600 & wait"
    with tempfile.TemporaryFile() as output:
        running = asyncio.create_task(ssh_configuration._run(["/bin/sh", "-c", command], output, output))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the process has started now, and asyncio's call waits for another turn
        with open(os.open(held, os.O_RDONLY | os.O_NONBLOCK), "rb") as end:
            assert select.select([end], [], [], HANG_S)[0]  # in this turn
            os.set_blocking(end.fileno(), True)
            assert end.readline() == b"held\n"
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert await asyncio.to_thread(end.read) == b""


async def test_a_full_folder_for_temporary_files_is_no_empty_configuration(
    sshd: OpenSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> IO[bytes]:
        return open("/dev/full", "r+b")

    path = written(sshd, tmp_path / "config")
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(handout.errors.InventoryError, match=r"No space left on device.*TMPDIR"):
        await reached(path)


@pytest.mark.parametrize("option", ["encryption_algs", "client_keys"])
async def test_an_option_that_the_library_refuses_is_no_fault_of_the_host(
    sshd: OpenSsh, tmp_path: Path, option: str
) -> None:
    (tmp_path / "broken").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nbroken\n-----END OPENSSH PRIVATE KEY-----\n")
    value = {"encryption_algs": "none-such", "client_keys": [str(tmp_path / "broken")]}[option]
    host = Host("wrong", address="127.0.0.1", port=sshd.port, ssh={**sshd.options, option: value})
    with pytest.raises(handout.errors.InventoryError, match=r"'wrong'.*refuses"):
        await handout.execute(where()[0], inventory=[host])


@pytest.mark.parametrize(
    ("name", "remedy"), [("locked", r"ssh-add \S*locked"), ("locked.pub", "file of the private key")]
)
async def test_a_key_that_cannot_be_used_is_named_with_what_to_do(
    sshd: OpenSsh, tmp_path: Path, name: str, remedy: str
) -> None:
    import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(tmp_path / "locked"), "pkcs8-pem", passphrase="secret")
    key.write_public_key(str(tmp_path / "locked.pub"))
    keys = {**sshd.options, "client_keys": [str(tmp_path / name)]}
    host = Host("wrong", address="127.0.0.1", port=sshd.port, ssh=keys)
    with pytest.raises(handout.errors.InventoryError, match=rf"'wrong'.*refuses.*{name}\).*{remedy}"):
        await handout.execute(where()[0], inventory=[host])
