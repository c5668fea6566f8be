"""Records one run in its journal.

The identity of a task is a digest by which later runs recognize the task. A task must not run twice if its function has
``idempotent=False``. The start of such a task is recorded on the disk before the task is handed over. Until then, the
attempt is held back.

The core is the part of the scheduler that makes all decisions.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from os import PathLike
from typing import Any

from handout.errors import DamagedFileError, JournalError, OutcomeUnknownError
from handout.execution.membership.takeover import FoundAgent
from handout.execution.recording.checkpoint_recorder import CheckpointRecorder
from handout.execution.recording.resume_matching import PriorRuns
from handout.execution.shell.run_checkpoints import TaskCheckpoint
from handout.execution.shell.run_state import GraphRun, HeldAttempt, RunState
from handout.execution.sliced import sliced
from handout.failures import Failure, may_have_run
from handout.graph.plan import Plan
from handout.journal import INLINE, AttemptStart, ClassName, Journal, ResultBatch
from handout.journal.identity import TaskIdentities
from handout.scheduler import commands as do
from handout.scheduler import events as ev
from handout.scheduler.task_states import Outcome
from handout.serialization import tokens
from handout.transport.agent_link import AgentLink
from handout.transport.bundle import agent_bundle
from handout.transport.shielded import uninterrupted
from handout.transport.threads import call_in_daemon_thread, ended_within

logger = logging.getLogger("handout")

#: A cancelled or failed `Recorder.open` waits at most this many seconds until the journal is closed again.
_CALL_OFF_S = 2.0
#: Outcomes after which it can be known whether the function took effect; see `_is_over`.
_KNOWN = frozenset({Outcome.DONE, Outcome.FAILED})

__all__ = ["Recorder"]


class _Opened:
    """A journal, and the daemon thread that opens and closes it.

    The thread is a daemon, because a disk that does not answer must not keep the program from ending.

    Args:
        path: The journal's file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._let_go = threading.Event()
        #: Done once the journal is open, or cannot be opened.
        self.journal: Future[Journal] = Future()
        self.journal.set_running_or_notify_cancel()  # so that a cancelled waiter does not cancel this future
        self._ended = call_in_daemon_thread(self._live, "handout-journal-opener")

    def _live(self) -> None:
        try:
            journal = Journal(self._path)
        except BaseException as error:
            self.journal.set_exception(error)
            return
        self.journal.set_result(journal)
        self._let_go.wait()
        _close(journal)

    async def close(self, within_s: float) -> None:
        """Commit the waiting records, and release the journal. A journal that is still being opened is released later.

        Args:
            within_s: Seconds to wait. If closing takes longer, a warning is logged and the thread goes on closing.
        """
        self._let_go.set()
        if not await ended_within(self._ended, within_s):
            doing = "written" if self.journal.done() else "opened"
            logger.warning(
                "The journal %s is still being %s. No run can use it until this has ended.", self._path, doing
            )


def _close(journal: Journal) -> None:
    try:
        journal.close()
    except Exception:
        logger.exception("The journal %s could not be closed properly. Its last records may be missing.", journal.path)


def _ignore(error: Exception) -> None:
    """Ignore an error of a journal. This function replaces the error callback after the caller has left the run."""


def _is_over(failure: object) -> bool:
    """Return False if an attempt was killed, or if its end is not known.

    In these cases, the function of the task may or may not have taken effect.
    """
    return not isinstance(failure, OutcomeUnknownError) and getattr(failure, "kind", "") not in ("timeout", "memory")


