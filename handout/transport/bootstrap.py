"""Defines how an agent is started on a host: a command reads an input there, and prints an answer.

The answer is one line, which begins with a random marker. After the marker comes the agent's hello, which describes the
agent, or an error. This module makes the command line and the input, and reads the answer. The launchers send and
receive the bytes.
"""

from __future__ import annotations

import json
import secrets
import sys
from dataclasses import dataclass
from typing import Any, TypeVar

from handout.errors import BootstrapError
from handout.serialization.printable import printable
from handout.transport.bundle import agent_bundle, boot_source

__all__ = ["OLDEST_PYTHON", "Bootstrap", "MarkedOutput", "StartedAgent", "relay_command"]

T = TypeVar("T")

OLDEST_PYTHON = (3, 9)
#: The command line looks for Python 3 under names such as ``python3.12``, up to this minor version.
_NEWEST_MINOR = 15
#: An error quotes at most this many bytes of what a login shell printed.
_NOISE_KEPT = 4096
#: The greatest length of the answer in bytes.
_MAX_LINE = 64 << 10
#: The code that Python runs on the host first. If Python is too old, the code exits with status 93 and reads no input.
#: Otherwise the code reads the source of `handout.host.boot` from standard input and executes this source.
_STAGE_0 = "import sys;sys.version_info<(3,9) and sys.exit(93);r=sys.stdin.buffer.read;exec(r(int(r(8))))"

