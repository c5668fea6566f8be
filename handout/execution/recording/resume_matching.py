"""What earlier runs left of a run's tasks: in its journal, and with agents that outlived their controller."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from handout.execution.membership.takeover import FoundAgent, KnownAgent
from handout.execution.shell.run_state import RunState
from handout.journal import CommittedTask, Journal, StoredPart
from handout.journal.identity import TaskIdentities
from handout.protocol import numbering
from handout.scheduler import events as ev
from handout.scheduler.run_spec import CONTROLLER
from handout.serialization import classes_by_value
from handout.transport.bootstrap import StartedAgent
from handout.transport.bundle import agent_bundle

__all__ = ["PriorRuns"]


class PriorRuns:
    """What is known of earlier runs, first of the journal, then of agents.

    Args:
        journal: Open.
        identities: Of the run's tasks.
        once: Tasks that must not run twice.
    """

    def __init__(self, journal: Journal, identities: TaskIdentities, once: Collection[int]) -> None:
        self._journal = journal
        self._identities = identities
        self._tasks = identities.tasks
        self._once = once
        self._known: Mapping[bytes, CommittedTask] = {}
        self._lost: Mapping[bytes, tuple[str, int]] = {}
        self._outputs: frozenset[int] = frozenset()
        #: Tasks that an earlier run committed.
        self.reused: set[int] = set()
        #: Those, and the ones whose results are only left with agents.
        self.done: list[int] = []

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
        for host, token, text in self._journal.left_agents():
            said = json.loads(text)
            if said.pop("digest") == digest:
                said["python"] = tuple(said["python"])
                known[host] = KnownAgent(host, StartedAgent(**said), token)
        return known

    async def read(self, run: RunState) -> None:
        """Read the journal, without the results that nobody may need."""
        tasks = self._tasks
        known = await asyncio.to_thread(self._journal.committed, tasks)
        lost = await asyncio.to_thread(self._journal.open_starts, [i for i in tasks if i not in known])
        self.take_in(run, known, lost)
        pieces = [piece for number in sorted(self._outputs) if (piece := self._piece(run, number)) is not None]
        await asyncio.to_thread(self._journal.load_parts, pieces, run.objects.memory_left)
        self._adopt_classes()

    def take_in(
        self, run: RunState, known: Mapping[bytes, CommittedTask], lost: Mapping[bytes, tuple[str, int]]
    ) -> None:
        """Take in what the journal has.

        Args:
            run: The run that is to be resumed.
            known: By identity: the tasks that are committed.
            lost: By identity: host and attempt of the starts whose ends are not known.
        """
        self._known = known
        self._lost = {identity: start for identity, start in lost.items() if identity not in known}
        # What the caller gets outlives the journal; the rest is read where a task takes it.
        self._outputs = frozenset(number for number in run.plan.outputs if run.spec.producer[number] >= 0)

    def _piece(self, run: RunState, number: int) -> StoredPart | None:
        """What is committed of an object, None where nothing is."""
        committed = self._known.get(self._tasks[run.spec.producer[number]])
        return None if committed is None else committed.parts.get(self._identities.part_of(number))

    def facts(self, run: RunState, found: Mapping[str, FoundAgent], data_only: Collection[str]) -> list[ev.Event]:
        """What is known, as events for the core; see `Recorder.begin`."""
        held = {host: numbering.of_run(each.attempt_ids, run.number) for host, each in found.items()}
        # Marked otherwise since, a task runs again as any other.
        unseen = {t: self._lost[i] for t, i in enumerate(self._tasks) if i in self._lost and t in self._once}
        going_on, superseded = latest_attempts(held, {task: attempt for task, (_, attempt) in unseen.items()})
        began = {task for own, _ in going_on.values() for task in own}
        left = _objects_of(run.number, found)
        known = self._known
        replicas: list[tuple[int, int, str]] = []
        for task, identity in enumerate(self._tasks if known or left else ()):
            committed = known.get(identity)
            made = [number for number in run.task_objects[task] if run.wanted[number]]
            if committed is not None:
                self.reused.add(task)
                run.hosts[task] = committed.host
                replicas += self._take(run, task, committed, data_only)
            elif task in began or not made or not all(number in left for number in made):
                continue
            else:  # it ended in the moment before the controller did: what it made is there
                run.hosts[task] = left[made[0]][0][0]
            self.done.append(task)
            for number in made:
                replicas += [(number, nbytes, host) for host, nbytes in left.get(number, ())]
        events: list[ev.Event] = []
        if self.done:
            numbers, sizes, hosts = [r[0] for r in replicas], [r[1] for r in replicas], [r[2] for r in replicas]
            events.append(ev.ResultsCommitted(run.number, self.done, numbers, sizes, hosts))
        for host, (own, attempts) in going_on.items():
            for task in own:
                run.hosts[task] = host
            events.append(ev.AttemptsFound(host, run.number, own, attempts))
        self._journal.clear_starts(
            [i for t, i in enumerate(self._tasks) if i in self._lost and not (t in unseen or t in began)]
        )
        unknown = [task for task in unseen if task not in began]
        if unknown:
            where = [unseen[task] for task in unknown]
            events.append(ev.AttemptsUnknown(run.number, unknown, [w[0] for w in where], [w[1] for w in where]))
        # Last: the core ends what comes after the attempt that counts, and gives no number out that it has heard of.
        events += [ev.AttemptsFound(host, run.number, *attempts) for host, attempts in superseded.items()]
        return events

    def _take(
        self, run: RunState, task: int, found: CommittedTask, data_only: Collection[str]
    ) -> Iterable[tuple[int, int, str]]:
        """Put a task's committed objects into the run; answers their numbers and sizes, and where they are now."""
        for number in run.task_objects[task]:
            piece = found.parts.get(self._identities.part_of(number))
            if piece is None or not run.wanted[number]:
                continue
            if piece.data is not None:
                run.objects.put_new(number, piece.data)
                piece.data = None
            elif piece.file is not None:
                run.objects.put_file(number, piece.file, piece.nbytes)
            elif number in self._outputs:
                run.objects.put_new(number, self._journal.read_part(piece))  # which puts it into a file
            else:
                run.objects.put_later(number, partial(self._journal.read_part, piece), piece.nbytes)
            if piece.data_only or piece.host in data_only:
                run.suspects[number] = piece.host
            yield number, piece.nbytes, CONTROLLER

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
                classes_by_value.adopt((origin, number), found)


