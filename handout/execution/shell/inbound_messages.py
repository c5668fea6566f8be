"""What agents say, as events for the core and news for whoever watches a run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from handout.events import TaskStarted
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.shell.attempt_history import AttemptHistory
from handout.execution.shell.driver import Driver
from handout.execution.shell.run_state import RunState
from handout.failures import Failure, from_report, may_have_run
from handout.protocol import numbering
from handout.protocol.frames import Buffer, Message, Piece, ProtocolError
from handout.scheduler import events as ev
from handout.scheduler.handlers.attempt_reports import may_repeat
from handout.serialization import exceptions

__all__ = ["InboundMessages"]

logger = logging.getLogger("handout")


class InboundMessages:
    """Understands the messages of one cluster's agents.

    Args:
        driver: What is told.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._loop = asyncio.get_running_loop()
        self._hear: dict[str, Callable[[AgentProxy, dict[str, Any], Buffer], None]] = {
            "done": self._on_done,
            "failed": self._on_failed,
            "returned": self._on_returned,
            "started": self._on_started,
            "stored": self._on_stored,
            "stream": lambda peer, f, _: peer.fetches.announced(f["key"], f["stream"], f["size"]),
            "missing": lambda peer, f, _: peer.fetches.missing(f["key"]),
            "log": self._on_log,
            "ran": self._on_ran,
            "found": lambda peer, f, _: None,
        }

    def heard(self, peer: AgentProxy, frames: Iterable[Message | Piece]) -> None:
        """Messages of one agent, in order.

        Raises:
            ProtocolError: One of them is not what an agent may say.
        """
        for frame in frames:
            if isinstance(frame, Piece):
                peer.fetches.piece(frame.stream, frame.data, frame.last)
                continue
            try:
                self._hear[frame.fields["m"]](peer, frame.fields, frame.payload)
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                name = frame.fields.get("m")
                logger.debug("bad message", exc_info=True)
                raise ProtocolError(f"message {name!r} is not as it should be: {error!r}") from error

    def _on_done(self, peer: AgentProxy, fields: Mapping[str, Any], payload: Buffer) -> None:
        view = memoryview(payload)
        position = 0
        batch: _Batch | None = None
        for ticket, micros, sizes, lengths in zip(
            fields["ticket"], fields["us"], fields["size"], fields["inline"], strict=True
        ):
            number, task, attempt = numbering.parts(ticket)
            if batch is None or batch.run.number != number:
                if batch is not None:
                    self._driver.post(batch.event(peer.name))
                run = self._driver.runs.get(number)
                if run is None:
                    # The caller has left it; what the task had taken of its host is free only now.
                    position += sum(n for n in lengths if n > 0)
                    batch = None
                    self._driver.post(ev.TasksFinished(peer.name, number, [task], [attempt], [0.0], [sizes], [False]))
                    continue
                batch = _Batch(run, self._driver.core.attempts(number))
            held = True
            # Also from the host that it was given to: no host answers for another one's tasks.
            current = batch.current[task] == attempt and batch.run.hosts[task] == peer.name
            current = current or self._driver.core.is_live(number, task, peer.name, attempt)
            if current and not peer.trusted:
                batch.run.suspect(task, peer.name)
            for made, size, length in zip(batch.run.task_objects[task], sizes, lengths, strict=True):
                if length >= 0:
                    if length != size or position + length > len(view):
                        raise ValueError(f"{length} bytes of an object of {size}, where {len(view) - position} are")
                    if current:  # else the core drops it: so must the bytes be
                        batch.run.objects.put_new(made, bytes(view[position : position + length]))
                        if batch.run.recorder is not None and batch.run.outcomes[task] is not None:
                            # It was made again: nobody will hear of its end once more.
                            batch.run.recorder.arrived(batch.run, made, batch.current)
                    position += length
                    if batch.run.on_object:
                        self._loop.call_soon(batch.run.arrived, made)
                elif size >= 0:
                    held = False
            batch.tasks.append(task)
            batch.attempts.append(attempt)
            batch.durations_s.append(micros / 1e6)
            batch.sizes.append(sizes)
            batch.held.append(held)
        if batch is not None:
            self._driver.post(batch.event(peer.name))

    def _on_failed(self, peer: AgentProxy, fields: dict[str, Any], payload: Buffer) -> None:
        number, task, attempt = numbering.parts(fields["ticket"])
        run = self._driver.runs.get(number)
        if run is None:
            self._driver.post(ev.TasksRecalled(peer.name, number, [task], [attempt]))  # see `_on_done`
            return
        # An exception may be any class: of hosts that are trusted with data, only its text is taken.
        pickled = bytes(payload) if peer.trusted else b""
        failure = from_report(run.plan.ids[task], peer.name, attempt, _facts(fields), pickled)
        profile = run.spec.profiles[run.spec.profile[task]]
        retries = profile.retries if may_repeat(profile, failure.kind) else 0
        run.trails.setdefault(task, AttemptHistory(failure)).note(failure, retries)
        retryable = failure.report["retryable"] = self._is_retryable(run, task, failure)
        if run.recorder is not None:
            run.recorder.failed(failure, task, attempt)
        if run.watchers:
            self._driver.failed_attempts.append((run, task, attempt, failure))
        kind: Any = failure.kind
        need = failure.report.get("need")
        need = need if isinstance(need, int) and need > 0 else 0
        called = may_have_run(failure)
        self._driver.post(ev.TaskFailed(peer.name, number, task, attempt, kind, retryable, failure, need, called))

    def _is_retryable(self, run: RunState, task: int, failure: Failure) -> bool:
        """What the user's ``retry_on`` says of it; only then is the exception loaded before it is asked for.

        What a function returns will be of the same kind next time: that is not worth another try.
        """
        if failure.kind in ("unserializable", "too_large"):
            return False
        retry_on = run.plan.options[task].retry_on
        if retry_on is None:
            return True
        try:
            if isinstance(retry_on, type | tuple):
                return isinstance(failure.bare(), retry_on)
            return bool(retry_on(failure.bare()))
        except Exception as error:
            failure.report["retryable"] = False
            said = f"{type(error).__name__}: {exceptions.message(error)}"
            failure.exception.add_note(f"retry_on raised {said}; so it was not retried.")
            return False

    def _on_returned(self, peer: AgentProxy, fields: Mapping[str, Any], _: Buffer) -> None:
        for number, tasks, attempts in numbering.by_run(fields["ticket"]):
            run = self._driver.runs.get(number)
            if run is not None and run.recorder is not None:
                run.recorder.not_started(tasks, attempts)
            self._driver.post(ev.TasksRecalled(peer.name, number, tasks, attempts))

    def _on_started(self, peer: AgentProxy, fields: Mapping[str, Any], _: Buffer) -> None:
        for number, tasks, attempts in numbering.by_run(fields["ticket"]):
            run = self._driver.runs.get(number)
            if run is None:
                continue
            self._driver.post(ev.TasksStarted(peer.name, number, tasks, attempts))
            if run.watchers:
                at_s, ids = self._driver.now - run.started_at, run.plan.ids
                run.tell([TaskStarted(at_s, ids[t], peer.name, a) for t, a in zip(tasks, attempts, strict=True)])

    def _on_stored(self, peer: AgentProxy, fields: Mapping[str, Any], _: Buffer) -> None:
        for key, nbytes in zip(fields["key"], fields["size"], strict=True):
            number, made = numbering.key_parts(key)
            if number in self._driver.runs:
                self._driver.post(ev.ObjectsStored(peer.name, number, [made], [nbytes]))

    def _on_log(self, peer: AgentProxy, fields: Mapping[str, Any], payload: Buffer) -> None:
        number, task, _ = numbering.parts(fields["ticket"])
        run = self._driver.runs.get(number)
        if run is None:
            return
        lines = bytes(payload).decode("utf-8", "replace").splitlines()
        if fields.get("dropped"):
            lines.insert(0, f"[{fields['dropped']} lines dropped]")
        run.logs.add(task, lines)

    def _on_ran(self, peer: AgentProxy, fields: Mapping[str, Any], payload: Buffer) -> None:
        answer = peer.programs.pop(fields["id"], None)
        if answer is not None:
            answer(int(fields["rc"]), bytes(payload))