class Recorder:
    """Records one run.

    Args:
        journal: The open journal, which no other run uses.
        plan: The run's graph.
        identities: The identities of the run's tasks.
        close: Closes the journal. Its argument is the number of seconds to wait.
    """

    def __init__(
        self,
        journal: Journal,
        plan: Plan,
        identities: TaskIdentities,
        close: Callable[[float], Coroutine[Any, Any, None]],
    ) -> None:
        self._journal = journal
        self._close = close
        #: The numbers of the objects whose bytes the recorder commits.
        self._objects: frozenset[int] = frozenset()
        self._identities = identities
        self._tasks = self._identities.tasks
        self._ids = plan.ids
        #: Tasks that must not run twice.
        self._once = frozenset(task for task, options in enumerate(plan.options) if not options.idempotent)
        nameless = sorted(self._once & self._identities.unrecognizable)
        if nameless:
            raise JournalError(
                f"Task {plan.ids[nameless[0]]!r} is marked idempotent=False and would not be recognized after a crash, "
                "because its function or an argument holds an object that differs from process to process.",
                remedy="Give the function plain data (no open files, generators, connections), or leave out journal=.",
                path=str(journal.path),
            )
        self._loop = asyncio.get_running_loop()
        #: The results and attempts that earlier runs of the same tasks left.
        self.prior = PriorRuns(journal, self._identities, self._once)
        #: Maps each host to the link of its agent, for the agents that the journal records.
        self._links: dict[str, AgentLink] = {}
        #: The attempts that are held back. The keys are the numbers of run, task and attempt, and the values are hosts.
        self.held: dict[tuple[int, int, int], str] = {}
        self._checkpoints = CheckpointRecorder(journal, self._tasks, plan.ids)

    @classmethod
    async def open(cls, path: str | PathLike[str], plan: Plan) -> Recorder:
        """Open a journal for a run.

        Raises:
            JournalError: The journal is in use, has another format, or cannot be written. Or the plan has a task that
                must not run twice and that could not be recognized after a crash.
        """
        opened = _Opened(os.fspath(path))
        try:
            await asyncio.wrap_future(opened.journal)
            return cls(opened.journal.result(), plan, await sliced(TaskIdentities.of(plan)), opened.close)
        except BaseException:
            # The thread opens the journal even if this call was cancelled, so the journal must be closed again.
            await uninterrupted(opened.close(_CALL_OFF_S))
            raise

    async def close(self, within_s: float) -> None:
        """Commit the waiting records, and release the journal.

        Args:
            within_s: Seconds to wait. If closing takes longer, a warning is logged and a thread goes on closing.
        """
        self._checkpoints.flush()
        for host, link in self._links.items():
            if link.agent_ended:
                self._journal.forget_agent(host)
        await self._close(within_s)
        # The old callback refers to the run. Without the callback, the run and its files can be freed at once.
        self._journal.on_error = _ignore

    def begin(self, run: GraphRun, found: Mapping[str, FoundAgent]) -> list[ev.Event]:
        """Record that the run begins. Return the facts that are known of earlier runs, as events for the core.

        Args:
            run: The run. The caller must submit it in the same turn of the event loop.
            found: Maps each host whose agent was taken over to the attempts and objects of that agent.
        """
        self._objects = frozenset(run.spec.outputs)
        facts = self.prior.facts(run, found)
        self._checkpoints.recorded.update(self.prior.checkpointed)
        classes = [ClassName(*token, module, name) for token, module, name in tokens.own_classes()]
        reused = len(self.prior.done) + len(run.reused) - len(self.prior.reused)  # the last ones are in both
        self._journal.begin_run(self._ids, [*self._tasks, self.prior.objects], reused, run.number, classes)
        return facts

    def watch(self, lost: Callable[[Exception], None]) -> None:
        """Register ``lost``. It is called in the event loop when the journal can no longer be written."""
        self._journal.on_error = self._on_loop(lost)

    def agent(self, host: str, link: AgentLink) -> None:
        """Record an agent that serves the run, so that a later controller can take it over."""
        if link.started is not None:
            self._links[host] = link
            said = {**dataclasses.asdict(link.started), "digest": agent_bundle().digest}
            self._journal.record_agent(host, link.token, json.dumps(said))

    # ---- what happens ----------------------------------------------------------------------------------------

    def ended(self, run: RunState, command: do.AnnounceTasksEnded, shown: Callable[[int], int]) -> None:
        """Record that tasks ended, with the results that the controller has. `arrived` records the other results."""
        batches: dict[tuple[str, str, bool], ResultBatch] = {}
        settled: list[bytes] = []
        once, reused, made = self._once, self.prior.reused, run.task_objects
        for task, outcome, failure in zip(command.tasks, command.outcomes, command.failures, strict=True):
            if outcome is Outcome.DONE and (task not in reused or shown(task)):
                for number in made[task]:
                    self._add(batches, run, task, number, shown(task))
            if task in once and outcome in _KNOWN and _is_over(failure):
                settled.append(self._tasks[task])
        for batch in batches.values():
            self._journal.commit(batch)
        if settled:
            self._journal.clear_starts(settled)

    def _add(
        self, batches: dict[tuple[str, str, bool], ResultBatch], run: RunState, task: int, number: int, attempt: int
    ) -> None:
        """Add a small object to a batch, or commit a large object.

        `_source` returns the same facts for all objects of a batch. If the controller does not have the object or does
        not commit it, only the success of the object's task is added.
        """
        here = number in self._objects and number in run.objects
        data = run.objects.small(number, INLINE) if here else None
        if here and data is None:
            self._commit(run, number, attempt)
            return
        if data is None and number != task:
            return
        source = self._source(run, number)
        batch = batches.get(source)
        if batch is None:
            batch = batches[source] = ResultBatch(*source)
        batch.tasks.append(task)
        batch.attempts.append(attempt)
        if data is None:
            batch.sizes.append(-1)
        else:
            batch.sizes.append(len(data))
            batch.data.append(data)

    def _source(self, run: RunState, number: int) -> tuple[str, str, bool]:
        """Return an object's host, its path in the result of its task, and True if the object is untrusted.

        The path is empty for the whole result. An untrusted object has passed through a host with ``trust="data"``.
        """
        task = run.spec.producer[number]
        suspect = run.suspects.get(number) if run.suspects else None
        part = "" if number == task else self._identities.part_of(number)
        return suspect or run.hosts[task], part, suspect is not None

    def arrived(self, run: RunState, number: int, shown: int) -> None:
        """Record an object that arrived at the controller after its task had ended."""
        task = run.spec.producer[number]
        if number in self._objects and run.outcomes[task] is Outcome.DONE:
            self._commit(run, number, shown)

    def _commit(self, run: RunState, number: int, attempt: int) -> None:
        task = run.spec.producer[number]
        try:
            segments = run.objects.segments(number)
        except (OSError, DamagedFileError, JournalError) as error:
            logger.warning("The result of task %r is not committed to the journal: %s", self._ids[task], error)
            return
        if segments is None:
            return
        nbytes = run.objects.size(number)
        batch = ResultBatch(*self._source(run, number), [task], [attempt], [nbytes])
        if nbytes > INLINE:
            file = run.objects.file(number)
            self._journal.commit_file(batch, segments, None if file is None else file.digest)
        else:
            batch.data.append(b"".join(segments))
            self._journal.commit(batch)

    def failed(self, failure: Failure, task: int, attempt: int) -> None:
        """Record that an attempt failed."""
        reason = str(failure.report.get("message") or failure.kind)
        self._journal.record_failure(failure.id, failure.host or "", failure.attempts, failure.kind, reason)
        if not may_have_run(failure):
            self.not_started([task], [attempt])

    def checkpoint(self, run: RunState, task: int, checkpoint: TaskCheckpoint) -> None:
        """Record a checkpoint that has arrived at the controller."""
        self._checkpoints.take(run, task, checkpoint)

    def checkpoints_over(self, task: int, well: bool) -> None:
        """Record that a task makes no more checkpoints. If it has ended well, none of them is needed any more."""
        self._checkpoints.over(task, well)

    def over(self, outcome: Outcome, then: Callable[[Exception | None], None]) -> None:
        """Record how the run ended. Then call ``then`` in the event loop, with None or the error of the journal."""
        self._checkpoints.flush()
        self._journal.end_run(outcome.value, self._on_loop(then))

    # ---- starts that must not happen twice ---------------------------------------------------------------------

    def must_wait(self, command: do.StartTasks) -> bool:
        """Return True if the starts of some tasks must be on the disk before the tasks are handed over."""
        return bool(self._once) and not self._once.isdisjoint(command.tasks)

    def start(
        self, run: RunState, command: do.StartTasks, shown: Sequence[int], then: Callable[[Exception | None], None]
    ) -> None:
        """Hold back attempts and record their starts, with the numbers by which users know the attempts.

        Then call ``then`` in the event loop, with None or with the error of the journal.
        """
        starts = []
        for task, attempt, number in zip(command.tasks, command.attempts, shown, strict=True):
            self.held[run.number, task, attempt] = command.host
            if task in self._once:
                starts.append(AttemptStart(self._tasks[task], self._ids[task], command.host, attempt, number))
        self._journal.record_starts(starts, self._on_loop(then))

    def release(self, run: RunState, task: int, attempt: int) -> bool:
        """Stop holding back an attempt. Return False if the attempt was not held back."""
        return self.held.pop((run.number, task, attempt), None) is not None

    def release_all(self) -> list[HeldAttempt]:
        """Stop holding back all attempts, and return them."""
        released = [HeldAttempt(host, task, attempt) for (_, task, attempt), host in self.held.items()]
        self.held.clear()
        return released

    def not_started(self, tasks: Iterable[int], attempts: Iterable[int]) -> None:
        """Record that attempts never began."""
        pairs = zip(tasks, attempts, strict=True)
        self._journal.cancel_starts([(self._tasks[task], attempt) for task, attempt in pairs if task in self._once])

    def _on_loop(self, then: Callable[[Any], None]) -> Callable[[Any], None]:
        def told(error: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed, so the run is over
                self._loop.call_soon_threadsafe(then, error)

        return told