#: By host: tasks, and the numbers of their attempts there.
_Attempts = dict[str, tuple[list[int], list[int]]]


def latest_attempts(
    held: Mapping[str, tuple[Sequence[int], Sequence[int]]], unseen: Mapping[int, int]
) -> tuple[_Attempts, _Attempts]:
    """Attempts that agents have: first those that count, then those that a later one took the place of.

    How such an attempt ended may not have been confirmed to its agent when the controller died. It is told again then,
    and says nothing of the later one, which may have run elsewhere.

    Args:
        held: By host: tasks, and the numbers of their attempts there.
        unseen: By task that must not run twice: the number of its latest attempt, whose end was not seen.
    """
    latest = dict(unseen)
    for tasks, attempts in held.values():
        for task, attempt in zip(tasks, attempts, strict=True):
            latest[task] = max(latest.get(task, 0), attempt)
    count: _Attempts = {}
    superseded: _Attempts = {}
    for host, columns in held.items():
        for task, attempt in zip(*columns, strict=True):
            tasks, attempts = (count if attempt == latest[task] else superseded).setdefault(host, ([], []))
            tasks.append(task)
            attempts.append(attempt)
    return count, superseded


def _objects_of(run: int, found: Mapping[str, FoundAgent]) -> dict[int, list[tuple[str, int]]]:
    """By object of a run: the hosts that have it, and its size."""
    objects: dict[int, list[tuple[str, int]]] = {}
    for host, each in found.items():
        for key, nbytes in each.objects:
            owner, number = numbering.key_parts(key)
            if owner == run:
                objects.setdefault(number, []).append((host, nbytes))
    return objects