class _Batch:
    """The tasks of one run that one message says have finished."""

    __slots__ = ("attempts", "current", "durations_s", "held", "run", "sizes", "tasks")

    def __init__(self, run: RunState, current: Sequence[int]) -> None:
        self.run = run
        #: By task: the attempt whose answer counts.
        self.current = current
        self.tasks: list[int] = []
        self.attempts: list[int] = []
        self.durations_s: list[float] = []
        self.sizes: list[Sequence[int]] = []
        self.held: list[bool] = []

    def event(self, host: str) -> ev.TasksFinished:
        return ev.TasksFinished(
            host, self.run.number, self.tasks, self.attempts, self.durations_s, self.sizes, self.held
        )


_NUMBERS = frozenset({"elapsed_s", "maxrss", "limit_s", "limit", "peak", "need", "free", "signal", "deaths"})
_MAX_NUMBER = 1 << 80
_TEXTS = frozenset({"kind", "type", "message", "text", "path", "culprit"})


def _facts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A ``failed`` message's facts, without what only the wire needs.

    Raises:
        ValueError: One of them is not of the kind that the error which is made of it needs.
    """
    facts = {k: v for k, v in fields.items() if k not in ("m", "ticket", "len")}
    for name, value in facts.items():
        if value is None:
            continue
        if (name in _NUMBERS and not (isinstance(value, int | float) and abs(value) < _MAX_NUMBER)) or (
            name in _TEXTS and not isinstance(value, str)
        ):
            raise ValueError(f"{name} is {str(value)[:50]!r}")
    if not all(isinstance(line, str) for line in facts.get("stderr") or ()):
        raise ValueError("stderr is no list of lines")
    return facts
