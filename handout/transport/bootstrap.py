"""Defines how an agent is started on a host: a command reads an input there, and prints an answer.

The answer is one line, which begins with a random marker. After the marker comes the agent's hello, which describes the
agent, or an error. This module makes the input, and reads the answer. `start_command` has the command. The launchers
send and receive the bytes.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from handout.errors import BootstrapError, SetupError, WorkdirError
from handout.transport.bundle import agent_bundle, boot_source
from handout.transport.start_command import (
    CUT,
    STAGE_0,
    TOO_OLD,
    candidates,
    for_login_shell,
    hidden_path,
    shell_lines,
    start_command,
)
from handout.transport.start_output import LINE, SETUP, HopelessOutput, MarkedOutput, quoted

__all__ = ["Bootstrap", "StartOptions", "StartedAgent", "choose_hash_seed"]

T = TypeVar("T")

#: A host that prints this many of the first bytes of what Python reads sends its input back. These bytes have no line
#: break, because a terminal changes line breaks.
_ECHO = 48
#: An error shows the name of a variable in place of its value, unless the value is shorter than this. A shorter value
#: is no secret, and may be a part of any word.
_SHORTEST_SECRET = 4
#: Shells that trace their commands (``set -x``) or list their variables quote some characters of a value. So a piece of
#: a value between such characters is a secret too, if it has at least so many characters.
_SHORTEST_PIECE = 8
_QUOTED_BY_SHELLS = re.compile(r"[\s'\"\\$`!]+")
#: An error quotes at most this many characters of a message of `handout.host.boot`, whose end has the cause.
_MESSAGE_KEPT = 2500

#: The environment variable from which Python takes the seed of its hash function when it starts.
_HASH_SEED = "PYTHONHASHSEED"

#: Remedies by the kind of error that `handout.host.boot` reports. HOST is replaced by the host's name.
_REMEDIES = {
    "named": "Correct Host(..., python=...): its path or name must be that of a Python 3.9 or newer on the host.",
    "python": "Install Python 3.9 or newer on the host, or name one with Host(..., python=...).",
    "space": "Free some space (or inodes) on the host, or set HANDOUT_TMPDIR to a folder with room.",
    "limit": "Raise this limit for the login user of the host.",
    "folder": "Check the permissions of the folder and the login user's umask on the host, or set HANDOUT_TMPDIR to a "
    "folder that the user can write to.",
    "start": "Run `ssh HOST python3 -c 'import asyncio'` to check that Python works on the host.",
    "broken": "Repair the Python that fails, or name another one with Host(..., python=...).",
    "input": "Check that the connection to the host is stable.",
}


@dataclass(frozen=True, slots=True)
class StartOptions:
    """What the inventory says about the start of an agent, besides the interpreter."""

    #: Environment variables, with their values. The values can be secrets.
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: The folder in which tasks run, or None for the folder in which the start command ends.
    workdir: str | None = None
    #: The setup line, or None.
    setup: str | None = None


@dataclass(frozen=True, slots=True)
class StartedAgent:
    """A running agent, as its hello describes it. The journal records these fields by name."""

    folder: str
    socket: str
    bundle: str
    executable: str
    python: tuple[int, int, int]
    probed: dict[str, Any]
    lingers: bool
    agent: str
    #: Process number of the supervisor on the host.
    supervisor: int = 0
    #: The seed of Python's hash function in the agent's workers. None if Python has chosen the seed.
    hash_seed: int | None = None


class Bootstrap:
    """One start of an agent.

    Args:
        host: The host's name, for messages.
        python: The interpreter to use on the host, or None to look for one.
        settings: Settings of the supervisor and the agent, such as the timings.
        hash_seed: The seed of Python's hash function in the workers; see `choose_hash_seed`. None: Python chooses it.
        options: Variables, folder and setup line of the host.
    """

    def __init__(
        self,
        host: str,
        python: str | None,
        settings: dict[str, Any],
        hash_seed: int | None = None,
        options: StartOptions | None = None,
    ) -> None:
        self.host = host
        self.python = python
        self._options = options or StartOptions()
        self._hash_seed = hash_seed
        #: The secret that proves to the agent that a connection comes from the controller. The host gets it through
        #: standard input only, because every user of the host can read command lines.
        self.token = secrets.token_hex(32)
        self.marker = f"handout-{secrets.token_hex(8)}:"
        self.output = self._new_output()
        #: The launcher sets this when it tells the host to start an agent. From then on, an agent may run on the host.
        self.command_sent = False
        #: The interpreters to try, for messages.
        self._tried = candidates(python)
        self._settings = settings
        if self._options.workdir is not None:
            self._settings = {**settings, "workdir": self._options.workdir}

    def begin(self) -> None:
        """Forget what an earlier start printed, because the launcher starts the agent anew."""
        self.output = self._new_output()

    def _new_output(self) -> MarkedOutput:
        hidden = {self.token: "[secret]"}
        for name, value in self._options.env.items():
            pieces = [piece for piece in _QUOTED_BY_SHELLS.split(value) if len(piece) >= _SHORTEST_PIECE]
            whole = [value] if len(value) >= _SHORTEST_SECRET else []
            hidden.update(dict.fromkeys([*whole, *pieces], f"[{name}]"))
        return MarkedOutput(self.marker, echoes=(f"{self.marker}{LINE}".encode(),), hidden=hidden)

    def command(self) -> str:
        """Return a command line for any login shell. It starts ``sh``, which finds a suitable Python and runs it."""
        return for_login_shell(start_command(self.marker))

    def command_stdin(self) -> bytes:
        """Return everything that `command` reads on its standard input: lines for the shell, and what Python reads."""
        return self._with_shell_lines(self.python)

    def local_argv(self) -> list[str]:
        """Return the command for the controller's own machine. It needs a shell only for the setup line."""
        if self._options.setup is not None:
            return start_command(self.marker)
        return [self._local_python, "-c", STAGE_0]

    def local_environment(self) -> dict[str, str]:
        """Return the environment for `local_argv`. The shell for the setup line sets the variables of the host."""
        if self._options.setup is not None:
            return dict(os.environ)
        return {**hidden_path(self._options.env), **self._last_variables()}

    def local_stdin(self) -> bytes:
        """Return everything that `local_argv` reads on its standard input."""
        return self.stdin() if self._options.setup is None else self._with_shell_lines(self._local_python)

    @property
    def _local_python(self) -> str:
        return self.python or sys.executable

    def _last_variables(self) -> dict[str, str]:
        return {} if self._hash_seed is None else {_HASH_SEED: str(self._hash_seed)}

    def _with_shell_lines(self, python: str | None) -> bytes:
        options, self._tried = self._options, candidates(python)
        lines = shell_lines(self.marker, python, options.env, self._last_variables(), options.setup)
        data = lines + self.stdin()
        self.output.size = len(data)
        return data

    def stdin(self) -> bytes:
        """Return everything that Python reads on its standard input."""
        source, bundle = boot_source(), agent_bundle()
        preface = {
            "marker": self.marker,
            "token": self.token,
            "size": len(bundle.data),
            "settings": {**self._settings, "host": self.host, "digest": bundle.digest},
        }
        main = source + b"\n"
        data = b"%08d" % len(main) + main + json.dumps(preface).encode() + b"\n" + bundle.data
        # The lines for the shell begin with the marker. The program that sends the input back may have read them.
        self.output.echoes, self.output.size = (f"{self.marker}{LINE}".encode(), data[:_ECHO]), len(data)
        return data

    def result(self, exit_status: int | None = None) -> StartedAgent:
        """Return the agent that the answer of the command describes.

        Args:
            exit_status: The command's exit status. If there is no answer, the error message contains this status.

        Raises:
            BootstrapError: There is no answer, or the answer is an error.
        """
        line = self.output.line
        if self.is_in_setup:
            raise self._setup_failed(exit_status)
        if line is None and exit_status == TOO_OLD:
            line = b"no-python " + self._local_python.encode()
        if line is None:
            raise self._no_answer(exit_status)
        if line.startswith(b"no-python"):
            raise self._no_python(line)
        try:
            report = json.loads(line)
            if "error" not in report:
                return replace(_started(report), hash_seed=self._hash_seed)
            kind, message = str(report["error"]), str(report.get("message", ""))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            text = quoted(self.output.without_secrets(line.decode("utf-8", "replace"))[:200])
            raise self._error(
                f"Host {self.host!r} answered, but not as an agent does: '{text}'.",
                "Check the login shell on the host, because something there changes what programs print.",
            ) from None
        message = self.output.without_secrets(message)
        text = "\n".join(quoted(each) for each in message[-_MESSAGE_KEPT:].splitlines()).rstrip(".")
        if kind == "workdir":
            raise self._no_workdir(text)
        raise self._error(
            f"The agent did not start on host {self.host!r}: {text}.",
            _REMEDIES.get(kind, "").replace("HOST", self.host),
        )

    @property
    def is_in_setup(self) -> bool:
        """True if the setup line has begun, and was not seen to end. No agent runs then."""
        return self._options.setup is not None and self.output.stage == SETUP and self.output.line is None

    def hopeless(self, error: HopelessOutput) -> BootstrapError:
        """Return the error for a host that prints what no start of an agent prints."""
        if self.is_in_setup:
            return self._setup_error(f"{error}", None, "Let the line print less, or let it print into a file.")
        return self._error(
            f"No agent can start on host {self.host!r}, because the host {error}. The start command printed: "
            f"{self.output.quoted()}.",
            "Check the login shell on the host. `ssh HOST true` must print little and end by itself.".replace(
                "HOST", self.host
            ),
        )

    def late(self, within_s: float, login: str) -> BootstrapError:
        """Return the error for a start that took too long.

        Args:
            within_s: The start had no progress for this many seconds.
            login: The command that logs in to the host by hand, or "" for the controller's own machine.
        """
        if self.is_in_setup:
            remedy = "Let the line start what takes longer in the background, or outside of Handout."
            return self._setup_error(f"did not end within {within_s:.0f} s", None, remedy)
        if not login:
            return self._error(
                f"No agent answered within {within_s:.0f} s on this machine. The start command printed: "
                f"{self.output.quoted()}.",
                "Check whether this machine is overloaded.",
            )
        return self._error(
            f"No agent answered on host {self.host!r}: the start made no progress for {within_s:.0f} s. The start "
            f"command printed: {self.output.quoted()}.",
            f"Check that `{login} true` ends by itself, and that the host is not overloaded.",
        )

    def _setup_failed(self, status: int | None) -> SetupError:
        """Return the error for a setup line that has ended the start command with a status."""
        if status == 0:
            remedy = "Leave out `exit` and `exec`, which end the shell of the line."
            return self._setup_error("ended its shell, with exit status 0", status, remedy)
        return self._setup_error(
            f"failed with exit status {status}",
            status,
            "Correct Host(..., setup=...). A login shell runs the line. It reads /etc/profile and ~/.bash_profile, but "
            "not ~/.bashrc. If a command is not found, let the line first run the script that defines the command, "
            "with `source` or `.`.",
        )

    def _setup_error(self, what: str, status: int | None, remedy: str) -> SetupError:
        setup = self._options.setup or ""
        return SetupError(
            f"The setup line of host {self.host!r} {what}: '{quoted(setup)}'. It printed: {self.output.quoted()}.",
            remedy=remedy,
            host=self.host,
            output=self.output.printed(),
            setup=setup,
            status=status,
        )

    def _no_workdir(self, text: str) -> WorkdirError:
        workdir = self._options.workdir or ""
        return WorkdirError(
            f"Tasks cannot run in the folder {quoted(workdir)!r} on host {self.host!r}: {text}.",
            remedy="Make the folder on the host, for example with Host(..., setup='mkdir -p FOLDER'), or correct "
            "Host(..., workdir=...).",
            host=self.host,
            path=workdir,
        )

    def _no_answer(self, exit_status: int | None) -> BootstrapError:
        if exit_status == CUT:
            return self._error(
                f"No agent can start on host {self.host!r}, because another program of the login has read the input of "
                f"the start command. The start command printed: {self.output.quoted()}.",
                "Find the program in the start files of the login shell, such as ~/.bashrc, and give it an input of "
                "its own: program </dev/null.",
            )
        remedy = "Check the login shell on the host, because an agent cannot start if the shell runs another program "
        if self.output.errors:
            remedy = "What the command printed says why. Check also the login shell on the host: an agent cannot start "
            remedy += "if the shell runs another program "
        return self._error(
            f"Host {self.host!r} ran the start command (exit status {exit_status}), but no agent answered. "
            f"The command printed: {self.output.quoted()}.",
            f"{remedy}or exits early.",
        )

    def _no_python(self, line: bytes) -> BootstrapError:
        found = [word.rpartition("=") for word in line[len(b"no-python") :].decode("utf-8", "replace").split()]
        tried = self._tried
        old = [quoted(name) for before, _, name in found if not before]
        broken = [f"{quoted(name)} failed with exit status {quoted(status)}" for name, _, status in found if name]
        told = "found none of them" if len(tried) > 1 else "did not find it"
        if old or broken:
            told = " and ".join([*([f"found only older ones ({', '.join(old)})"] if old else []), *broken])
        message = (
            f"No Python 3.9 or newer was found on host {self.host!r}. The start command looked for {', '.join(tried)}, "
            f"and {told}."
        )
        if broken:
            message = (
                f"No Python 3.9 or newer works on host {self.host!r}. The start command looked for {', '.join(tried)}: "
                f"{told}. It printed: {self.output.quoted()}."
            )
        kind = "broken" if broken else "python" if self.python is None else "named"
        return self._error(message, _REMEDIES[kind])

    def _error(self, message: str, remedy: str) -> BootstrapError:
        return BootstrapError(message, remedy=remedy, host=self.host, output=self.output.printed())


