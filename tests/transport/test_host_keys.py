"""Known and revoked keys of hosts, and the error for a key that is not accepted, without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from handout.transport.host_keys import KeyChecker, KeyPolicy, host_key_error, load_known_hosts, with_revoked

KEY = asyncssh.generate_private_key("ssh-ed25519").convert_to_public()
OTHER = asyncssh.generate_private_key("ssh-ed25519").convert_to_public()


def line(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode()


FORMS: dict[str, Callable[[bytes], Any]] = {
    "contents": lambda text: text,
    "object": lambda text: asyncssh.import_known_hosts(text.decode()),
    "function": lambda _: lambda host, address, port: ([KEY, OTHER] if host == "node" else [], [], []),
    "lists": lambda _: ([KEY, OTHER], [], []),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_revoked_keys_of_the_configuration_count_beside_known_keys_in_any_form(tmp_path: Path, form: str) -> None:
    (tmp_path / "revoked").write_text(f"# mine\n{line(OTHER)}")
    given = FORMS[form](f"node {line(KEY)}node {line(OTHER)}".encode())
    policy = KeyPolicy([], None, "node", revoked=str(tmp_path / "revoked"))
    keys, authorities, revoked, *_ = asyncssh.match_known_hosts(with_revoked(given, policy), "node", "127.0.0.1", 2222)
    assert list(keys) == [KEY, OTHER]
    assert not authorities
    assert list(revoked) == [OTHER]
    assert with_revoked(given, KeyPolicy([], None, "node")) is given


def error_with(policy: KeyPolicy) -> str:
    checker = KeyChecker(lambda: None)
    checker.validate_host_public_key("node", "127.0.0.1", 22, KEY)
    return str(host_key_error("node", "Host 'node'", policy, checker, 22, "Host key is not trusted", is_jump=False))


def test_the_error_for_a_key_names_the_files_that_could_not_be_read(tmp_path: Path) -> None:
    """The folder is in the place of a file, because the superuser can read each file."""
    missing, folder = tmp_path / "none", tmp_path / "folder"
    folder.mkdir()
    files = [str(missing), str(folder)]
    text = error_with(KeyPolicy(files, files[0], "node", revoked=str(tmp_path / "gone")))
    assert f"found no key for node in {missing}, {folder}." in text
    assert f" {folder} could not be read: Is a directory. {tmp_path}/gone could not be read: No such file" in text
    assert f"{missing} could not be read" not in text


def test_without_the_file_of_revoked_keys_no_key_counts(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_known_hosts(KeyPolicy([], None, "node", revoked=str(tmp_path / "gone")))
