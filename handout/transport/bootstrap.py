"""Defines how an agent is started on a host: a command reads an input there, and prints an answer.

The answer is one line, which begins with a random marker. After the marker comes the agent's hello, which describes the
agent, or an error. This module makes the command line and the input, and reads the answer. The launchers send and
receive the bytes.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from handout.errors import BootstrapError
from handout.transport.bundle import agent_bundle, boot_source
from handout.transport.start_output import HopelessOutput, MarkedOutput, quoted

__all__ = ["OLDEST_PYTHON", "Bootstrap", "StartedAgent", "choose_hash_seed", "relay_command", "start_environment"]

T = TypeVar("T")

OLDEST_PYTHON = (3, 9)
#: The command line looks for Python 3 under names such as ``python3.12``, up to this minor version.
_NEWEST_MINOR = 15
#: Python adds the start folder to ``sys.path``, as a relative path. This code removes it, because a module there, such
#: as a ``random.py`` in the home folder, could take the place of a module of the standard library.
_CLEAN_PATH = "sys.path[:]=[p for p in sys.path if p[:1]==chr(47)]"
#: The code that Python runs on the host first. If Python is too old, the code exits with status 93 and reads no input.
#: Otherwise the code reads the source of `handout.host.boot` from standard input and executes this source. If the input
#: does not begin with the length of the source, the code exits with status 95.
_STAGE_0 = (
    f"import sys;{_CLEAN_PATH};sys.version_info<(3,9) and sys.exit(93);r=sys.stdin.buffer.read;n=r(8);"
    "n.isdigit() or sys.exit(95);exec(r(int(n)))"
)
#: Hides ``PYTHONPATH`` from the Python that a shell starts next, because its folders may have modules with names of the
#: standard library. `handout.host.boot` gives it back to the workers. From Python 3.11 on, PYTHONSAFEPATH keeps the
#: start folder off ``sys.path`` even before the first line of code runs. The switch ``-I`` would do both. But Python
#: passes ``-I`` on to the processes that a task starts with `multiprocessing`.
_HIDE_PATH = (
    'if [ -n "$PYTHONPATH" ]; then HANDOUT_PYTHONPATH=$PYTHONPATH; export HANDOUT_PYTHONPATH; unset PYTHONPATH; fi; '
    ': "${PYTHONSAFEPATH:=handout}"; export PYTHONSAFEPATH; '
)

#: The exit status of a Python that is too old.
TOO_OLD = 93
#: The exit status of a Python that has begun to read its input and could not start the agent (`handout.host.boot`).
BEGUN = 94
#: The exit status of a start whose input does not begin as `Bootstrap.command_stdin` does.
CUT = 95
#: A host that prints this many of the first bytes of what Python reads sends its input back. These bytes have no line
#: break, because a terminal changes line breaks.
_ECHO = 48
#: The line with the hash seed, which may come before these bytes. A terminal ends it with two bytes.
_SEED_LINE = rb"(?:\d{1,10}\s{1,2})?"
#: An error quotes at most this many characters of a message of `handout.host.boot`, whose end has the cause.
_MESSAGE_KEPT = 2500

#: The environment variable from which Python takes the seed of its hash function when it starts.
_HASH_SEED = "PYTHONHASHSEED"

#: Remedies by the kind of error that `handout.host.boot` reports. HOST is replaced by the host's name.
_REMEDIES = {
    "python": "Install Python 3.9 or newer on the host, or name one with Host(..., python=...).",
    "space": "Free some space (or inodes) on the host, or set HANDOUT_TMPDIR to a folder with room.",
    "limit": "Raise this limit for the login user of the host.",
    "folder": "Check the permissions of the folder and the login user's umask on the host, or set HANDOUT_TMPDIR to a "
    "folder that the user can write to.",
    "start": "Run `ssh HOST python3 -c 'import asyncio'` to check that Python works on the host.",
    "broken": "Repair the Python that fails, or name another one with Host(..., python=...).",
    "input": "Check that the connection to the host is stable.",
}


def candidates(python: str | None) -> list[str]:
    """Return the interpreters to try on a host, in order.

    Args:
        python: The only interpreter to try. If this is None, the controller's own version of Python comes first, then
            all versions from the newest to the oldest, then ``python3``.
    """
    if python is not None:
        return [python]
    minors = range(_NEWEST_MINOR, OLDEST_PYTHON[1] - 1, -1)
    names = [f"python3.{sys.version_info.minor}", *(f"python3.{minor}" for minor in minors), "python3"]
    return list(dict.fromkeys(names))


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
    """

    def __init__(self, host: str, python: str | None, settings: dict[str, Any], hash_seed: int | None = None) -> None:
        self.host = host
        self.python = python
        self._hash_seed = hash_seed
        #: The secret that proves to the agent that a connection comes from the controller. The host gets it through
        #: standard input only, because every user of the host can read command lines.
        self.token = secrets.token_hex(32)
        self.marker = f"handout-{secrets.token_hex(8)}:"
        self.output = self._new_output()
        #: The launcher sets this when it tells the host to start an agent. From then on, an agent may run on the host.
        self.command_sent = False
        self._settings = settings

    def begin(self) -> None:
        """Forget what an earlier start printed, because the launcher starts the agent anew."""
        self.output = self._new_output()

    def _new_output(self) -> MarkedOutput:
        return MarkedOutput(self.marker, secret=self.token)

    def command(self) -> str:
        """Return a command line for any login shell. It starts ``sh``, which finds a suitable Python and runs it.

        A Python that is there but fails before it has read any input is skipped too: a version manager's shim for
        another version, or a Python whose libraries are missing. If a Python has begun to read, its end is the end of
        the command, because no other Python could read the input from its beginning.

        The shell reads the hash seed from standard input, because every user of the host can read command lines.
        """
        names = " ".join(_quote(name) for name in candidates(self.python))
        seed = ""
        if self._hash_seed is not None:
            # There is no exclamation mark in the command, because csh would expand it.
            is_number = f'[ "${_HASH_SEED}" -ge 0 ] 2>/dev/null'
            seed = f"IFS= read -r {_HASH_SEED}; {is_number} || exit {CUT}; export {_HASH_SEED}; "
        script = (
            f'{_HIDE_PATH}{seed}for p in {names}; do command -v "$p" >/dev/null 2>&1 || continue; '
            f'"$p" -c "{_STAGE_0}"; s=$?; '
            f'case $s in 0|{BEGUN}|{CUT}) exit $s;; 93) o="$o $p";; *) o="$o $p=$s";; esac; done; '
            f'echo; echo "{self.marker}no-python$o"; exit 127'
        )
        return _through_sh(script)

    def environment(self) -> Mapping[str, str]:
        """Return the environment variables that `argv` needs."""
        return {} if self._hash_seed is None else {_HASH_SEED: str(self._hash_seed)}

    def argv(self) -> list[str]:
        """Return the command for the controller's own machine, which needs no shell."""
        return [self.python or sys.executable, "-c", _STAGE_0]

    def command_stdin(self) -> bytes:
        """Return everything that `command` reads on its standard input: a line for the shell, and what `argv` reads."""
        line = b"" if self._hash_seed is None else b"%d\n" % self._hash_seed
        data = line + self.stdin()
        self.output.size = len(data)
        return data

    def stdin(self) -> bytes:
        """Return everything that `argv` reads on its standard input."""
        source, bundle = boot_source(), agent_bundle()
        preface = {
            "marker": self.marker,
            "token": self.token,
            "size": len(bundle.data),
            "settings": {**self._settings, "host": self.host, "digest": bundle.digest},
        }
        main = source + b"\n"
        data = b"%08d" % len(main) + main + json.dumps(preface).encode() + b"\n" + bundle.data
        self.output.echo, self.output.size = re.compile(_SEED_LINE + re.escape(data[:_ECHO])), len(data)
        return data

    def result(self, exit_status: int | None = None) -> StartedAgent:
        """Return the agent that the answer of the command describes.

        Args:
            exit_status: The command's exit status. If there is no answer, the error message contains this status.

        Raises:
            BootstrapError: There is no answer, or the answer is an error.
        """
        line = self.output.line
        if line is None and exit_status == TOO_OLD:
            line = b"no-python " + self.argv()[0].encode()
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
            text = quoted(line[:200].decode("utf-8", "replace"))
            raise self._error(
                f"Host {self.host!r} answered, but not as an agent does: '{text}'.",
                "Check the login shell on the host, because something there changes what programs print.",
            ) from None
        text = "\n".join(quoted(each) for each in message[-_MESSAGE_KEPT:].splitlines()).rstrip(".")
        raise self._error(
            f"The agent did not start on host {self.host!r}: {text}.",
            _REMEDIES.get(kind, "").replace("HOST", self.host),
        )

    def hopeless(self, error: HopelessOutput) -> BootstrapError:
        """Return the error for a host that prints what no start of an agent prints."""
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
            login: The command that logs in to the host by hand.
        """
        return self._error(
            f"No agent answered on host {self.host!r}: the start made no progress for {within_s:.0f} s. The start "
            f"command printed: {self.output.quoted()}.",
            f"Check that `{login} true` ends by itself, and that the host is not overloaded.",
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
        tried = candidates(self.python)
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
        return self._error(message, _REMEDIES["broken" if broken else "python"])

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


def relay_command(started: StartedAgent, marker: str) -> str:
    """Return the command line of a relay on the host.

    A relay is a program that copies bytes between an SSH session and the agent's socket. It is used if the server
    forbids the forwarding of sockets.
    """
    code = (
        f"import sys;{_CLEAN_PATH};sys.path.insert(0,sys.argv[1]);import handout.host.relay as r;r.main(*sys.argv[2:])"
    )
    words = [started.executable, "-c", code, started.bundle, started.socket, marker]
    return _through_sh(_HIDE_PATH + "exec " + " ".join(_quote(word) for word in words))


def start_environment() -> dict[str, str]:
    """Return the environment for a start on the controller's own machine; see `_HIDE_PATH`."""
    environment = dict(os.environ)
    path = environment.pop("PYTHONPATH", "")
    if path:
        environment["HANDOUT_PYTHONPATH"] = path
    environment["PYTHONSAFEPATH"] = environment.get("PYTHONSAFEPATH") or "handout"
    return environment


def _through_sh(script: str) -> str:
    """Return a command line for any login shell that runs a script of ``sh``."""
    script = script.replace("'", "'\\''")
    return f"exec sh -c '{script}'"


def _quote(word: str) -> str:
    """Quote a word for ``sh``, in double quotes. A leading ``~`` becomes ``$HOME``, which ``sh`` then expands."""
    home = word.startswith("~/")
    for character in '\\"$`':
        word = word.replace(character, "\\" + character)
    return f'"$HOME{word[1:]}"' if home else f'"{word}"'