def _started(report: dict[str, Any]) -> StartedAgent:
    """Return the agent that a hello describes.

    Raises:
        KeyError, TypeError, ValueError: The report is not a hello.
    """
    folder = _of_type(report["folder"], str)
    major, minor, micro = (_of_type(number, int) for number in report["python"])
    probed = _of_type(report.get("probed", {}), dict)
    return StartedAgent(
        folder=folder,
        socket=_of_type(report.get("socket") or f"{folder}/agent.sock", str),
        bundle=_of_type(report["bundle"], str),
        executable=_of_type(report["executable"], str),
        python=(major, minor, micro),
        probed=probed,
        lingers=bool(report.get("lingers", True)),
        agent=_of_type(report.get("agent", ""), str),
        supervisor=_of_type(report.get("supervisor", 0), int),
    )


def _of_type(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def choose_hash_seed() -> int:
    """Return a seed of Python's hash function for all workers of a cluster.

    The hash of a text depends on the seed, so two workers with different seeds order the same set differently, and may
    assign the same key to different partitions. If the program was started with its own seed, the workers use it too.
    Otherwise the seed is random, because a seed that everybody knows would let an attacker make a dictionary slow.
    """
    own = os.environ.get(_HASH_SEED, "")
    return int(own) if own.isascii() and own.isdigit() else secrets.randbelow(1 << 32)
