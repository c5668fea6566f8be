"""Turns the messages of agents into events for the core, the part of the scheduler that makes all decisions.

This module also makes `handout.events` for the watchers of a run. A watcher is a function that gets these events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any

from handout.events import TaskReported, TaskStarted
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.shell.attempt_history import AttemptHistory
from handout.execution.shell.driver import Driver, FailedAttempt
from handout.execution.shell.object_streams import warn_no_room
from handout.execution.shell.retry_decisions import allows_missing_modules
from handout.execution.shell.run_state import RunState
from handout.failures import Failure, from_report, may_have_run
from handout.protocol import codec, messages, numbering
from handout.protocol.frames import Message, Piece, ProtocolError
from handout.protocol.reported_facts import Fact, check_progress, from_json
from handout.scheduler import events as ev
from handout.scheduler.handlers.retries import may_repeat
from handout.scheduler.run_spec import CONTROLLER
from handout.serialization.printable import printable

__all__ = ["InboundMessages"]

logger = logging.getLogger("handout")


class InboundMessages:
    """Handles the messages of one cluster's agents.

    Args:
        driver: Passes the events to the core.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._loop = asyncio.get_running_loop()
        self._handlers: messages.ToController = {
            "finished": self._on_finished,
            "failed": self._on_failed,
            "recalled": self._on_recalled,
            "started": self._on_started,
            "arrived": self._on_arrived,
            "progress_reports": self._on_progress_reports,
            "checkpointed": self._on_checkpointed,
            "made_warm": self._on_made_warm,
            "cooled": lambda agent, message, _: self._driver.post(ev.ValueCooled(agent.name, message.value)),
            "stream_object": self._on_stream_object,
            "missing": lambda agent, message, _: agent.fetches.missing(message.key),
            "vanished": self._on_vanished,
            "log": self._on_log,
            "program_ended": self._on_program_ended,
            "holdings": lambda agent, message, _: None,  # `Takeover` has handled this message
        }

    def heard(self, agent: AgentProxy, frames: Iterable[Message | Piece]) -> None:
        """Handle frames of one agent, in order. A frame is a message, or a piece of an object that is streamed.

        Raises:
            ProtocolError: An agent may not send such a message.
        """
        for frame in frames:
            if isinstance(frame, Piece):
                agent.fetches.piece(frame.stream, frame.data, frame.last)
                continue
            name, message = codec.decode(messages.TO_CONTROLLER, frame.fields)
            try:
                if agent.answers is not None:
                    agent.answers.note(name, message)
                self._handlers[name](agent, message, memoryview(frame.payload))  # type: ignore[literal-required]
            except ProtocolError:
                raise
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                logger.debug("The content of a message from an agent is wrong.", exc_info=True)
                raise ProtocolError(f"message {name!r} has wrong content: {error!r}") from error

    def _on_finished(self, agent: AgentProxy, message: messages.Finished, view: memoryview) -> None:
        if self._driver.faults is not None:
            self._driver.faults.over(message.attempt_ids)
        _check_counts(message.elapsed_us, 0)
        _check_counts(list(chain.from_iterable(message.sizes)), -1)
        position = 0
        batch: _Batch | None = None
        for attempt_id, micros, sizes, lengths in zip(*message, strict=True):
            number, task, attempt = numbering.parts(attempt_id)
            if batch is None or batch.run.number != number:
                if batch is not None:
                    self._driver.post(*batch.events(agent.name))
                run = self._driver.runs.get(number)
                if run is None:
                    # The caller has left the run. With this event the core can free the amounts that the task took.
                    position += sum(n for n in lengths if n > 0)
                    batch = None
                    self._driver.post(ev.TasksFinished(agent.name, number, [task], [attempt], [0.0], [sizes], [False]))
                    continue
                batch = _Batch(run, self._driver.core.attempts(number))
            held = True
            # Accept the result of the latest attempt, if it comes from the host that has this attempt. Also accept
            # the result of the other attempt, if the task has two and the core still counts both.
            current = batch.current[task] == attempt and batch.run.hosts[task] == agent.name
            current = current or self._driver.core.is_live(number, task, agent.name, attempt)
            if current and not agent.trusted:
                batch.run.suspect(task, agent.name)
            for made, size, length in zip(batch.run.task_objects[task], sizes, lengths, strict=True):
                if length >= 0:
                    if length != size or position + length > len(view):
                        raise ValueError(
                            f"{length} bytes for an object of {size} bytes, with {len(view) - position} in the payload"
                        )
                    # The core ignores the result of any other attempt, so its bytes are dropped.
                    if current and not _is_stored(batch.run, made, view[position : position + length]):
                        held = False
                        batch.unstored.append(made)
                    elif current and batch.run.recorder is not None and batch.run.outcomes[task] is not None:
                        # A lost result was made again. Record it here, because the core does not announce the end of a
                        # task a second time.
                        shown = self._driver.core.shown_attempt(number, task)
                        batch.run.recorder.arrived(batch.run, made, shown)
                    position += length
                    if batch.run.on_object and made in batch.run.objects:
                        self._loop.call_soon(batch.run.arrived, made)
                elif size >= 0:
                    held = False
            batch.tasks.append(task)
            batch.attempts.append(attempt)
            batch.durations_s.append(micros / 1e6)
            batch.sizes.append(sizes)
            batch.held.append(held)
        if batch is not None:
            self._driver.post(*batch.events(agent.name))

    def _on_failed(self, agent: AgentProxy, message: messages.Failed, payload: memoryview) -> None:
        number, task, attempt = numbering.parts(message.attempt_id)
        if self._driver.faults is not None:
            self._driver.faults.failed(message.attempt_id, message.kind)
        run = self._driver.runs.get(number)
        if run is None:
            self._driver.post(ev.TasksRecalled(agent.name, number, [task], [attempt]))  # see `_on_finished`
            return
        pickled = bytes(payload) if agent.trusted else None
        facts = _facts(message)
        if "missing" in facts:
            facts["python"] = agent.python
        shown = self._driver.core.shown_attempt(number, task, attempt)
        failure = from_report(run.ids[task], agent.name, shown, facts, pickled)
        profile = run.spec.profiles[run.spec.profile[task]]
        retry_on = run.options_of(task).retry_on
        # The next attempt would probably return such a result too, or lack the same package.
        final = failure.kind in ("unserializable", "too_large") or (
            failure.kind == "raised" and "missing" in failure.report and not allows_missing_modules(retry_on)
        )
        retries = 0 if final or not may_repeat(profile, failure.kind) else profile.retries
        run.histories.setdefault(task, AttemptHistory(failure)).note(failure, retries)
        if final:
            self._decided(run, task, attempt, failure, False)
        elif retry_on is None:
            self._decided(run, task, attempt, failure, True)
        else:
            self._driver.retry_decisions.ask(
                retry_on,
                failure,
                run.contexts.get(task, run.context),
                lambda yes: self._decided(run, task, attempt, failure, yes),
            )

    def _decided(self, run: RunState, task: int, attempt: int, failure: Failure, retryable: bool) -> None:
        """Tell the core and the watchers about a failed attempt, once it is known if another attempt may help."""
        host = failure.host or ""
        if self._driver.runs.get(run.number) is not run:
            self._driver.post(ev.TasksRecalled(host, run.number, [task], [attempt]))  # see `_on_finished`
            return
        failure.report["retryable"] = retryable
        if run.recorder is not None:
            run.recorder.failed(failure, task, attempt)
        if run.watchers:
            self._driver.failed_attempts.append(FailedAttempt(run, task, failure))
        kind: Any = failure.kind
        need = failure.report.get("need")
        need = need if isinstance(need, int) and need > 0 else 0
        called = may_have_run(failure)
        recurs = kind == "input" and failure.report.get("missing") is not None
        recipe = _recipe(run, task, failure)
        event = ev.TaskFailed(host, run.number, task, attempt, kind, retryable, failure, need, called, recurs, recipe)
        self._driver.post(event)

    def _on_made_warm(self, agent: AgentProxy, message: messages.MadeWarm, _: memoryview) -> None:
        _check_counts([message.elapsed_us], 0)
        if agent.trusted:  # a host that lies could name values without end
            self._driver.post(ev.ValueWarmed(agent.name, message.value, message.elapsed_us / 1e6))

    def _on_recalled(self, agent: AgentProxy, message: messages.Recalled, _: memoryview) -> None:
        if self._driver.faults is not None:
            self._driver.faults.over(message.attempt_ids)
        for number, tasks, attempts in numbering.by_run(message.attempt_ids):
            run = self._driver.runs.get(number)
            if run is not None:
                _check_below(tasks, run.task_count)
                if run.recorder is not None:
                    run.recorder.not_started(tasks, attempts)
            self._driver.post(ev.TasksRecalled(agent.name, number, tasks, attempts))

    def _on_started(self, agent: AgentProxy, message: messages.Started, _: memoryview) -> None:
        for number, tasks, attempts in numbering.by_run(message.attempt_ids):
            run = self._driver.runs.get(number)
            if run is None:
                continue
            _check_below(tasks, run.task_count)
            self._driver.post(ev.TasksStarted(agent.name, number, tasks, attempts))
            if run.watchers:
                at_s, ids = self._driver.now - run.started_at, run.ids
                shown = self._driver.core.shown_attempts(number, tasks, attempts)
                run.tell([TaskStarted(at_s, ids[t], agent.name, a) for t, a in zip(tasks, shown, strict=True)])
        if self._driver.faults is not None:
            for attempt_id in message.attempt_ids:
                self._driver.faults.started(attempt_id, agent)

    def _on_progress_reports(self, agent: AgentProxy, message: messages.ProgressReports, _: memoryview) -> None:
        for attempt_id, progress, facts in zip(*message, strict=True):
            number, task, attempt = numbering.parts(attempt_id)
            run = self._driver.runs.get(number)
            if run is None or not run.watchers:
                continue
            _check_below([task], run.task_count)
            shown = self._driver.core.shown_attempt(number, task, attempt)
            at_s, said = self._driver.now - run.started_at, _printable_facts(facts)
            run.tell([TaskReported(at_s, run.ids[task], agent.name, shown, check_progress(progress), said)])

    def _on_checkpointed(self, agent: AgentProxy, message: messages.Checkpointed, _: memoryview) -> None:
        number, task, attempt = numbering.parts(message.attempt_id)
        run = self._driver.runs.get(number)
        parts = numbering.checkpoint_parts(message.key)
        if not numbering.is_checkpoint(message.key) or parts != (number, task, attempt):
            raise ValueError(f"the key {message.key:x} is not that of a checkpoint of the attempt")
        _check_counts([message.size], 0)
        if run is None:
            agent.drop_keys([message.key])
            return
        _check_below([task], run.task_count)
        if run.hosts[task] == agent.name or self._driver.core.is_live(number, task, agent.name, attempt):
            self._driver.checkpoints.announced(run, task, agent, message.key, message.size)
        else:
            agent.drop_keys([message.key])

    def _on_stream_object(self, agent: AgentProxy, message: messages.StreamObject, _: memoryview) -> None:
        _check_counts([message.size], 0)
        agent.fetches.announced(message.key, message.stream, message.size)

    def _on_arrived(self, agent: AgentProxy, message: messages.Arrived, _: memoryview) -> None:
        _check_counts(message.sizes, 0)
        for key, nbytes in zip(message.keys, message.sizes, strict=True):
            if numbering.is_checkpoint(key):
                continue  # the core does not know checkpoints
            number, made = numbering.key_parts(key)
            run = self._driver.runs.get(number)
            if run is not None:
                _check_below([made], len(run.spec.producer))
            # The core gets this event even if the caller has left the run, so that the core has the object dropped. The
            # core does not know source bundles, the archives of the user's modules. Their keys have the run number 0.
            if number:
                self._driver.post(ev.ObjectsStored(agent.name, number, [made], [nbytes]))

    def _on_vanished(self, agent: AgentProxy, message: messages.Vanished, _: memoryview) -> None:
        objects: dict[int, list[int]] = {}
        for key in message.keys:
            number, made = numbering.key_parts(key)
            if numbering.is_checkpoint(key):
                self._driver.checkpoints.vanished(agent, key)
            elif number:
                objects.setdefault(number, []).append(made)
            else:
                agent.send_bundle_again(key)
        for number, numbers in objects.items():
            run = self._driver.runs.get(number)
            if run is not None:
                _check_below(numbers, len(run.spec.producer))
                self._driver.post(ev.ObjectsVanished(agent.name, number, numbers))

    def _on_log(self, agent: AgentProxy, message: messages.Log, payload: memoryview) -> None:
        number, task, _ = numbering.parts(message.attempt_id)
        run = self._driver.runs.get(number)
        if run is None:
            return
        lines = bytes(payload).decode("utf-8", "replace").splitlines()
        run.logs.add(task, lines, message.dropped)

    def _on_program_ended(self, agent: AgentProxy, message: messages.ProgramEnded, payload: memoryview) -> None:
        answer = agent.programs.pop(message.id, None)
        if answer is not None:
            answer(message.status, bytes(payload))


