"""What many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sshd import OpenSsh, need_sshd, start_sshd


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSsh]:
    """One OpenSSH server on loopback for the whole session."""
    need_sshd()
    with start_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``-n 2``, folders are spread over two processes, and none is torn apart."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.path.parent.name))
