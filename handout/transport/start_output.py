"""What a command on a host prints while it starts: noise of the login shell, then the marked line.

The marked line begins with a random marker, by which the controller finds the line. All other text is noise. An error
message quotes the noise, because the noise often says why no marked line came.

Before that, further lines with the marker tell how far the start has come: how much of the input has arrived, and
whether the setup line has begun and ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from handout.serialization.printable import printable_line

__all__ = ["LINE", "PROGRESS", "READY", "SETUP", "WAITING", "HopelessOutput", "MarkedOutput", "quoted", "read_answer"]

#: After the marker, this begins a line of the input.
LINE = "="
#: After the marker, these say in the output that the setup line begins, and that it has ended without an error.
SETUP, READY = "setup", "ready"
#: After the marker, this says from time to time that the setup line still runs.
WAITING = "waiting"
#: What the command says next about the setup line. It says each of them once.
_NEXT = {"": SETUP, SETUP: READY}

#: This many bytes of noise are kept for each of the two output streams.
_NOISE_KEPT = 4096
#: The command reports each time that it has received so many bytes of its input, as `handout.host.boot` says too.
PROGRESS = 64 << 10
#: An error message quotes at most this many characters of what a host printed.
_QUOTED = 1000
#: The greatest length of the marked line in bytes.
_MAX_LINE = 64 << 10
#: No login shell prints this many bytes before an agent starts. Python with the switch ``-v`` prints 200 kB.
_MAX_NOISE = 2 << 20
#: When standard output has ended without a marked line, standard error gets this many more seconds to end. A program
#: that the login shell has left in the background may hold standard error open.
_ERRORS_S = 1.0


class HopelessOutput(Exception):
    """A command on a host prints what no start of an agent prints, so there is no use in waiting for the agent."""


class Stream(Protocol):
    """The reading end of an output stream. Streams of asyncio and of asyncssh have this method."""

    async def read(self, n: int) -> bytes:
        """Return the next bytes, at most ``n`` of them, or no bytes at the end."""
        ...


@dataclass(slots=True)
class MarkedOutput:
    """What a command on a host printed. See the module's docstring."""

    marker: str
    #: The bytes that the start command printed before the marked line. While the marked line is not complete, its
    #: beginning is included.
    noise: bytes = b""
    #: The marked line without its marker, or None while the line is not complete.
    line: bytes | None = None
    #: The end of what the command printed on its standard error.
    errors: bytes = b""
    #: The number of bytes in the command's input. The command cannot report that it has received more.
    size: int = 0
    #: Parts of the command's input. A host that prints one of them sends its input back.
    echoes: Sequence[bytes] = ()
    #: Secrets in the command's input, which the command may print. An error shows the other text in their place.
    hidden: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: How far the setup line has come: "", `SETUP` while it runs, `READY` when it has ended.
    stage: str = ""
    #: Called when the command reports that it has received more of its input, and that the stage has changed.
    on_progress: Callable[[], None] = lambda: None
    #: How many bytes of its input the command has reported.
    received: int = 0
    _nbytes: int = 0
    #: True if the beginning of the noise was dropped, and True if that of the errors was.
    _was_cut: bool = False
    _were_errors_cut: bool = False

    def feed(self, data: bytes) -> bool:
        """Add bytes of the standard output. Return True if the marked line is complete.

        Raises:
            HopelessOutput: The command prints what no start of an agent prints.
        """
        self.noise += data
        self._check_echo(self.noise)
        while (start := self.noise.find(b"\n" + self.marker.encode())) >= 0:
            end = self.noise.find(b"\n", start + 1)
            if end < 0:
                if len(self.noise) - start <= _MAX_LINE:
                    return False
                end = len(self.noise)  # no agent sends such a long line, so `Bootstrap.result` will refuse it
            line = self.noise[start + 1 + len(self.marker) : end]
            if line == WAITING.encode() and self.stage == SETUP:
                self.noise = self.noise[:start] + self.noise[end + 1 :]
                continue
            if not self._tells_progress(line):
                self.line, self.noise = line, self.noise[:start]
                return True
            # Of what came before the setup line, nothing is quoted, because it says nothing about a later error.
            self.noise = (self.noise[:start] if line != SETUP.encode() else b"") + self.noise[end:]
            self.on_progress()
        self._count(data)
        if len(self.noise) > 2 * _NOISE_KEPT + self._longest:
            self.noise, self._was_cut = self.noise[-_NOISE_KEPT - self._longest :], True
        return False

    def _tells_progress(self, line: bytes) -> bool:
        """Note what a line with the marker says about the progress of the start. Return False if it says nothing."""
        if line == b"+" and self.received < self.size:
            self.received += PROGRESS
            return True
        if line == _NEXT.get(self.stage, "").encode() and line:
            self.stage = line.decode()
            return True
        return False

    def feed_errors(self, data: bytes) -> bool:
        """Add bytes of the standard error. Return False, because the marked line comes on the standard output.

        Raises:
            HopelessOutput: The command prints what no start of an agent prints.
        """
        self.errors += data
        self._check_echo(self.errors)
        kept = _NOISE_KEPT + self._longest
        if len(self.errors) > kept:
            self.errors, self._were_errors_cut = self.errors[-kept:], True
        self._count(data)
        return False

    def _check_echo(self, printed: bytes) -> None:
        """Refuse output that has bytes of the input. Nothing is quoted, because the input has secrets."""
        if any(part in printed for part in self.echoes):
            self.noise = self.errors = b""
            raise HopelessOutput("sends its input back instead of running the start command")

    def _count(self, data: bytes) -> None:
        self._nbytes += len(data)
        if self._nbytes > _MAX_NOISE:
            raise HopelessOutput(f"printed more than {_MAX_NOISE >> 20} MiB")

    def printed(self) -> str:
        """Return the end of the noise as text: of the standard output, then of the standard error."""
        parts = (self._readable(self.noise, self._was_cut), self._readable(self.errors, self._were_errors_cut))
        return "\n".join(part for part in parts if part)

    def _readable(self, printed: bytes, was_cut: bool) -> str:
        """Return the end of what was printed as text, without secrets."""
        text = self.without_secrets(printed.decode("utf-8", "replace"))
        # If the beginning is missing, the text may begin with the end of a secret.
        return (text[self._longest :] if was_cut else text)[-_NOISE_KEPT:].strip()

    def without_secrets(self, text: str) -> str:
        """Return a text without the secrets of the input."""
        for secret in sorted(self.hidden, key=len, reverse=True):  # one secret may be a part of another
            text = text.replace(secret, self.hidden[secret])
        return text

    @property
    def _longest(self) -> int:
        """The length of the longest secret in bytes."""
        return max((len(secret.encode("utf-8", "surrogateescape")) for secret in self.hidden), default=0)

    def quoted(self) -> str:
        """Return the end of the noise for an error message, in quotes, or the word ``nothing``."""
        text = quoted(self.printed())
        return f"'{text}'" if text else "nothing"


def quoted(text: str) -> str:
    """Return the last 1,000 characters of a text from a host, with control characters escaped.

    An error message reaches terminals and logs, where a control character of a host could do harm.
    """
    return printable_line(text[-_QUOTED:])[-_QUOTED:]


async def read_answer(output: MarkedOutput, stdout: Stream, stderr: Stream) -> None:
    """Read what a command prints, until the marked line is complete or the streams have ended.

    Raises:
        HopelessOutput: The command prints what no start of an agent prints.
        Exception: A stream raised it.
    """
    answering = asyncio.ensure_future(_read(stdout, output.feed))
    erring = asyncio.ensure_future(_read(stderr, output.feed_errors))
    reading = {answering, erring}
    try:
        while not answering.done():
            done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            reading -= done
        if output.line is None:
            await asyncio.wait({erring}, timeout=_ERRORS_S)
    finally:
        for task in (answering, erring):
            task.cancel()
        await asyncio.wait({answering, erring})
        for task in (answering, erring):
            if not task.cancelled():
                task.exception()  # reads the exception, so that asyncio does not log it


async def _read(stream: Stream, feed: Callable[[bytes], bool]) -> None:
    while data := await stream.read(1 << 16):
        if feed(data):
            return