class _Batch:
    """The tasks of one run that one message reports as finished."""

    __slots__ = ("attempts", "current", "durations_s", "held", "run", "sizes", "tasks", "unstored")

    def __init__(self, run: RunState, current: Sequence[int]) -> None:
        self.run = run
        #: The number of the attempt whose result counts, for each task.
        self.current = current
        self.tasks: list[int] = []
        self.attempts: list[int] = []
        self.durations_s: list[float] = []
        self.sizes: list[Sequence[int]] = []
        self.held: list[bool] = []
        #: The objects that the controller got, but had no room for.
        self.unstored: list[int] = []

    def events(self, host: str) -> list[ev.Event]:
        """Return the events for the core. An object that found no room counts as one failed copy to the controller.

        The core then requests the object from the host, or has it made again. After some failures it ends the run.
        """
        number = self.run.number
        return [
            ev.TasksFinished(host, number, self.tasks, self.attempts, self.durations_s, self.sizes, self.held),
            *(ev.CopyFailed(CONTROLLER, number, made, host, missing=False) for made in self.unstored),
        ]


def _is_stored(run: RunState, number: int, data: memoryview) -> bool:
    """Store an object that came with a report. Return False if the controller has no room for the object."""
    try:
        run.objects.put_new(number, bytes(data))
    except (OSError, MemoryError) as error:
        warn_no_room(f"the result of task {run.ids[run.spec.producer[number]]!r}", error)
        return False
    return True


