"""What the controller hears of tasks: gathered while the loop is busy, and sent together.

The end of a task that has printed leaves behind its output, and waits with it among the bulk; everything else
leaves at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from handout.host.agent.link import ControllerLink
from handout.host.agent.output_capture import Logs
from handout.host.system.clock import now
from handout.protocol import frames

#: Bytes of results that are gathered at most.
_PAYLOAD = 8 << 20
#: Tasks that printed and wait to be reported; beyond it, what each of them printed is cut to the last bytes.
_MANY_LOUD = 256
_SHORT_LOG = 1 << 10


class Done:
    """Results that leave together, in columns."""

    def __init__(self) -> None:
        self.tickets: list[int] = []
        self.nbytes = 0
        self._us: list[int] = []
        self._sizes: list[Sequence[int]] = []
        self._inline: list[Sequence[int]] = []
        self._payload: list[frames.Buffer] = []

    def add(
        self,
        ticket: int,
        us: int,
        sizes: Sequence[int],
        inline: Sequence[int],
        payload: Iterable[frames.Buffer],
    ) -> None:
        """One task's."""
        self.tickets.append(ticket)
        self._us.append(us)
        self._sizes.append(sizes)
        self._inline.append(inline)
        for data in payload:
            if len(data):
                self._payload.append(data)
                self.nbytes += len(data)

    def message(self) -> tuple[dict[str, Any], list[frames.Buffer]]:
        """What to send."""
        fields = {"m": "done", "ticket": self.tickets, "us": self._us, "size": self._sizes, "inline": self._inline}
        # One piece: what is written piece by piece costs more than copying it.
        return fields, [b"".join(self._payload)]


class Loud(NamedTuple):
    """The end of a task that has printed: its result's columns, or its failure."""

    ticket: int
    result: tuple[int, Sequence[int], Sequence[int]] | None
    failure: dict[str, Any]
    payload: list[frames.Buffer]


class ResultSender:
    """Tells the controller how tasks ended, each once.

    Args:
        link: To the controller.
        logs: What tasks have printed.
    """

    def __init__(self, link: ControllerLink, logs: Logs) -> None:
        self._link = link
        self._logs = logs
        self._loop = asyncio.get_running_loop()
        self._done = Done()
        #: Ends of tasks that have printed.
        self._loud: deque[Loud] = deque()
        self._returned: list[int] = []
        self._scheduled = False

    def done(self, ticket: int, us: int, sizes: Sequence[int], inline: Sequence[int], data: memoryview) -> None:
        """A task returned; ``data`` is those of its objects that go along."""
        if self._logs.has(ticket):
            # A copy: the data is part of what was received, and this may wait.
            self._end_loudly(Loud(ticket, (us, sizes, inline), {}, [bytes(data)]))
            return
        self._done.add(ticket, us, sizes, inline, [data])
        if self._done.nbytes > _PAYLOAD:
            self._emit()
        self._emit_soon()

    def failed(self, ticket: int, report: dict[str, Any], payload: Sequence[frames.Buffer]) -> None:
        """A task failed; ``payload`` is its exception."""
        stderr, stack = self._logs.tail(ticket)
        fields = {
            "m": "failed",
            "ticket": ticket,
            "stderr": stderr,
            "stack": stack,
            **report,
            "len": sum(len(p) for p in payload),
        }
        if self._logs.has(ticket):
            self._end_loudly(Loud(ticket, None, fields, [bytes(p) for p in payload]))
            return
        # What ended before goes out before.
        self._emit()
        self._link.send(fields, payload)

    def returned(self, ticket: int) -> None:
        """A task goes back unstarted."""
        self._logs.discard(ticket)
        self._returned.append(ticket)
        self._emit_soon()

    def started(self, tickets: Sequence[int]) -> None:
        """Tasks run, and have been for a while."""
        self._link.send({"m": "started", "ticket": tickets})

    def waiting(self) -> list[int]:
        """Tasks whose ends have not been handed to the link."""
        return [*self._done.tickets, *self._returned, *(end.ticket for end in self._loud)]

    def _end_loudly(self, end: Loud) -> None:
        if len(self._loud) > _MANY_LOUD:
            self._logs.shorten(end.ticket, _SHORT_LOG)
        self._loud.append(end)
        self._emit_soon()

    def _emit_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._emit)

    def _emit(self) -> None:
        self._scheduled = False
        if self._done.tickets:
            self._link.send(*self._done.message())
            self._done = Done()
        if self._returned:
            self._link.send({"m": "returned", "ticket": self._returned})
            self._returned = []
        self.emit_loud()

    def emit_loud(self) -> None:
        """Send the ends of tasks that have printed, each after its output, as far as there is room."""
        done = Done()
        while self._loud and self._logs.room():
            end = self._loud.popleft()
            self._logs.end(end.ticket, now())
            if end.result is not None:
                done.add(end.ticket, *end.result, end.payload)
                if done.nbytes <= _PAYLOAD:
                    continue
            if done.tickets:
                self._link.send_calmly(*done.message())
                done = Done()
            if end.result is None:
                self._link.send_calmly(end.failure, end.payload)
        if done.tickets:
            self._link.send_calmly(*done.message())
