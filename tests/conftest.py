"""What many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sshd import OpenSsh, find_sshd, start_sshd


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSsh]:
    """One OpenSSH server on loopback for the whole session."""
    if find_sshd() is None:
        pytest.skip("no OpenSSH server on this machine: install openssh-server")
    with start_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server
