"""Reports to the controller how tasks ended. Results are gathered within a turn of the loop and sent together.

If a task has printed, the sender sends its output first. The report of its end waits for that, and is then sent as a
bulk message, which takes turns with the streams of objects. Every other report is sent at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from handout.host.agent.controller_link import ControllerLink
from handout.host.agent.output_capture import Logs
from handout.host.system.clock import now
from handout.protocol import frames, messages

#: Bytes of results in one message, at most.
_PAYLOAD = 8 << 20
#: If more reports than this wait behind output, the output of each further task is cut to its last `_SHORT_LOG` bytes.
_MANY_PRINTED = 256
_SHORT_LOG = 1 << 10


class GatheredResults:
    """Results that are sent together, in columns."""

    def __init__(self) -> None:
        self.attempt_ids: list[int] = []
        self.nbytes = 0
        self._us: list[int] = []
        self._sizes: list[Sequence[int]] = []
        self._inline: list[Sequence[int]] = []
        self._payload: list[frames.Buffer] = []

    def add(
        self,
        attempt_id: int,
        us: int,
        sizes: Sequence[int],
        inline: Sequence[int],
        payload: Iterable[frames.Buffer],
    ) -> None:
        """Add the result of one attempt."""
        self.attempt_ids.append(attempt_id)
        self._us.append(us)
        self._sizes.append(sizes)
        self._inline.append(inline)
        for data in payload:
            if len(data):
                self._payload.append(data)
                self.nbytes += len(data)

    def message(self) -> tuple[messages.Finished, list[frames.Buffer]]:
        """Return the message and its payload."""
        # The payload is one piece, because to write many small pieces costs more than to copy them.
        return messages.Finished(self.attempt_ids, self._us, self._sizes, self._inline), [b"".join(self._payload)]


class PrintedEnd(NamedTuple):
    """The report of an attempt that has printed. It has a result (microseconds, sizes, inline sizes) or a failure."""

    attempt_id: int
    result: tuple[int, Sequence[int], Sequence[int]] | None
    failure: messages.Failed | None
    payload: list[frames.Buffer]


class ResultSender:
    """Reports to the controller how each attempt ended, once.

    Args:
        link: The link to the controller.
        logs: The output of tasks that has not been sent yet.
    """

    def __init__(self, link: ControllerLink, logs: Logs) -> None:
        self._link = link
        self._logs = logs
        self._loop = asyncio.get_running_loop()
        self._done = GatheredResults()
        #: Reports of attempts that have printed, in the order in which the attempts ended.
        self._printed: deque[PrintedEnd] = deque()
        self._recalled: list[int] = []
        self._scheduled = False

    def done(self, attempt_id: int, us: int, sizes: Sequence[int], inline: Sequence[int], data: memoryview) -> None:
        """Report that an attempt returned a result. ``data`` holds its inline objects."""
        if self._logs.has(attempt_id):
            # The receive buffer may be filled again before this report is sent, so the data is copied.
            self._end_after_output(PrintedEnd(attempt_id, (us, sizes, inline), None, [bytes(data)]))
            return
        self._done.add(attempt_id, us, sizes, inline, [data])
        if self._done.nbytes > _PAYLOAD:
            self._send_gathered()
        self._send_soon()

    def failed(self, failure: messages.Failed, payload: Sequence[frames.Buffer]) -> None:
        """Report that an attempt failed. ``payload`` is its pickled exception."""
        stderr, stack = self._logs.tail(failure.attempt_id)
        failure = failure._replace(stderr=stderr, stack=stack)
        if self._logs.has(failure.attempt_id):
            self._end_after_output(PrintedEnd(failure.attempt_id, None, failure, [bytes(p) for p in payload]))
            return
        # Reports keep the order in which the attempts ended.
        self._send_gathered()
        self._link.send(failure, payload)

    def recalled(self, attempt_id: int) -> None:
        """Report that an attempt goes back to the controller without having started."""
        self._logs.discard(attempt_id)
        self._recalled.append(attempt_id)
        self._send_soon()

    def started(self, attempt_ids: Sequence[int]) -> None:
        """Report that attempts run. `LimitsMonitor` calls this once they have run for a while."""
        self._link.send(messages.Started(attempt_ids))

    def waiting(self) -> list[int]:
        """Return the attempts that have ended and whose reports the link does not have yet."""
        return [*self._done.attempt_ids, *self._recalled, *(end.attempt_id for end in self._printed)]

    def _end_after_output(self, end: PrintedEnd) -> None:
        if len(self._printed) > _MANY_PRINTED:
            self._logs.shorten(end.attempt_id, _SHORT_LOG)
        self._printed.append(end)
        self._send_soon()

    def _send_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send_gathered)

    def _send_gathered(self) -> None:
        self._scheduled = False
        if self._done.attempt_ids:
            self._link.send(*self._done.message())
            self._done = GatheredResults()
        if self._recalled:
            self._link.send(messages.Recalled(self._recalled))
            self._recalled = []
        self.send_printed()

    def send_printed(self) -> None:
        """Send reports of attempts that have printed, each after its output, as long as the session has room."""
        done = GatheredResults()
        while self._printed and self._logs.room():
            end = self._printed.popleft()
            self._logs.end(end.attempt_id, now())
            if end.result is not None:
                done.add(end.attempt_id, *end.result, end.payload)
                if done.nbytes <= _PAYLOAD:
                    continue
            if done.attempt_ids:
                self._link.send_bulk(*done.message())
                done = GatheredResults()
            if end.failure is not None:
                self._link.send_bulk(end.failure, end.payload)
        if done.attempt_ids:
            self._link.send_bulk(*done.message())