#: Numbers as large as this are refused. No real count is that large, and a huge integer could not become a float.
_MAX_NUMBER = 1 << 80


def _check_counts(counts: Sequence[int], least: int) -> None:
    """Check that all counts of a message are integers of a possible size, because the core calculates with them.

    Raises:
        ValueError: A count is not an integer, or is out of range.
    """
    if counts and ({*map(type, counts)} != {int} or min(counts) < least or max(counts) >= _MAX_NUMBER):
        raise ValueError(f"a count is not an integer, is below {least} or is too large")


def _check_below(numbers: Iterable[int], end: int) -> None:
    """Check that a run has tasks or objects with these numbers. Other numbers would break the core and end all runs.

    Raises:
        ValueError: The run lacks a task or an object with one of the numbers.
    """
    highest = max(numbers)
    if highest >= end:
        raise ValueError(f"the run has no task or object {highest}")


def _printable_facts(facts: object) -> Mapping[str, Fact]:
    """Return the facts of a task's report, with texts that are safe for a terminal.

    Raises:
        TypeError: A fact is not one value.
        ValueError: The facts are too large, or not facts.
    """
    said = {printable(k): printable(v) if isinstance(v, str) else v for k, v in from_json(facts).items()}
    return MappingProxyType(said)


def _recipe(run: RunState, task: int, failure: Failure) -> int:
    """Return the number of the object by which a warm value was to be made, if this has failed. Otherwise -1."""
    key = failure.report.get("recipe")
    return next((o for o in run.encoded.inputs[task] if o in run.encoded.warm and run.key_of(o) == key), -1)


def _facts(message: messages.Failed) -> dict[str, Any]:
    """Return the facts of a failure that an agent reports. These are the fields that differ from their defaults.

    Raises:
        ValueError: A number is too large, or a line is not a text.
    """
    defaults = message._field_defaults
    facts = {k: v for k, v in message._asdict().items() if k != "attempt_id" and v != defaults.get(k)}
    for name, value in facts.items():
        if isinstance(value, int | float) and abs(value) >= _MAX_NUMBER:
            raise ValueError(f"{name} is {str(value)[:50]!r}")
        if isinstance(value, list) and not all(isinstance(line, str) for line in value):
            raise ValueError(f"{name} is not a list of lines")
    return facts
