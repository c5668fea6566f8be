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
    """A server that runs, and what a client has to know about it."""

    folder: Path
    port: int
    username: str
    process: subprocess.Popen[str]
    address: str = "127.0.0.1"

    @property
    def options(self) -> dict[str, object]:
        """For ``Host(ssh=...)``: this server's keys and nothing of the user's own configuration."""
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
        python: str = sys.executable,
        port: int | None = None,
    ) -> Host:
        """An inventory entry; several names make several hosts of this one server.

        Args:
            name: Of the host.
            capabilities: What is declared of it.
            python: The interpreter there.
            port: Of a proxy in front of the server: the same key is known there.
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
        )

    def inventory_file(self, hosts: Mapping[str, str], *, python: str = sys.executable) -> Path:
        """A ``hosts.toml`` with each name's capabilities given as an inline table."""
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
        folder: An empty folder for its keys and its configuration.
        settings: Lines for its ``sshd_config``; they win over the ones here.
        address: Where it listens.
        prefix: What its command line begins with: a program that turns into it, such as ``ip netns exec NAME``.
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
    """Return the SetEnv line for programs that the server starts. sshd heeds only one such line."""
    said = [line.removeprefix("SetEnv ") for line in settings if line.startswith("SetEnv ")]
    values = {**handed_on(), **dict(pair.split("=", 1) for line in said for pair in line.split())}
    return ["SetEnv " + " ".join(f"{name}={value}" for name, value in values.items())] if values else []


def _copy_log(process: subprocess.Popen[str], path: Path, listening: threading.Event) -> None:
    """Copy the server's log into a file, so that the server never waits for a reader. Set `listening` when it is up."""
    assert process.stderr is not None
    with process.stderr as lines, path.open("w", encoding="utf-8") as log:
        for line in lines:
            log.write(line)
            log.flush()
            if line.startswith("Server listening"):
                listening.set()
