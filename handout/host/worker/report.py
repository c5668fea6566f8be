"""A worker's reports to the agent: results are gathered in columns and sent together."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

from handout.protocol import codec, frames, messages
from handout.protocol.messages import AnyMessage

#: Results that are gathered, at most, and their bytes.
_MAX_COUNT = 64
_MAX_BYTES = 256 << 10


class EncodedResult(NamedTuple):
    """The objects of one result; see `BatchReport`."""

    sizes: list[int]
    inline_sizes: list[int]
    folders: list[int]
    payload: list[Any]


class WorkerReport:
    """What became of tasks, as far as the agent has not been told yet.

    Args:
        link: Socket to the agent.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._numbers: list[int] = []
        self._us: list[int] = []
        self._sizes: list[Any] = []
        self._inline: list[Any] = []
        self._folders: list[Any] = []
        self._payload: list[frames.Buffer] = []
        #: True where some object is not in the payload: then the report tells which, and which folder it is in.
        self._large = False
        self._bytes = 0
        self._skipped: list[int] = []
        self._lacking: list[int] = []

    @property
    def pending(self) -> bool:
        """True where the report is not empty."""
        return bool(self._numbers or self._skipped or self._lacking)

    @property
    def full(self) -> bool:
        """True where the report is large enough to be sent."""
        return len(self._numbers) >= _MAX_COUNT or self._bytes > _MAX_BYTES

    def done(self, number: int, us: int, result: EncodedResult) -> None:
        """Add a task that returned a result, after so many microseconds."""
        sizes, inline_sizes, folders, payload = result
        self._numbers.append(number)
        self._us.append(us)
        self._sizes.append(sizes)
        self._inline.append(inline_sizes)
        self._folders.append(folders)
        self._large |= len(payload) < len(sizes)
        for data in payload:
            self._payload.append(data)
            self._bytes += len(data)

    def skipped(self, number: int) -> None:
        """Add a task that was recalled before it started."""
        self._skipped.append(number)

    def lacking(self, number: int) -> None:
        """Add a task whose inputs are not on this host: the task that makes them failed, or they were dropped."""
        self._lacking.append(number)

    def failed(self, failure: messages.TaskFailure, payload: Sequence[frames.Buffer]) -> None:
        """Send the failure of a task at once, after the report of the tasks before it."""
        self.flush()
        self._send(failure, payload)

    def flush(self, leaving: bool = False) -> None:
        """Send the report, unless it is empty.

        Args:
            leaving: True where the worker takes no more tasks and ends.
        """
        if not (self.pending or leaving):
            return
        large = self._large
        report = messages.BatchReport(
            self._numbers,
            self._us,
            self._sizes,
            self._inline if large else None,
            self._folders if large else None,
            self._skipped,
            self._lacking,
            leaving,
        )
        payload = self._payload
        self._numbers, self._us, self._sizes, self._inline, self._folders = [], [], [], [], []
        self._payload, self._bytes, self._skipped, self._lacking, self._large = [], 0, [], [], False
        self._send(report, payload)

    def _send(self, message: AnyMessage, payload: Sequence[frames.Buffer]) -> None:
        self._link.sendall(b"".join(frames.encode_message(0, codec.encode(message), payload)))
