"""Fixtures: a machine on which a reader of the pages can follow them, with hosts that ``ssh NAME`` reaches."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.patience import HANG_S
from tests.sshd import start_login

FOLDER = Path(__file__).parent / "folder"


@dataclass(frozen=True)
class Reader:
    """The environment of a user who can log in to every host that a page names."""

    environment: dict[str, str]

    def new_folder(self, path: Path) -> Path:
        """Make a folder with the files that the pages use."""
        return Path(shutil.copytree(FOLDER, path))


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Run an OpenSSH server, and write an SSH configuration in which each name is a host of this server.

    On these hosts, the home folder has the files that the pages use, and ``python3`` is the Python of the tests.
    """
    folder = tmp_path_factory.mktemp("reader")
    home_of_hosts = shutil.copytree(FOLDER, folder / "host")
    path = f"{Path(sys.executable).parent}:$PATH"
    lines = [f"export HOME={home_of_hosts} PATH={path}", 'cd "$HOME"', 'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"']
    with start_login(folder, lines) as server:
        (folder / "home" / ".ssh").mkdir(parents=True)
        config = {
            "HostName": server.address,
            "Port": server.port,
            "User": server.username,
            "IdentityFile": server.folder / "client_key",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": server.folder / "known_hosts",
        }
        text = "Host *\n" + "".join(f"  {key} {value}\n" for key, value in config.items())
        (folder / "home" / ".ssh" / "config").write_text(text, encoding="utf-8")
        # Prefect starts a server of its own, which may take longer than its default of 20 s on a busy machine.
        patience = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(int(HANG_S))}
        yield Reader({**os.environ, **patience, "HOME": str(folder / "home")})
