"""Reports to the controller how tasks ended.

The sender gathers the results of one turn of the event loop, and sends them together. If a task has printed, the sender
first sends what the task printed, and then the report of the task's end. It sends both as bulk messages: these take
turns with streams of objects, and all other messages are sent before them. So the reports of tasks that have printed
nothing do not wait for what other tasks printed.
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

#: The sender sends the gathered results once they have more than this many bytes.
_PAYLOAD = 8 << 20
#: The report of a task that has printed waits until the printed text is sent. If more reports than this wait when such
#: a task ends, the sender shortens the unsent text of the task to save memory.
_MANY_PRINTED = 256
#: The sender shortens the unsent text of a task to this many of the last bytes of each standard stream.
_SHORT_LOG = 1 << 10


class GatheredResults:
    """Results that are sent together in one `Finished` message."""

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
        """Add the result of one attempt. `Finished` explains the arguments."""
        self.attempt_ids.append(attempt_id)
        self._us.append(us)
        self._sizes.append(sizes)
        self._inline.append(inline)
        for data in payload:
            if len(data):
                self._payload.append(data)
                self.nbytes += len(data)

    def message(self) -> tuple[messages.Finished, list[frames.Buffer]]:
        """Return the message with the results, and its payload."""
        # The payload is joined into one piece, because writing many small pieces costs more than copying them.
        return messages.Finished(self.attempt_ids, self._us, self._sizes, self._inline), [b"".join(self._payload)]


class PrintedEnd(NamedTuple):
    """The report of the end of an attempt that has printed. It has either a result or a failure.

    The result is a tuple of three values that `Finished` explains: ``elapsed_us``, ``sizes`` and ``inline_sizes``.
    """

    attempt_id: int
    result: tuple[int, Sequence[int], Sequence[int]] | None
    failure: messages.Failed | None
    payload: list[frames.Buffer]


class ResultSender:
    """Reports to the controller how attempts ended. Each attempt is reported once.

    Args:
        link: The link to the controller.
        logs: What tasks have printed and the agent has not sent yet.
    """

    def __init__(self, link: ControllerLink, logs: Logs) -> None:
        self._link = link
        self._logs = logs
        self._loop = asyncio.get_running_loop()
        self._done = GatheredResults()
        #: The unsent reports of attempts that have printed, in the order in which the attempts ended.
        self._printed: deque[PrintedEnd] = deque()
        self._recalled: list[int] = []
        self._scheduled = False

    def done(self, attempt_id: int, us: int, sizes: Sequence[int], inline: Sequence[int], data: memoryview) -> None:
        """Report that an attempt returned a result.

        Args:
            attempt_id: The id of the attempt.
            us: Microseconds that the attempt ran.
            sizes: See `Finished.sizes`.
            inline: See `Finished.inline_sizes`.
            data: The objects of the result that are small enough to travel in the report.
        """
        if self._logs.has(attempt_id):
            # The data is copied, because the report may wait for long. A view of the data would keep in memory all
            # bytes that arrived together with the data.
            self._end_after_output(PrintedEnd(attempt_id, (us, sizes, inline), None, [bytes(data)]))
            return
        self._done.add(attempt_id, us, sizes, inline, [data])
        if self._done.nbytes > _PAYLOAD:
            self._send_gathered()
        self._send_soon()

    def has_stack(self, attempt_id: int) -> bool:
        """Return True if the stack of a task has come, with at least one call below the line that names the thread."""
        _, stack = self._logs.tail(attempt_id)
        return len(stack) > 1

    def failed(self, failure: messages.Failed, payload: Sequence[frames.Buffer]) -> None:
        """Report that an attempt failed. ``payload`` is the pickled exception, if there is one."""
        stderr, stack = self._logs.tail(failure.attempt_id)
        failure = failure._replace(stderr=stderr, stack=stack)
        if self._logs.has(failure.attempt_id):
            self._end_after_output(PrintedEnd(failure.attempt_id, None, failure, [bytes(p) for p in payload]))
            return
        # The attempts whose results are gathered ended before this attempt, so they are reported first.
        self._send_gathered()
        self._link.send(failure, payload)

    def recalled(self, attempt_id: int) -> None:
        """Report that an attempt goes back to the controller without having started."""
        self._logs.discard(attempt_id)
        self._recalled.append(attempt_id)
        self._send_soon()

    def started(self, attempt_ids: Sequence[int]) -> None:
        """Report that attempts run. `LimitsMonitor` calls this when the attempts have run for a while."""
        self._link.send(messages.Started(attempt_ids))

    def waiting(self) -> list[int]:
        """Return the ids of the attempts that have ended, but whose reports have not been passed to the link yet."""
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
        """Send the reports of attempts that have printed, as long as the link has room.

        What an attempt printed is sent before the report of the attempt.
        """
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
