"""Asks ``ssh`` what the user's SSH configuration means for one host.

``ssh -G HOST`` prints the value of each option after ``ssh`` has read its configuration: with patterns, ``Match``
blocks, included files, comments and quotes. asyncssh reads the same files in a way of its own. It refuses comments
behind values, and options that it does not know well; see "Decisions worth knowing" in ``docs/design.md``. So the
launcher lets ``ssh`` read the configuration, and gives asyncssh the values.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

from handout.errors import HostUnreachableError, InventoryError
from handout.transport.shielded import uninterrupted
from handout.transport.start_output import quoted

__all__ = ["Configured", "find_ssh", "read_configuration"]

#: ``ssh -G`` takes milliseconds, unless a ``Match exec`` runs a program that takes longer.
_READ_TIMEOUT_S = 15.0
#: A program that was killed gets this many seconds to end.
_END_TIMEOUT_S = 1.0
#: Bytes of room for what ``ssh -G`` prints, which is 4 to 6 KB for most configurations.
_ROOM = 1 << 16
_TOKEN = re.compile(r"%(.)")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Configured:
    """What the user's SSH configuration says about one host, by the names of ``ssh -G``, which are in lower case.

    Args:
        name: The host as the user wrote it.
        values: All values of each option.
        defaults: The values that ``ssh`` uses without any configuration.
        by_hand: The beginning of a command line that uses the same configuration: ``ssh``, and perhaps ``-F FILE``.
    """

    name: str
    values: Mapping[str, Sequence[str]]
    defaults: Mapping[str, Sequence[str]] = field(repr=False)
    by_hand: str = "ssh"

    def get(self, option: str, default: str = "") -> str:
        """Return the first value of an option."""
        values = self.values.get(option, ())
        return values[0] if values else default

    def all(self, option: str) -> Sequence[str]:
        """Return all values of an option that may be given several times."""
        return self.values.get(option, ())

    def is_set(self, option: str) -> bool:
        """Return True if the value differs from the one that ``ssh`` uses without any configuration."""
        return self.values.get(option) != self.defaults.get(option)

    def is_on(self, option: str) -> bool:
        """Return True if the option is switched on."""
        return self.get(option) not in ("", "no", "false", "none")

    @property
    def address(self) -> str:
        """The host name or the IP address to connect to."""
        return self.get("hostname", self.name)

    @property
    def port(self) -> int:
        """The port to connect to."""
        return int(self.get("port", "22"))

    @property
    def username(self) -> str:
        """The user to log in as."""
        return self.get("user")

    @property
    def jumps(self) -> Sequence[str]:
        """The jump hosts, in the order in which they are reached."""
        return [] if self.get("proxyjump", "none") == "none" else self.get("proxyjump").split(",")

    @property
    def proxy_command(self) -> Sequence[str] | None:
        """The command line of the program that carries the bytes of the connection, or None."""
        command = self.get("proxycommand", "none")
        # As `ssh` does, the user's shell runs the command.
        return (
            None if command == "none" else [os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {self.expand(command)}"]
        )

    def expand(self, text: str) -> str:
        """Replace the tokens, such as ``%h``, and the variables in a value; see "TOKENS" in ssh_config(5)."""
        tokens = self._tokens()
        text = _TOKEN.sub(lambda match: tokens.get(match[1], match[0]), text)
        return _VARIABLE.sub(lambda match: os.environ.get(match[1], ""), text)

    def path(self, text: str) -> str:
        """Return the path of a file that the configuration names."""
        return os.path.expanduser(self.expand(text))

    def paths(self, option: str) -> list[str]:
        """Return the files of an option that has several in one value. ``ssh -G`` prints them without quotes."""
        found: list[str] = []
        for word in self.get(option, "none").split(" "):
            # A path may have spaces. A word that cannot begin an absolute path is the rest of the path before it.
            if found and word[:1] not in ("/", "~", "%", "$"):
                found[-1] += f" {word}"
            else:
                found.append(word)
        found = [self.path(path) for path in found]
        return [path for path in found if path not in ("none", "")]

    @property
    def identity_files(self) -> list[str]:
        """The files of the user's keys that are there. ``ssh`` skips others as well."""
        named = [self.path(each) for each in self.all("identityfile") if each != "none"]
        return [path for path in dict.fromkeys(named) if os.path.isfile(path) and os.access(path, os.R_OK)]

    @property
    def known_hosts_files(self) -> tuple[list[str], str | None]:
        """The files with the keys of hosts, which need not exist, and the one in which the user records new keys."""
        user = self.paths("userknownhostsfile") if self.is_set("userknownhostsfile") else _default_known_hosts()
        record_in = next((path for path in user if os.path.realpath(path) != os.devnull), None)
        return [*user, *self.paths("globalknownhostsfile")], record_in

    def _tokens(self) -> dict[str, str]:
        local = socket.gethostname()
        port, user = self.get("port", "22"), self.username
        jump = self.get("proxyjump")
        key = self.get("hostkeyalias") or self.address
        digest = hashlib.sha1(f"{local}{self.address}{port}{user}{jump}".encode(), usedforsecurity=False).hexdigest()
        return {
            "%": "%",
            "C": digest,
            "d": os.path.expanduser("~"),
            "h": self.address,
            "i": str(os.getuid()),
            "j": jump,
            "k": key,
            "L": local.partition(".")[0],
            "l": local,
            "n": self.name,
            "p": port,
            "r": user,
            "u": pwd.getpwuid(os.getuid()).pw_name,
        }


