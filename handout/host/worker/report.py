"""A worker's reports to the agent. The worker gathers the results of several tasks, and sends them in one report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from handout.host.worker.agent_socket import AgentSocket
from handout.protocol import frames, messages

#: A worker sends a report before its batch of tasks ends if the report contains this many results or more.
_MAX_COUNT = 64
#: A worker also sends a report before its batch ends if the objects in the report have more than this many bytes.
_MAX_BYTES = 256 << 10


class EncodedResult(NamedTuple):
    """The objects of one result. `BatchReport` explains the fields."""

    sizes: list[int]
    inline_sizes: list[int]
    folders: list[int]
    payload: list[Any]


class WorkerReport:
    """Gathers reports on tasks, and sends them to the agent together.

    Args:
        link: Sends messages to the agent.
    """

    def __init__(self, link: AgentSocket) -> None:
        self._link = link
        self._numbers: list[int] = []
        self._elapsed_us: list[int] = []
        self._sizes: list[Any] = []
        self._inline_sizes: list[Any] = []
        self._folders: list[Any] = []
        self._payload: list[frames.Buffer] = []
        #: True if an object of a gathered result is not in the payload, because the object is a file or is not needed.
        #: The report then needs the fields `inline_sizes` and `folders`.
        self._has_files = False
        self._payload_bytes = 0
        self._skipped: list[int] = []
        self._lacking: list[int] = []

    @property
    def pending(self) -> bool:
        """True if the report is not empty."""
        return bool(self._numbers or self._skipped or self._lacking)

    @property
    def full(self) -> bool:
        """True if the report is so large that it must be sent now."""
        return len(self._numbers) >= _MAX_COUNT or self._payload_bytes > _MAX_BYTES

    def add_result(self, number: int, elapsed_us: int, result: EncodedResult) -> None:
        """Add a task that returned a result."""
        sizes, inline_sizes, folders, payload = result
        self._numbers.append(number)
        self._elapsed_us.append(elapsed_us)
        self._sizes.append(sizes)
        self._inline_sizes.append(inline_sizes)
        self._folders.append(folders)
        self._has_files |= len(payload) < len(sizes)
        for data in payload:
            self._payload.append(data)
            self._payload_bytes += len(data)

    def withdraw(self, count: int) -> None:
        """Report the last ``count`` tasks as skipped, although they returned results. They must run again."""
        for _ in range(count):
            self._skipped.append(self._numbers.pop())
            del self._elapsed_us[-1], self._sizes[-1], self._folders[-1]
            for size in self._inline_sizes.pop():
                if size >= 0:
                    self._payload_bytes -= len(self._payload.pop())

    def add_skipped(self, number: int) -> None:
        """Add a task that the worker did not start, because the agent took it back or because the worker is ending."""
        self._skipped.append(number)

    def add_lacking(self, number: int) -> None:
        """Add a task that the worker did not run because an input is not on this host.

        The task that makes the input failed, or the agent has dropped the input.
        """
        self._lacking.append(number)

    def send_raised(self, message: messages.TaskRaised) -> None:
        """Send that a task has failed, before user code describes its exception."""
        self._link.send(message)

    def send_failure(self, failure: messages.TaskFailure, payload: Sequence[frames.Buffer]) -> None:
        """Send the failure of a task. First send the gathered report, because the tasks in it ended earlier."""
        self.flush()
        self._link.send(failure, payload)

    def flush(self, leaving: bool = False) -> None:
        """Send the report, unless it is empty.

        Args:
            leaving: True if the worker ends now and takes no more tasks. Such a report is sent even if it is empty.
        """
        if not (self.pending or leaving):
            return
        report = messages.BatchReport(
            self._numbers,
            self._elapsed_us,
            self._sizes,
            self._inline_sizes if self._has_files else None,
            self._folders if self._has_files else None,
            self._skipped,
            self._lacking,
            leaving,
        )
        payload = self._payload
        self._numbers, self._elapsed_us, self._sizes, self._inline_sizes, self._folders = [], [], [], [], []
        self._payload, self._payload_bytes, self._skipped, self._lacking, self._has_files = [], 0, [], [], False
        self._link.send(report, payload)
