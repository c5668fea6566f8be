"""One run and its journal: what is told to it, and what it tells of earlier runs."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from handout.agent import serial
from handout.agent.serial import Segment
from handout.data.encode import EncodedRun
from handout.data.identity import Identities
from handout.errors import OutcomeUnknownError
from handout.execution import tickets
from handout.execution.adoption import Found, KnownAgent
from handout.execution.uninterrupted import uninterrupted
from handout.graph.plan import Plan
from handout.journal import INLINE, Batch, Committed, Journal
from handout.remote.bootstrap import Started
from handout.remote.bundle import agent_bundle
from handout.scheduler import commands as do
from handout.scheduler import events as ev
from handout.scheduler.spec import CONTROLLER
from handout.scheduler.states import Outcome

if TYPE_CHECKING:
    from handout.execution.active import ActiveRun
    from handout.execution.failure import Failure
    from handout.remote.link import Link

#: Ends after which it is known what happened.
_KNOWN = frozenset({Outcome.DONE, Outcome.FAILED})

__all__ = ["JournalResults", "Recorder", "journaled_objects"]

#: What is committed of a run: every result that something takes, or only what the caller gets.
JournalResults = Literal["all", "outputs"]


def journaled_objects(plan: Plan, encoded: EncodedRun, results: JournalResults) -> list[int]:
    """The objects that a journaled run brings to the controller: its outputs first.

    A function that must not run twice has its result committed in any case: it could not be made again.
    """
    wanted = dict.fromkeys(plan.outputs)
    for inputs in encoded.inputs:
        for number in inputs:
            producer = encoded.producers[number]
            if producer >= 0 and (results == "all" or not plan.options[producer].idempotent):
                wanted[number] = None
    return list(wanted)


async def _close(opening: asyncio.Future[Journal]) -> None:
    """Close a journal that is being opened."""
    await asyncio.wait({opening})
    if opening.exception() is None:
        await asyncio.to_thread(opening.result().close)


def _objects_of(run: int, found: Mapping[str, Found]) -> dict[int, list[tuple[str, int]]]:
    """By object of a run: the hosts that have it, and its size."""
    objects: dict[int, list[tuple[str, int]]] = {}
    for host, each in found.items():
        for key, nbytes in each.objects:
            owner, number = tickets.key_parts(key)
            if owner == run:
                objects.setdefault(number, []).append((host, nbytes))
    return objects


class Recorder:
    """Records one run.

    Args:
        journal: Open, and this run's alone.
        plan: Of the run.
    """

    def __init__(self, journal: Journal, plan: Plan) -> None:
        self._journal = journal
        #: What is committed of the run.
        self._objects: frozenset[int] = frozenset()
        self._identities = Identities(plan)
        self._tasks = self._identities.tasks
        self._ids = plan.ids
        #: Tasks that must not run twice.
        self._once = frozenset(task for task, options in enumerate(plan.options) if not options.idempotent)
        self._loop = asyncio.get_running_loop()
        #: Tasks that an earlier run committed.
        self.reused: set[int] = set()
        #: By object that an earlier run committed: whose bytes they are.
        self.sources: dict[int, str] = {}
        #: Attempts that wait for their start to be on the disk: run, task, attempt.
        self._held: set[tuple[int, int, int]] = set()

    @classmethod
    async def open(cls, path: str | PathLike[str], plan: Plan) -> Recorder:
        """Open a journal for a run.

        Raises:
            JournalError: It is in use, of another format, or cannot be written.
        """
        opening = asyncio.ensure_future(asyncio.to_thread(Journal, os.fspath(path)))
        try:
            return cls(await asyncio.shield(opening), plan)
        except BaseException:
            # Cancelled, the thread goes on: what it opens must be closed all the same.
            await uninterrupted(_close(opening))
            raise

    async def close(self) -> None:
        """Commit what is left, and let the journal go."""
        await asyncio.to_thread(self._journal.close)

    # ---- facts of earlier runs -------------------------------------------------------------------------------

    def number_after(self, number: int) -> int:
        """What agents are to know this run by: what they knew the same tasks by before, else what they never knew.

        Args:
            number: Which would be next on the cluster.
        """
        last, identities = self._journal.last_run()
        if last and identities == b"".join(self._tasks):
            return last
        return max(number, last + 1)

    def known_agents(self) -> dict[str, KnownAgent]:
        """Agents that a lost controller of these tasks left behind, by host, as far as they are of this version."""
        digest = agent_bundle().digest
        known = {}
        for host, token, text in self._journal.agents():
            said = json.loads(text)
            if said.pop("digest") == digest:
                said["python"] = tuple(said["python"])
                known[host] = KnownAgent(host, Started(**said), token)
        return known

    def agent(self, host: str, link: Link) -> None:
        """An agent serves the run."""
        if link.started is not None:
            said = {**dataclasses.asdict(link.started), "digest": agent_bundle().digest}
            self._journal.agent(host, link.token, json.dumps(said))

    async def recall(self, run: ActiveRun, found: Mapping[str, Found]) -> list[ev.Event]:
        """What is known of earlier runs, as events for the core; committed results are in the run's objects then.

        Args:
            run: As it will be submitted.
            found: By host, what agents have that went on without a controller.
        """
        self._objects = frozenset(run.spec.outputs)
        tasks = self._tasks
        known = await asyncio.to_thread(self._journal.committed, tasks)
        lost = await asyncio.to_thread(self._journal.started, [i for i in tasks if i not in known])
        self._adopt_classes()
        going_on = {host: tickets.of_run(each.tickets, run.number) for host, each in found.items()}
        began = {task for own, _ in going_on.values() for task in own}
        left = _objects_of(run.number, found)
        done: list[int] = []
        replicas: list[tuple[int, int, str]] = []
        for task, identity in enumerate(tasks if known or left else ()):
            committed = known.get(identity)
            made = [number for number in run.task_objects[task] if run.wanted[number]]
            if committed is not None:
                self.reused.add(task)
                run.hosts[task] = committed.host
                replicas += [(number, nbytes, CONTROLLER) for number, nbytes in self._take(run, task, committed)]
            elif task in began or not made or not all(number in left for number in made):
                continue  # else it ended in the moment before the controller did: what it made is there
            done.append(task)
            for number in made:
                replicas += [(number, nbytes, host) for host, nbytes in left.get(number, ())]
        unknown = [
            task for task, identity in enumerate(tasks if lost else ()) if identity in lost and task not in began
        ]
        classes = [(*token, module, name) for token, module, name in serial.own_classes()]
        self._journal.begin(self._ids, tasks, len(done), run.number, classes)
        events: list[ev.Event] = []
        if done:
            numbers, sizes, hosts = [r[0] for r in replicas], [r[1] for r in replicas], [r[2] for r in replicas]
            events.append(ev.ResultsCommitted(run.number, done, numbers, sizes, hosts))
        for host, (own, attempts) in going_on.items():
            for task in own:
                run.hosts[task] = host
            if own:
                events.append(ev.AttemptsFound(host, run.number, own, attempts))
        if unknown:
            events.append(ev.AttemptsUnknown(run.number, unknown, [lost[tasks[task]] for task in unknown]))
        return events

    def _take(self, run: ActiveRun, task: int, found: Committed) -> Iterable[tuple[int, int]]:
        """Put a task's committed objects into the run; answers their numbers and sizes."""
        for number in run.task_objects[task]:
            piece = found.pieces.get(self._identities.part_of(number))
            if piece is None or not run.wanted[number]:
                continue
            if piece.file is None:
                run.objects.put(number, piece.data or b"", piece.nbytes)
            else:
                run.objects.put(number, piece.file.open("rb"), piece.nbytes)
            self.sources[number] = piece.host
            yield number, piece.nbytes

    def _adopt_classes(self) -> None:
        """Results of an earlier process are of its classes of ``__main__``: those of the same names here."""
        for origin, number, module, name in self._journal.classes():
            found: Any = None
            try:
                found = importlib.import_module(module)
                for part in name.split("."):
                    found = getattr(found, part)
            except (ImportError, AttributeError):
                continue  # it is gone; what was of it becomes what its definition says, which travelled with it
            if isinstance(found, type):
                serial.adopt((origin, number), found)

    # ---- what happens ----------------------------------------------------------------------------------------

    def ended(self, run: ActiveRun, command: do.TasksEnded, attempts: Sequence[int]) -> None:
        """Tasks ended. What is here of their results is committed; the rest is when it arrives."""
        batches: dict[tuple[str, str], Batch] = {}
        settled: list[bytes] = []
        once, reused, made = self._once, self.reused, run.task_objects
        columns = zip(command.tasks, command.outcomes, command.hosts, command.failures, strict=True)
        for task, outcome, host, failure in columns:
            if outcome is Outcome.DONE and (task not in reused or attempts[task]):
                for number in made[task]:
                    self._add(batches, run, task, number, host, attempts[task])
            if task in once and outcome in _KNOWN and not isinstance(failure, OutcomeUnknownError):
                settled.append(self._tasks[task])
        for batch in batches.values():
            self._journal.commit(batch)
        if settled:
            self._journal.settle(settled)

    def _add(
        self, batches: dict[tuple[str, str], Batch], run: ActiveRun, task: int, number: int, host: str, attempt: int
    ) -> None:
        """Add an object to those that ended with it; where its bytes are not here or many, only that its task ended."""
        data = run.objects.small(number, INLINE) if number in self._objects else None
        part = ""
        if number != task:
            part = self._identities.part_of(number)
        if data is None:
            segments = run.objects.segments(number) if number in self._objects else None
            if segments is not None:
                self._commit(run, number, segments, host, attempt)
            if number != task:
                return
        # Whose bytes they are decides how they are read when they are taken up again.
        source = run.suspects.get(number, host)
        batch = batches.get((source, part))
        if batch is None:
            batch = batches[source, part] = Batch(source, part)
        batch.tasks.append(task)
        batch.attempts.append(attempt)
        if data is None:
            batch.sizes.append(-1)
        else:
            batch.sizes.append(len(data))
            batch.data.append(data)

    def arrived(self, run: ActiveRun, number: int, attempts: Sequence[int]) -> None:
        """An object came to the controller after its task had ended."""
        task = run.spec.producer[number]
        segments = run.objects.segments(number)
        if number in self._objects and run.outcomes[task] is Outcome.DONE and segments is not None:
            self._commit(run, number, segments, run.hosts[task], attempts[task])

    def _commit(self, run: ActiveRun, number: int, segments: Sequence[Segment], host: str, attempt: int) -> None:
        task = run.spec.producer[number]
        part = self._identities.part_of(number)
        source = run.suspects.get(number, host)
        if run.objects.size(number) > INLINE:
            self._journal.commit_file(source, part, task, attempt, segments)
        else:
            data = b"".join(segments)
            self._journal.commit(Batch(source, part, [task], [attempt], [len(data)], [data]))

    def failed(self, failure: Failure, attempt: int) -> None:
        """An attempt failed."""
        reason = str(failure.report.get("message") or failure.kind)
        self._journal.failed(failure.id, failure.host or "", attempt, failure.kind, reason)

    def over(self, outcome: Outcome, then: Callable[[Exception | None], None]) -> None:
        """The run is over; `then` is called on the loop when all of it is committed, or with what went wrong."""
        self._journal.end(outcome.value, self._on_loop(then))

    # ---- starts that must not happen twice ---------------------------------------------------------------------

    def must_wait(self, command: do.StartTasks) -> bool:
        """Whether tasks are among them whose start has to be on the disk first."""
        return bool(self._once) and not self._once.isdisjoint(command.tasks)

    def start(self, run: ActiveRun, command: do.StartTasks, then: Callable[[Exception | None], None]) -> None:
        """Record the starts of a command; `then` is called on the loop when they are on the disk."""
        rows = []
        for task, attempt in zip(command.tasks, command.attempts, strict=True):
            self._held.add((run.number, task, attempt))
            if task in self._once:
                rows.append((self._tasks[task], self._ids[task], command.host, attempt))
        self._journal.start(rows, self._on_loop(then))

    def release(self, run: ActiveRun, task: int, attempt: int) -> bool:
        """Whether an attempt still waits to be handed over; it does not any more."""
        key = (run.number, task, attempt)
        if key not in self._held:
            return False
        self._held.discard(key)
        return True

    def not_started(self, task: int) -> None:
        """A recorded start was called off before it was handed over."""
        self._journal.settle([self._tasks[task]])

    def _on_loop(self, then: Callable[[Exception | None], None]) -> Callable[[Exception | None], None]:
        def told(error: Exception | None) -> None:
            self._loop.call_soon_threadsafe(then, error)

        return told