def _default_known_hosts() -> list[str]:
    return [os.path.expanduser(f"~/.ssh/known_hosts{number}") for number in ("", "2")]


@cache
def find_ssh() -> str | None:
    """Return the path of the program ``ssh`` on this machine, or None if it is not there or will not run."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return None  # `ssh` refuses to run for a user without an entry in the user database, as containers have them
    return shutil.which("ssh")


#: The values that `ssh` uses without any configuration. `ssh` is asked once.
_defaults: dict[str, list[str]] = {}


async def read_configuration(
    name: str, username: str | None, port: int | None, files: Sequence[str] | None, host: str
) -> Configured:
    """Ask ``ssh`` what the configuration says about a host.

    Args:
        name: The host, as the user would write it behind ``ssh``.
        username: The user to log in as, or None if the configuration decides.
        port: The port, or None if the configuration decides.
        files: The files of the configuration. None: the files that ``ssh`` reads by default.
        host: The name of the inventory's host, for messages.

    Raises:
        InventoryError: ``ssh`` refuses the configuration.
        HostUnreachableError: ``ssh`` did not answer in time.
    """
    program = find_ssh()
    assert program is not None
    if not _defaults:
        _defaults.update(_parse(await _ask([program, "-G", "-F", "none", "--", "host"], host, "ssh")))
    files, by_hand = _files(files)
    given = [] if username is None else ["-l", username]
    given += [] if port is None else ["-p", str(port)]
    with _switches(files) as chosen:
        argv = [program, "-G", *chosen, *given, "--", name]
        values = _parse(await _ask(argv, host, f"{by_hand} -G {shlex.quote(name)}"))
    return Configured(name, values, _defaults, by_hand)


def _files(files: Sequence[str] | None) -> tuple[Sequence[str] | None, str]:
    """Return the files to name to ``ssh``, or None for those it reads by default, and the command for a message."""
    if files is None:
        home = os.path.expanduser("~")
        if os.path.realpath(home) == os.path.realpath(pwd.getpwuid(os.getuid()).pw_dir):
            return None, "ssh"
        # `ssh` ignores the variable HOME. All other code of the controller uses it.
        mine = f"{home}/.ssh/config"
        files = [path for path in (mine, "/etc/ssh/ssh_config") if os.path.exists(path)]
        return files, f"ssh -F {shlex.quote(mine)}" if files[:1] == [mine] else "ssh"
    return files, f"ssh -F {shlex.quote(files[0])}" if len(files) == 1 else "ssh"


@contextmanager
def _switches(files: Sequence[str] | None) -> Iterator[list[str]]:
    """Yield the switches that make ``ssh`` read these files. None: the files that it reads by default."""
    if files is None:
        yield []
    elif len(files) <= 1:
        yield ["-F", files[0] if files else "none"]
    else:
        # This is a file because `ssh` reads its configuration twice for ``Match final`` and ``CanonicalizeHostname``.
        with tempfile.NamedTemporaryFile(prefix="handout-ssh-") as file:
            for path in files:
                file.write(b'Include "%s"\n' % os.fsencode(Path(path).absolute()))
            file.flush()
            yield ["-F", file.name]


async def _ask(argv: Sequence[str], host: str, by_hand: str) -> str:
    # The output goes to files, because a program of a `Match exec` may hold a pipe open.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        # The room is taken first: if the file system were full, `ssh` would print less, without an error.
        output.write(bytes(_ROOM))
        output.seek(0)
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                status = await _run(argv, output, errors)
        except TimeoutError:
            raise HostUnreachableError(
                f"Host {host!r}: `{by_hand}` did not print the SSH configuration within {_READ_TIMEOUT_S:.0f} s.",
                remedy="Check the programs behind `Match exec` in the SSH configuration.",
                host=host,
            ) from None
        output.seek(0)
        errors.seek(0)
        printed = output.read().rstrip(b"\0").decode("utf-8", "surrogateescape")
        said = quoted("; ".join(errors.read().decode("utf-8", "replace").split("\n")).replace("\r", "").strip(" ;"))
    if status == 0:
        return printed
    raise InventoryError(
        f"Host {host!r}: ssh refuses its configuration: {said or f'exit status {status}'}.",
        remedy=f"Correct the SSH configuration. `{by_hand}` shows the same error.",
        host=host,
    )


async def _run(argv: Sequence[str], output: IO[bytes], errors: IO[bytes]) -> int:
    """Run a program in a session of its own, and return its exit status.

    If this call is cancelled, as at a limit of time, the program is killed, and with it the programs of a `Match exec`,
    which are in the same process group.
    """
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
        )
    )
    try:
        process = await asyncio.shield(starting)
        return await process.wait()
    except asyncio.CancelledError:
        await uninterrupted(_kill(starting))
        raise


async def _kill(starting: asyncio.Future[asyncio.subprocess.Process]) -> None:
    """Kill a program and its process group, as soon as it has started."""
    try:
        process = await starting
    except OSError:
        return  # it has not started
    with suppress(ProcessLookupError, PermissionError):  # the program has just ended, or runs as another user
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_TIMEOUT_S):
            await process.wait()


def _parse(text: str) -> dict[str, list[str]]:
    values: dict[str, list[str]] = defaultdict(list)
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        values[key.lower()].append(value)
    return dict(values)
