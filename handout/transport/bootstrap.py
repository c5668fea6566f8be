"""From "a shell on the host" to "an agent that said hello": the command, what it is fed, what it answers.

Pure text in and out; launchers move the bytes.
"""

from __future__ import annotations

import json
import secrets
import sys
from dataclasses import dataclass
from typing import Any, TypeVar

from handout.errors import BootstrapError
from handout.transport.bundle import agent_bundle, boot_source

__all__ = ["OLDEST_PYTHON", "Bootstrap", "MarkedOutput", "StartedAgent", "relay_command"]

T = TypeVar("T")

OLDEST_PYTHON = (3, 9)
_NEWEST_MINOR = 15
#: Noise of a login shell that is kept for the error message.
_NOISE_KEPT = 4096
#: Bytes of an agent's hello, or of what kept it from saying one.
_MAX_ANSWER = 64 << 10
#: Exits with 93 where Python is too old, before it reads any input; else runs the source that comes first.
_STAGE_0 = "import sys;sys.version_info<(3,9) and sys.exit(93);r=sys.stdin.buffer.read;exec(r(int(r(8))))"

_REMEDIES = {
    "python": "Install Python 3.9 or newer there, or name one with Host(..., python=...).",
    "space": "Free some space there, or point HANDOUT_TMPDIR at a folder with room.",
    "start": "Try `ssh HOST python3 -c 'import asyncio'` to see whether its Python works.",
    "input": "Check that the connection is stable.",
}


def candidates(python: str | None) -> list[str]:
    """Interpreters to try on a host, in order: the named one, or the controller's version, then the newest."""
    if python is not None:
        return [python]
    minors = range(_NEWEST_MINOR, OLDEST_PYTHON[1] - 1, -1)
    names = [f"python3.{sys.version_info.minor}", *(f"python3.{minor}" for minor in minors), "python3"]
    return list(dict.fromkeys(names))


@dataclass(frozen=True, slots=True)
class StartedAgent:
    """An agent that runs, as its hello describes it."""

    folder: str
    socket: str
    bundle: str
    executable: str
    python: tuple[int, int, int]
    probed: dict[str, Any]
    lingers: bool
    agent: str
    #: Process of the supervisor there.
    supervisor: int = 0


@dataclass(slots=True)
class MarkedOutput:
    """Collects a bootstrap's standard output until the answer is there, and keeps the noise before it."""

    marker: str
    noise: bytes = b""
    line: bytes | None = None

    def feed(self, data: bytes) -> bool:
        """Take output; True once the answer is whole."""
        self.noise += data
        start = self.noise.find(b"\n" + self.marker.encode())
        if start >= 0:
            end = self.noise.find(b"\n", start + 1)
            if end >= 0:
                self.line = self.noise[start + 1 + len(self.marker) : end]
                self.noise = self.noise[:start]
                return True
            if len(self.noise) - start > _MAX_ANSWER:
                # No agent says so much: whoever does is not read to the end.
                self.line = self.noise[start + 1 + len(self.marker) :]
                self.noise = self.noise[:start]
                return True
        elif len(self.noise) > 2 * _NOISE_KEPT:
            self.noise = self.noise[-_NOISE_KEPT:]
        return False

    def printed(self) -> str:
        """What came that was not the answer, for an error message."""
        return self.noise[-_NOISE_KEPT:].decode("utf-8", "replace").strip()


class Bootstrap:
    """One attempt to start an agent.

    Args:
        host: The host's name, for messages.
        python: The interpreter to use there, or None to look for one.
        settings: What the supervisor and the agent are told.
    """

    def __init__(self, host: str, python: str | None, settings: dict[str, Any]) -> None:
        self.host = host
        self.python = python
        #: Proves to the agent that a connection is the controller's. Travels on standard input only.
        self.token = secrets.token_hex(32)
        self.marker = f"handout-{secrets.token_hex(8)}:"
        self.output = MarkedOutput(self.marker)
        #: Set by the launcher once the host has been told to start an agent: from then on there may be one.
        self.command_sent = False
        self._settings = settings

    def command(self) -> str:
        """The command line for any login shell: ``sh`` looks for a Python that serves and hands over to it."""
        names = " ".join(_quote(name) for name in candidates(self.python))
        script = (
            f'for p in {names}; do command -v "$p" >/dev/null 2>&1 || continue; "$p" -c "{_STAGE_0}"; s=$?; '
            'case $s in 93) o="$o $p";; 126|127) ;; *) exit $s;; esac; done; '
            f'echo; echo "{self.marker}no-python$o"; exit 127'
        )
        script = script.replace("'", "'\\''")
        return f"exec sh -c '{script}'"

    def argv(self) -> list[str]:
        """The same for this machine, without a shell."""
        return [self.python or sys.executable, "-c", _STAGE_0]

    def stdin(self) -> bytes:
        """Everything that the bootstrap reads."""
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
        """What the answer says.

        Raises:
            BootstrapError: It is an error, or it never came.
        """
        line = self.output.line
        if line is None:
            printed = self.output.printed()
            raise BootstrapError(
                f"Host {self.host!r} ran the start command (exit status {exit_status}) but no agent answered; "
                f"it printed: {printed[-1000:] or 'nothing'}.",
                remedy="A login shell that starts another program, or ends early, keeps agents from starting.",
                host=self.host,
                output=printed,
            )
        if line.startswith(b"no-python"):
            old = line[len(b"no-python") :].decode("utf-8", "replace").split()
            tried = ", ".join(candidates(self.python))
            found = f"found only older ones ({', '.join(old)})" if old else "found none of them"
            raise BootstrapError(
                f"Host {self.host!r} has no Python 3.9 or newer: tried {tried}; {found}.",
                remedy=_REMEDIES["python"],
                host=self.host,
            )
        try:
            report = json.loads(line)
            if "error" not in report:
                return _started(report)
            kind, message = str(report["error"]), str(report.get("message", ""))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            raise BootstrapError(
                f"Host {self.host!r} answered what no agent says: {line[:200].decode('utf-8', 'replace')!r}.",
                remedy="Something on the host rewrites what programs print: look at its login shell.",
                host=self.host,
                output=self.output.printed(),
            ) from None
        raise BootstrapError(
            f"The agent did not start on host {self.host!r}: {message.rstrip('.')}.",
            remedy=_REMEDIES.get(kind, "").replace("HOST", self.host),
            host=self.host,
            output=self.output.printed(),
        )


def _started(report: dict[str, Any]) -> StartedAgent:
    """What a hello says; raises KeyError, TypeError or ValueError where it is none."""
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
    """The command line of the byte pump that stands in for a forwarded socket."""
    code = "import sys;sys.path.insert(0,sys.argv[1]);import handout.host.relay as r;r.main(*sys.argv[2:])"
    words = [started.executable, "-c", code, started.bundle, started.socket, marker]
    return "exec " + " ".join(_quote(word) for word in words)


def _quote(word: str) -> str:
    """Quote with double quotes, in which ``$HOME`` is found."""
    home = word.startswith("~/")
    for character in '\\"$`':
        word = word.replace(character, "\\" + character)
    return f'"$HOME{word[1:]}"' if home else f'"{word}"'
