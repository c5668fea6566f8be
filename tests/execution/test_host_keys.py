"""The error for a host key that is not accepted names all facts, and the command in it works when it is typed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import asyncssh
import pytest

import handout
from handout import Graph, Host
from handout.errors import HostKeyError, InventoryError
from tests import work
from tests.sshd import OpenSsh, need_sshd, start_sshd


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """Return the path of a file for known keys. The file is not there yet."""
    return tmp_path / "ssh folder" / "known_hosts"


def aliases(sshd: OpenSsh, path: Path, known: Path, extra: str = "", jump: str = "") -> str:
    """Write a configuration with the aliases ``node`` and ``far``, which is behind ``node``. Return its path."""
    block = (
        f"  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.username}\n  IdentityFile {sshd.folder}/client_key\n"
    )
    good = f"  UserKnownHostsFile {sshd.folder / 'known_hosts'}\n"
    mine = f'  UserKnownHostsFile "{known}"\n  GlobalKnownHostsFile none\n  {extra}\n'
    path.write_text(
        f"Host node\n{block}{mine}Host far\n{block}{good}  ProxyJump node\n"
        f"Host bastion\n{block}{good}Host behind\n{block}{mine}  ProxyJump bastion\n"
    )
    return str(path)


def record(known: Path, sshd: OpenSsh, key: Path, before: str = "") -> str:
    """Write a file in which the server has a key. Return the key.

    Args:
        known: The file to write. Its folder must not be there yet.
        sshd: The server.
        key: The file of the public key.
        before: The lines before the key's.
    """
    known.parent.mkdir()
    text = key.read_text()
    known.write_text(f"{before}[127.0.0.1]:{sshd.port} {text}")
    return text


async def refused(path: str, name: str, **ssh: object) -> HostKeyError:
    with pytest.raises(HostKeyError) as caught:
        await accepted(path, name, **ssh)
    return caught.value


async def accepted(path: str, name: str, **ssh: object) -> bool:
    graph = Graph()
    out = graph.add(work.where)
    return (await handout.execute(graph, inventory=[Host(name, ssh={"config": [path], **ssh})]))[out][0] == name


def fingerprint(file: Path) -> str:
    return subprocess.run(["ssh-keygen", "-lf", file], capture_output=True, text=True, check=True).stdout.split()[1]


def typed(error: HostKeyError) -> None:
    """Type the commands of the remedy that change files."""
    commands = [text for text in re.findall(r"`([^`]+)`", str(error)) if ">>" in text or "-R" in text]
    assert commands
    for command in commands:
        subprocess.run(["sh", "-c", command], capture_output=True, check=True)


@pytest.mark.parametrize(
    "extra", ["", "HashKnownHosts yes", "HostKeyAlias shelf", "HostKeyAlias shelf\n  HashKnownHosts yes"]
)
@pytest.mark.parametrize("name", ["node", "far", "behind"])
async def test_what_the_error_says_can_be_typed_and_then_the_host_is_reached(
    sshd: OpenSsh, tmp_path: Path, known: Path, name: str, extra: str
) -> None:
    """``far`` is behind a jump host whose key is unknown, and ``behind`` is itself unknown behind a known jump host."""
    path = aliases(sshd, tmp_path / "config", known, extra)
    error = await refused(path, name)
    told = str(error)
    assert f"127.0.0.1, port {sshd.port}" in told
    assert str(known) in told
    assert fingerprint(sshd.folder / "host_key.pub") in told
    assert ("jump host 'node'" in told) == (name == "far")
    typed(error)
    hashed = known.read_text().startswith("|1|")
    assert hashed == ("HashKnownHosts" in extra)
    assert await accepted(path, name)


async def test_a_key_that_has_changed_is_told_with_the_old_one_and_its_line(
    sshd: OpenSsh, tmp_path: Path, known: Path
) -> None:
    record(known, sshd, sshd.folder / "client_key.pub", before="# mine\n\n\n")
    path = aliases(sshd, tmp_path / "config", known)
    error = await refused(path, "node")
    assert str(error).count(f"line 4 of {known}") == 1
    assert fingerprint(sshd.folder / "client_key.pub") in str(error)
    assert fingerprint(sshd.folder / "host_key.pub") in str(error)
    typed(error)
    assert await accepted(path, "node")


async def test_a_key_of_another_kind_than_the_known_one_is_a_changed_key(
    sshd: OpenSsh, tmp_path: Path, known: Path
) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", tmp_path / "rsa"], check=True)
    record(known, sshd, tmp_path / "rsa.pub", before="not a line\n")
    told = str(await refused(aliases(sshd, tmp_path / "config", known), "node"))
    assert fingerprint(tmp_path / "rsa.pub") in told
    assert fingerprint(sshd.folder / "host_key.pub") in told


async def test_a_revoked_key_is_never_to_be_added(sshd: OpenSsh, tmp_path: Path, known: Path) -> None:
    key = record(known, sshd, sshd.folder / "host_key.pub")
    known.write_text(f"{known.read_text()}@revoked * {key}")
    path = aliases(sshd, tmp_path / "config", known, "StrictHostKeyChecking no")
    told = str(await refused(path, "node"))
    assert "revoked" in told
    assert f"line 2 of {known}" in told
    assert fingerprint(sshd.folder / "host_key.pub") in told
    assert ">>" not in told
    assert 'known_hosts": None' not in told


@pytest.mark.parametrize("is_object", [False, True])
async def test_the_keys_that_the_configuration_names_as_revoked_are_refused(
    sshd: OpenSsh, tmp_path: Path, known: Path, is_object: bool
) -> None:
    """Also if ``Host(ssh=...)`` gives the known keys as an object."""
    key = record(known, sshd, sshd.folder / "host_key.pub")
    ssh = {"known_hosts": asyncssh.read_known_hosts(str(known))} if is_object else {}
    revoked = known.parent / "revoked keys"
    path = aliases(sshd, tmp_path / "config", known, f'RevokedHostKeys "{revoked}"')
    revoked.write_text(f"# mine\n\n{key}")
    told = str(await refused(path, "node", **ssh))
    assert f"line 3 of {revoked} revokes ssh-ed25519 {fingerprint(sshd.folder / 'host_key.pub')}" in told
    revoked.write_text((sshd.folder / "client_key.pub").read_text())
    assert await accepted(path, "node", **ssh)


@pytest.mark.parametrize("name", ["node", "far"])
@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ("RevokedHostKeys {folder}/krl", "revocation list"),
        ("RevokedHostKeys {folder}/none", "cannot be read: No such file"),
        ("RevokedHostKeys {folder}/text", "no public key in line 2"),
        ("KnownHostsCommand /bin/echo %H", "KnownHostsCommand"),
    ],
)
async def test_what_the_configuration_says_about_keys_and_cannot_be_honoured_is_refused(
    sshd: OpenSsh, tmp_path: Path, extra: str, told: str, name: str
) -> None:
    """Also for the jump host ``node`` before ``far``."""
    (tmp_path / "krl").write_bytes(b"SSHKRL\n\0\0\0\0\1")
    (tmp_path / "text").write_text(f"{(sshd.folder / 'client_key.pub').read_text()}[127.0.0.1] ssh-ed25519 A\n")
    known = sshd.folder / "known_hosts"
    with pytest.raises(InventoryError, match=f"'{name}'.*{told}"):
        await accepted(aliases(sshd, tmp_path / "config", known, extra.format(folder=tmp_path)), name)


async def test_the_known_kind_of_key_comes_first_among_the_algorithms_of_the_configuration(
    tmp_path: Path, known: Path
) -> None:
    """The server has a key of another kind too, which `ssh` would not ask for either."""
    need_sshd()
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "ecdsa"], check=True)
    (tmp_path / "sshd").mkdir()
    with start_sshd(tmp_path / "sshd", [f"HostKey {tmp_path / 'ecdsa'}"]) as server:
        record(known, server, tmp_path / "ecdsa.pub")
        assert await accepted(aliases(server, tmp_path / "config", known, "HostKeyAlgorithms +ssh-rsa"), "node")


async def test_a_certificate_of_an_unknown_authority_is_told_as_such(tmp_path: Path, known: Path) -> None:
    need_sshd()
    folder, authority = tmp_path / "sshd", tmp_path / "authority"
    folder.mkdir()
    for key in (authority, folder / "certified"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    certify = ["ssh-keygen", "-q", "-s", authority, "-I", "id", "-h", "-n", "127.0.0.1", folder / "certified.pub"]
    subprocess.run(certify, check=True)
    settings = [f"HostKey {folder}/certified", f"HostCertificate {folder}/certified-cert.pub"]
    with start_sshd(folder, settings) as server:
        path = aliases(server, tmp_path / "config", known)
        error = await refused(path, "node")
        assert "authority" in str(error)
        assert fingerprint(authority.with_suffix(".pub")) in str(error)
        typed(error)
        assert "@cert-authority" in known.read_text()
        assert await accepted(path, "node")


@pytest.mark.parametrize(("said", "told"), [("no", "no"), ("off", "no"), ("accept-new", "accept-new")])
async def test_a_user_who_accepts_any_key_elsewhere_is_told_how_to_do_so_here(
    sshd: OpenSsh, tmp_path: Path, said: str, told: str
) -> None:
    path = aliases(sshd, tmp_path / "config", Path("/dev/null"), f"StrictHostKeyChecking {said}")
    text = str(await refused(path, "node"))
    assert f"StrictHostKeyChecking {told}" in text
    assert 'ssh={"known_hosts": None}' in text
    assert ">>" not in text
