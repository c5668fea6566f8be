"""Bounds what an agent with ``trust="data"`` can do by lying: hold tasks and objects back, or undo its own answers.

Such an agent may be hostile. It can renew its lease for ever, and say for ever that a task still runs. It can also give
back every task, or report results that it then does not have, so that the controller repeats the same work for ever.
Each of these lies leads to the same end: the controller no longer uses the host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from handout.errors import HostError
from handout.execution.shell.object_streams import Sink
from handout.protocol.frames import Buffer

__all__ = ["AnswerLimit", "LimitedSink"]

#: An agent may undo this many of its answers, and in addition one for every ten tasks that it has finished. An honest
#: agent undoes an answer only if its store has lost an object, or if it lacks the code of a task.
_MAX_UNDONE, _FINISHED_PER_UNDONE = 100, 10


class AnswerLimit:
    """What one agent has still to answer, and until when.

    Args:
        host: The host's name.
        limit_s: Seconds within which the agent must end a task or send an object, see ``Timings.answer_s``.
        give_up: Ends the conversation with the agent. Its argument says why.
    """

    def __init__(self, host: str, limit_s: float, give_up: Callable[[str], None]) -> None:
        self._host = host
        self._limit_s = limit_s
        self._give_up = give_up
        self._loop = asyncio.get_running_loop()
        #: For each task and object that the agent has not answered: until when it must, and its name.
        self._open: dict[tuple[str, int], tuple[float, str]] = {}
        #: The attempts that the controller wants back.
        self._wanted_back: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._finished = self._undone = 0
        #: Why the host must not be used again, or None.
        self.error: HostError | None = None

    # ---- what the controller asks ------------------------------------------------------------------------------

    def handed_over(self, attempt_id: int, id: str, timeout_s: float | None = None) -> None:
        """Note that the agent has a task, which it must end within the limit and the task's own ``timeout_s``."""
        self._ask(("task", attempt_id), f"task {id!r}", timeout_s or 0.0)

    def taken_over(self, attempt_ids: Iterable[int]) -> None:
        """Note attempts that an earlier controller has handed over."""
        for each in attempt_ids:
            self._ask(("task", each), "a task of an earlier run", 0.0)

    def wanted_back(self, attempt_ids: Iterable[int]) -> None:
        """Note that the controller has recalled or cancelled attempts, so that the agent may give them back."""
        self._wanted_back.update(each for each in attempt_ids if ("task", each) in self._open)

    def fetched(self, key: int, sink: Sink) -> Sink:
        """Note that the controller asks for an object. Return the sink for its bytes."""
        name = ("object", key)
        self._ask(name, "an object", 0.0)
        return LimitedSink(sink, lambda: self._answered(name))

    def _ask(self, key: tuple[str, int], what: str, more_s: float) -> None:
        until = self._loop.time() + self._limit_s + more_s
        self._open[key] = until, what
        if self._timer is None or until < self._timer.when():
            self._set_timer(until)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._check)

    # ---- what the agent answers --------------------------------------------------------------------------------

    def note(self, name: str, message: Any) -> None:
        """Note a message of the agent."""
        if name == "finished":
            self._finished += len(message.attempt_ids)
            self._ended(message.attempt_ids)
        elif name == "failed":
            self._ended([message.attempt_id])
        elif name == "recalled":
            self._undo(sum(1 for each in message.attempt_ids if each not in self._wanted_back))
            self._ended(message.attempt_ids)
        elif name == "missing":
            self._undo(1)

    def _ended(self, attempt_ids: Iterable[int]) -> None:
        for each in attempt_ids:
            self._wanted_back.discard(each)
            self._answered(("task", each))

    def _answered(self, key: tuple[str, int]) -> None:
        self._open.pop(key, None)

    def _undo(self, count: int) -> None:
        self._undone += count
        most = _MAX_UNDONE + self._finished // _FINISHED_PER_UNDONE
        if self._undone > most:
            self._break(f"gave back tasks, or lacked results that it had reported, more than {most} times")

    def _check(self) -> None:
        """Give the agent up if it is late. Otherwise, wait for the next time at which it may be."""
        self._timer = None
        if not self._open:
            return
        until, what = min(self._open.values())
        if until > self._loop.time():
            self._set_timer(until)
        else:
            self._break(f"held {what} back for longer than Timings.answer_s allows, which is {self._limit_s:g} s")

    def _break(self, did: str) -> None:
        if self.error is not None:
            return
        self.close()
        self.error = HostError(
            f"Host {self._host!r} has trust='data' and is not used any more, because its agent {did}.",
            remedy="Find out what runs on the host. If its tasks take this long, give them a timeout_s, or raise "
            "Timings(answer_s=...).",
            host=self._host,
        )
        # Not now, because the conversation may be handling the message that broke the limit.
        self._loop.call_soon(self._give_up, f"it {did}")

    def close(self) -> None:
        """Expect no more answers."""
        self._open.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class LimitedSink:
    """Passes the bytes of an object on to a sink, and tells when the object has arrived or will not come."""

    def __init__(self, sink: Sink, answered: Callable[[], None]) -> None:
        self._sink = sink
        self._answered = answered

    def begin(self, size: int) -> None:
        """See `Sink`."""
        self._sink.begin(size)

    def write(self, data: Buffer) -> None:
        """See `Sink`."""
        self._sink.write(data)

    def end(self) -> None:
        """See `Sink`."""
        self._answered()
        self._sink.end()

    def fail(self, missing: bool) -> None:
        """See `Sink`."""
        self._answered()
        self._sink.fail(missing)
