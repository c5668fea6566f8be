"""A real OpenSSH server for tests: on loopback, on its own port, with keys of its own in a temporary folder."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handout.resources.host import Host
from tests.ledger import handed_on
from tests.patience import HANG_S

__all__ = ["OpenSsh", "find_sshd", "need_sshd", "start_sshd"]

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def find_sshd() -> str | None:
    """Return the path of sshd, also for a user whose PATH leaves out sbin."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")


def need_sshd() -> None:
    """Skip the running test if the machine has no sshd."""
    import pytest  # here, because benchmarks import this module without pytest

    if find_sshd() is None:
        pytest.skip("no OpenSSH server on this machine: install openssh-server")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text(encoding="utf-8")


@dataclass(frozen=True)
class OpenSsh:
    """A running server, with the data that a client needs."""

    folder: Path
    port: int
    username: str
    process: subprocess.Popen[str]
    address: str = "127.0.0.1"

    @property
    def options(self) -> dict[str, object]:
        """The options for ``Host(ssh=...)``: the keys of this server, and none of the user's own configuration."""
        return {
            "known_hosts": str(self.folder / "known_hosts"),
            "client_keys": [str(self.folder / "client_key")],
            "config": [],
        }

    def host(
        self,
        name: str,
        capabilities: Mapping[str, object] | None = None,
        *,
        python: str | None = sys.executable,
        port: int | None = None,
        **given: Any,
    ) -> Host:
        """Return an inventory entry for this server. Each name makes another host of the one server.

        Args:
            name: The name of the host.
            capabilities: The capabilities that the entry declares.
            python: The interpreter on the host.
            port: The port of a proxy in front of the server. The client accepts the server's key at that port, too.
            **given: Further arguments of `Host`.
        """
        options = self.options
        if port is not None:
            known = self.folder / f"known_hosts_{port}"
            known.write_text((self.folder / "known_hosts").read_text().replace(f":{self.port} ", f":{port} "))
            options["known_hosts"] = str(known)
        return Host(
            name,
            address=self.address,
            port=self.port if port is None else port,
            username=self.username,
            python=python,
            capabilities=dict(capabilities or {}),
            ssh=options,
            **given,
        )

    def inventory_file(self, hosts: Mapping[str, str], *, python: str = sys.executable) -> Path:
        """Write a ``hosts.toml`` and return its path.

        Args:
            hosts: The capabilities of each host, as an inline TOML table, by the name of the host.
            python: The interpreter on all hosts.
        """
        lines = [
            "[defaults]",
            f'address = "{self.address}"',
            f"port = {self.port}",
            f'username = "{self.username}"',
            f'python = "{python}"',
            "[defaults.ssh]",
            *(f"{key} = {value!r}" for key, value in self.options.items()),
        ]
        for name, capabilities in hosts.items():
            lines += [f"[hosts.{name}]", f"capabilities = {capabilities}"]
        path = self.folder / f"{'-'.join(hosts)}.toml"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path


@contextmanager
def start_sshd(
    folder: Path, settings: Iterable[str] = (), *, address: str = "127.0.0.1", prefix: Sequence[str] = ()
) -> Iterator[OpenSsh]:
    """Run a server until the block ends.

    Args:
        folder: An empty folder for the server's keys and configuration.
        settings: Lines for ``sshd_config``. They take precedence over the lines that this function writes.
        address: The address at which the server listens.
        prefix: The beginning of the command line. The program there must replace itself by the server, as
            ``ip netns exec`` does.
    """
    program = find_sshd()
    assert program, "no sshd on this machine"
    public = _make_key(folder / "client_key")
    host_key = _make_key(folder / "host_key")
    port = _free_port()
    (folder / "authorized_keys").write_text(public, encoding="utf-8")
    (folder / "known_hosts").write_text(f"[{address}]:{port} {host_key}", encoding="utf-8")
    lines = [
        *_set_env(settings),
        *settings,  # before the defaults: sshd takes the first value that it reads
        f"Port {port}",
        f"ListenAddress {address}",
        f"HostKey {folder / 'host_key'}",
        f"AuthorizedKeysFile {folder / 'authorized_keys'}",
        "PidFile none",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "StrictModes no",
        "LogLevel INFO",
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # a container has not run the service that makes this folder
    process = subprocess.Popen(
        [*prefix, program, "-D", "-e", "-f", str(folder / "sshd_config")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    listening = threading.Event()
    reader = threading.Thread(target=_copy_log, args=(process, folder / "sshd.log", listening))
    reader.start()
    try:
        assert listening.wait(timeout=HANG_S), (
            f"sshd did not start: {(folder / 'sshd.log').read_text(encoding='utf-8')}"
        )
        yield OpenSsh(folder, port, getpass.getuser(), process, address)
    finally:
        process.terminate()
        process.wait()
        reader.join(timeout=HANG_S)


def _set_env(settings: Iterable[str]) -> list[str]:
    """Return one SetEnv line with the variables of `settings` and of the ledger: sshd uses only the first such line."""
    said = [line.removeprefix("SetEnv ") for line in settings if line.startswith("SetEnv ")]
    values = {**handed_on(), **dict(pair.split("=", 1) for line in said for pair in line.split())}
    return ["SetEnv " + " ".join(f"{name}={value}" for name, value in values.items())] if values else []


def _copy_log(process: subprocess.Popen[str], path: Path, listening: threading.Event) -> None:
    """Copy the server's log into a file, and set `listening` when the log says that the server listens.

    If no thread read the server's output, the pipe could fill up, and the server would wait.
    """
    assert process.stderr is not None
    with process.stderr as lines, path.open("w", encoding="utf-8") as log:
        for line in lines:
            log.write(line)
            log.flush()
            if line.startswith("Server listening"):
                listening.set()


@contextmanager
def start_login(folder: Path, lines: Iterable[str], settings: Iterable[str] = ()) -> Iterator[OpenSsh]:
    """Run a server whose login runs a script. Without an sshd on this machine, skip the test.

    Args:
        folder: The folder for the script, and for the folder of the server.
        lines: The lines of the script, in ``sh``. The script must run the command ``$SSH_ORIGINAL_COMMAND``.
        settings: See `start_sshd`.
    """
    need_sshd()
    script = folder / "login"
    script.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    script.chmod(0o755)
    (folder / "sshd").mkdir()
    with start_sshd(folder / "sshd", [f"ForceCommand {script}", *settings]) as server:
        yield server