#: Remedies by the kind of error that `handout.host.boot` reports. HOST is replaced by the host's name.
_REMEDIES = {
    "python": "Install Python 3.9 or newer on the host, or name one with Host(..., python=...).",
    "space": "Free some space on the host, or set HANDOUT_TMPDIR to a folder with room.",
    "start": "Run `ssh HOST python3 -c 'import asyncio'` to check that Python works on the host.",
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


@dataclass(slots=True)
class MarkedOutput:
    """What a command on a host printed: noise of the login shell, then the marked line, which begins with a marker."""

    marker: str
    #: The bytes that the start command printed before the marked line. While the marked line is not complete, its
    #: beginning is included.
    noise: bytes = b""
    #: The marked line without its marker, or None while the line is not complete.
    line: bytes | None = None

    def feed(self, data: bytes) -> bool:
        """Add bytes that the command printed. Return True if the marked line is complete."""
        self.noise += data
        start = self.noise.find(b"\n" + self.marker.encode())
        if start < 0:
            if len(self.noise) > 2 * _NOISE_KEPT:
                self.noise = self.noise[-_NOISE_KEPT:]
            return False
        end = self.noise.find(b"\n", start + 1)
        if end < 0:
            if len(self.noise) - start <= _MAX_LINE:
                return False
            end = len(self.noise)  # no agent sends such a long line, so `Bootstrap.result` will refuse it
        self.line = self.noise[start + 1 + len(self.marker) : end]
        self.noise = self.noise[:start]
        return True

    def printed(self) -> str:
        """Return the end of the noise as text, for an error message."""
        return printable(self.noise[-_NOISE_KEPT:].decode("utf-8", "replace").strip())


class Bootstrap:
    """One start of an agent.

    Args:
        host: The host's name, for messages.
        python: The interpreter to use on the host, or None to look for one.
        settings: Settings of the supervisor and the agent, such as the timings.
    """

    def __init__(self, host: str, python: str | None, settings: dict[str, Any]) -> None:
        self.host = host
        self.python = python
        #: The secret that proves to the agent that a connection comes from the controller. The host gets it through
        #: standard input only, because every user of the host can read command lines.
        self.token = secrets.token_hex(32)
        self.marker = f"handout-{secrets.token_hex(8)}:"
        self.output = MarkedOutput(self.marker)
        #: The launcher sets this when it tells the host to start an agent. From then on, an agent may run on the host.
        self.command_sent = False
        self._settings = settings

    def command(self) -> str:
        """Return a command line for any login shell. It starts ``sh``, which finds a suitable Python and runs it."""
        names = " ".join(_quote(name) for name in candidates(self.python))
        script = (
            f'for p in {names}; do command -v "$p" >/dev/null 2>&1 || continue; "$p" -c "{_STAGE_0}"; s=$?; '
            'case $s in 93) o="$o $p";; 126|127) ;; *) exit $s;; esac; done; '
            f'echo; echo "{self.marker}no-python$o"; exit 127'
        )
        script = script.replace("'", "'\\''")
        return f"exec sh -c '{script}'"

    def argv(self) -> list[str]:
        """Return the command for the controller's own machine, which needs no shell."""
        return [self.python or sys.executable, "-c", _STAGE_0]

    def stdin(self) -> bytes:
        """Return everything that the command reads on its standard input."""
        source, bundle = boot_source(), agent_bundle()
        preface = {
            "marker": self.marker,
            "token": self.token,
            "size": len(bundle.data),
            "settings": {**self._settings, "host": self.host, "digest": bundle.digest},
        }
        main = source + b"\n"
        return b"%08d" % len(main) + main + json.dumps(preface).encode() + b"\n" + bundle.data

    def result(self, exit_status: int | None = None) -> StartedAgent:
        """Return the agent that the answer of the command describes.

        Args:
            exit_status: The command's exit status. If there is no answer, the error message contains this status.

        Raises:
            BootstrapError: There is no answer, or the answer is an error.
        """
        line = self.output.line
        if line is None:
            raise self._no_answer(exit_status)
        if line.startswith(b"no-python"):
            raise self._no_python(line)
        try:
            report = json.loads(line)
            if "error" not in report:
                return _started(report)
            kind, message = str(report["error"]), str(report.get("message", ""))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            raise BootstrapError(
                f"Host {self.host!r} answered, but not as an agent does: {line[:200].decode('utf-8', 'replace')!r}.",
                remedy="Check the login shell on the host, because something there changes what programs print.",
                host=self.host,
                output=self.output.printed(),
            ) from None
        raise BootstrapError(
            f"The agent did not start on host {self.host!r}: {message.rstrip('.')}.",
            remedy=_REMEDIES.get(kind, "").replace("HOST", self.host),
            host=self.host,
            output=self.output.printed(),
        )

    def _no_answer(self, exit_status: int | None) -> BootstrapError:
        printed = self.output.printed()
        return BootstrapError(
            f"Host {self.host!r} ran the start command (exit status {exit_status}), but no agent answered. "
            f"The command printed: {printed[-1000:] or 'nothing'}.",
            remedy="Check the login shell on the host, because an agent cannot start if the shell runs another program "
            "or exits early.",
            host=self.host,
            output=printed,
        )

    def _no_python(self, line: bytes) -> BootstrapError:
        old = line[len(b"no-python") :].decode("utf-8", "replace").split()
        tried = candidates(self.python)
        none = "found none of them" if len(tried) > 1 else "did not find it"
        found = f"found only older ones ({', '.join(old)})" if old else none
        return BootstrapError(
            f"No Python 3.9 or newer was found on host {self.host!r}. The start command looked for {', '.join(tried)}, "
            f"and {found}.",
            remedy=_REMEDIES["python"],
            host=self.host,
        )


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


def relay_command(started: StartedAgent, marker: str) -> str:
    """Return the command line of a relay on the host.

    A relay is a program that copies bytes between an SSH session and the agent's socket. It is used if the server
    forbids the forwarding of sockets.
    """
    code = "import sys;sys.path.insert(0,sys.argv[1]);import handout.host.relay as r;r.main(*sys.argv[2:])"
    words = [started.executable, "-c", code, started.bundle, started.socket, marker]
    return "exec " + " ".join(_quote(word) for word in words)


def _quote(word: str) -> str:
    """Quote a word for ``sh``, in double quotes. A leading ``~`` becomes ``$HOME``, which ``sh`` then expands."""
    home = word.startswith("~/")
    for character in '\\"$`':
        word = word.replace(character, "\\" + character)
    return f'"$HOME{word[1:]}"' if home else f'"{word}"'
