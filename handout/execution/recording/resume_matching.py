"""Finds what earlier runs of the same tasks left in the journal, and on agents that outlived their controller.

The identity of a task is a digest by which a run recognizes the tasks of earlier runs. A start is the record that an
attempt was about to be handed over. The journal keeps such records only for tasks that must not run twice.

The core is the part of the scheduler that makes all decisions.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sys
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

from handout.errors import JournalError
from handout.execution.membership.takeover import FoundAgent, KnownAgent
from handout.execution.shell.run_checkpoints import TaskCheckpoint
from handout.execution.shell.run_state import GraphRun
from handout.execution.sliced import sliced
from handout.journal import CommittedTask, Journal, OpenStart, StoredCheckpoint, StoredPart
from handout.journal.identity import TaskIdentities
from handout.journal.value_walk import DIGEST_SIZE
from handout.protocol import numbering
from handout.scheduler import events as ev
from handout.scheduler.run_spec import CONTROLLER
from handout.serialization import tokens
from handout.slices import SLICE, Slices, is_slice_end
from handout.submission.arguments import EncodedRun
from handout.transport.bootstrap import StartedAgent
from handout.transport.bundle import agent_bundle

__all__ = ["PriorRuns"]

logger = logging.getLogger("handout")

#: A warning about damaged files names at most this many of them.
_NAMED = 3


class PriorRuns:
    """Earlier runs of the same tasks, as the journal and the agents know them.

    Args:
        journal: The open journal.
        identities: The identities of the run's tasks.
        once: Tasks that must not run twice.
    """

    def __init__(self, journal: Journal, identities: TaskIdentities, once: Collection[int]) -> None:
        self._journal = journal
        self._identities = identities
        self._tasks = identities.tasks
        self._once = once
        self._known: Mapping[bytes, CommittedTask] = {}
        #: The identity of the run's objects, which says what the number of each object means.
        self.objects = b""
        self._lost: Mapping[bytes, OpenStart] = {}
        self._outputs: frozenset[int] = frozenset()
        #: False if the journal's record of the last run is damaged, so that the run's number is not known.
        self._is_last_known = True
        #: The tasks that an earlier run committed.
        self.reused: set[int] = set()
        #: The tasks in ``reused``, and the tasks whose results exist only on agents.
        self.done: list[int] = []
        #: The number, the size and the holder of each object in ``known`` and ``left``, which `facts` reports.
        self._replicas: list[tuple[int, int, str]] = []
        #: The tasks of which the journal has a checkpoint.
        self.checkpointed: set[int] = set()

    def number_after(self, number: int, encoded: EncodedRun) -> Slices[int]:
        """Return the number that the new run gets.

        If the last run in the journal had the same tasks and objects, the new run gets that run's number. This number
        is part of the names of the attempts and objects on agents that outlived that run. Otherwise the new run gets a
        number that is new in the journal.

        Args:
            number: The smallest number that the cluster allows.
            encoded: The bytes of the new run.
        """
        yield from self._identify_objects(encoded)
        last, identities = self._journal.last_run()
        self._is_last_known = not self._journal.damaged_rows["runs"]
        if last and identities == b"".join([*self._tasks, self.objects]):
            return last
        return max(number, last + 1)

    def _identify_objects(self, encoded: EncodedRun) -> Slices[None]:
        """Compute `objects`. Two runs with the same tasks may number their elements and large arguments differently."""
        made = hashlib.sha256()
        for number in range(len(self._tasks), len(encoded.producers)):
            if is_slice_end(number):
                yield
            producer = encoded.producers[number]
            part = self._identities.part_of(number) if producer >= 0 else ""
            made.update(f"{producer} {part}\n".encode("utf-8", "surrogatepass"))
        for first in range(0, len(encoded.inputs), SLICE):
            yield
            made.update(repr(encoded.inputs[first : first + SLICE]).encode())
        self.objects = made.digest()[:DIGEST_SIZE]

    def known_agents(self) -> dict[str, KnownAgent]:
        """Return a mapping from the name of a host to the agent that an earlier controller left running there.

        Agents of another version of Handout are left out. If the record of the last run is damaged, all agents are left
        out: the new run may get the number of that run, and the attempts on the agents have this number in their ids.
        """
        digest = agent_bundle().digest
        known: dict[str, KnownAgent] = {}
        left = self._journal.left_agents()
        self._tell_damage("agents", "The agents in them are not taken over.")
        for host, token, text in left if self._is_last_known else ():
            said = json.loads(text)
            if said.pop("digest") == digest:
                said["python"] = tuple(said["python"])
                known[host] = KnownAgent(host, StartedAgent(**said), token)
        return known

    def adopt_classes(self) -> None:
        """For each class that an earlier process pickled by value, use the class of the same name in this process.

        This must come before the run's functions are pickled; see `tokens.adopt`. If there is no such class now, its
        objects use the definition that was pickled with them.
        """
        classes = self._journal.classes()
        self._tell_damage("classes", "Objects of these classes in results have copies of the classes.")
        for origin, number, module, name in classes:
            cls = _class_named(module, name)
            if cls is not None:
                tokens.adopt((origin, number), cls)

    async def read(self, run: GraphRun, data_only: Collection[str]) -> None:
        """Read from the journal which of the run's tasks are committed, and put their results into ``run``.

        Only the results that the caller gets are loaded.

        Args:
            run: The run that is to be resumed.
            data_only: The names of the hosts with ``trust="data"``.

        Raises:
            JournalError: The structure of the journal is damaged, or a task of the run has ``idempotent=False`` and a
                record of a run, a result or a start is damaged. In all other cases, damaged records are left out, and
                their tasks run anew.
        """
        tasks = self._tasks
        if self._once:
            await asyncio.to_thread(self._journal.check_structure)
        known = await asyncio.to_thread(self._journal.committed, tasks)
        for table in ("runs", "results"):
            self._refuse_once(table)
            self._tell_damage(table, "Their tasks run anew.")
        self._tell_damaged_files()
        lost = await asyncio.to_thread(self._journal.open_starts, [i for i in tasks if i not in known])
        self._refuse_once("starts")
        self.take_in(run, known, lost)
        parts = await sliced(self._output_parts(run))
        refused = await asyncio.to_thread(self._journal.load_parts, parts.values(), run.objects.memory_left)
        damaged = set(map(id, refused))
        self._leave_out(run, [number for number, part in parts.items() if id(part) in damaged])
        await sliced(self.use_committed(run, data_only))
        self._take_checkpoints(run, await asyncio.to_thread(self._journal.checkpoints), data_only)

    def _refuse_once(self, table: str) -> None:
        """Refuse the journal if a task of the run has ``idempotent=False`` and rows of a table were left out.

        Raises:
            JournalError: This is so.
        """
        rows, path = self._journal.damaged_rows[table], str(self._journal.path)
        if rows and self._once:
            raise JournalError(
                f"The journal {path!r} is damaged: {rows} records of {table} do not match their checksums. So it is "
                "not known which tasks with idempotent=False have run.",
                remedy="Find out which of these tasks have run. If they may run again, give the path of another file: "
                "all tasks then run anew, also those with idempotent=False.",
                path=path,
            )

    def _tell_damage(self, table: str, effect: str) -> None:
        """Warn if rows of a table were left out because they are damaged."""
        rows, path = self._journal.damaged_rows[table], self._journal.path
        if rows:
            logger.warning("The journal %s is damaged: %d records of %s cannot be used. %s", path, rows, table, effect)

    def _tell_damaged_files(self) -> None:
        """Warn if objects were left out because their files are missing or do not have their sizes."""
        files = self._journal.damaged_files
        if files:
            logger.warning(
                "The journal %s is damaged: %d files of results are missing, or do not have their sizes: %s%s. If "
                "these results are needed, their tasks run anew. A task with idempotent=False fails instead.",
                self._journal.path,
                len(files),
                ", ".join(map(str, files[:_NAMED])),
                f" and {len(files) - _NAMED} more" if len(files) > _NAMED else "",
            )

    def _leave_out(self, run: GraphRun, numbers: Iterable[int]) -> None:
        """Forget committed objects whose bytes are damaged. The core has these objects made again."""
        for number in numbers:
            task = run.spec.producer[number]
            logger.warning(
                "The result of task %r in the journal %s is damaged or cannot be read. The task %s.",
                run.ids[task],
                self._journal.path,
                "must not run twice, so it fails" if task in self._once else "runs anew",
            )
            del self._known[self._tasks[task]].parts[self._identities.part_of(number)]

    def take_in(self, run: GraphRun, known: Mapping[bytes, CommittedTask], lost: Mapping[bytes, OpenStart]) -> None:
        """Keep the facts that the journal has of the run's tasks.

        Args:
            run: The run that is to be resumed.
            known: Maps the identity of each committed task to the task.
            lost: The attempts whose start is recorded in the journal, and whose end is not known. Maps the identity of
                the task to the start.
        """
        self._known = known
        self._lost = {identity: start for identity, start in lost.items() if identity not in known}
        # These objects are loaded before the run, because the caller may use them after the journal is closed. If such
        # an object has a file of its own and does not fit in memory, it stays in this file. Other objects are read from
        # the journal or from their files when a task takes them.
        taken = chain(run.plan.outputs, run.plan.keep)
        self._outputs = frozenset(number for number in taken if run.spec.producer[number] >= 0)

    def use_committed(self, run: GraphRun, data_only: Collection[str]) -> Slices[None]:
        """Put the committed results into the run; see `read`."""
        known = self._known
        for task, identity in enumerate(self._tasks if known else ()):
            if is_slice_end(task):
                yield
            committed = known.get(identity)
            if committed is not None:
                self.reused.add(task)
                run.reused[task] = f"a result in the journal {str(self._journal.path)!r}"
                self.done.append(task)
                run.hosts[task] = committed.host
                self._replicas += self._take(run, task, committed, data_only)

    def _take_checkpoints(self, run: GraphRun, stored: Sequence[StoredCheckpoint], data_only: Collection[str]) -> None:
        """Put the checkpoints of earlier runs into the run, so that its tasks go on from them."""
        self._tell_damage("checkpoints", "Their tasks begin anew.")
        tasks = {identity: task for task, identity in enumerate(self._tasks)} if stored else {}
        changed = []
        for each in stored:
            record = each.record
            task = tasks.get(record.identity)
            if task is None:
                changed.append(record.id)
            elif task not in self.reused:
                self.checkpointed.add(task)
                key = numbering.checkpoint_key(numbering.attempt_id(run.number, task, 0), 0)
                if each.file is None:
                    run.objects.put_later(key, partial(self._journal.read_checkpoint, each), record.nbytes)
                else:
                    run.objects.put_file(key, each.file, record.nbytes, each.file.name)
                is_data = record.data_only or record.host in data_only
                found = TaskCheckpoint(key, record.host, record.nbytes, is_data)
                run.checkpoints.here[task] = run.checkpoints.newest[task] = found
        for id in sorted({*changed}.intersection(run.ids)):
            logger.warning(
                "Task %r begins anew: the journal %s has a checkpoint of it, but the function or its arguments have "
                "changed since.",
                id,
                self._journal.path,
            )

    def _output_parts(self, run: GraphRun) -> Slices[dict[int, StoredPart]]:
        """Return the committed objects that the caller gets, or that the run keeps."""
        parts = {}
        for seen, number in enumerate(sorted(self._outputs)):
            if is_slice_end(seen):
                yield
            part = self._part(run, number)
            if part is not None:
                parts[number] = part
        return parts

    def _part(self, run: GraphRun, number: int) -> StoredPart | None:
        """Return an object as the journal holds it, or None if the object is not committed."""
        committed = self._known.get(self._tasks[run.spec.producer[number]])
        return None if committed is None else committed.parts.get(self._identities.part_of(number))

    def facts(self, run: GraphRun, found: Mapping[str, FoundAgent]) -> list[ev.Event]:
        """Return the facts that are known of earlier runs, as events for the core; see `Recorder.begin`."""
        lost = [(t, i) for t, i in enumerate(self._tasks) if i in self._lost] if self._lost else []
        # Leave out attempts of tasks that the run does not have, because a faulty agent may report such attempts.
        ids = {
            host: [i for i in each.attempt_ids if numbering.parts(i)[1] < len(self._tasks)]
            for host, each in found.items()
        }
        held = {host: numbering.of_run(each, run.number) for host, each in ids.items()}
        # A task that is no longer marked idempotent=False runs again like any other task.
        unseen = {t: self._lost[i] for t, i in lost if t in self._once}
        going_on, superseded = latest_attempts(held, {task: start.attempt for task, start in unseen.items()})
        began = {task for own, _ in going_on.values() for task in own}
        self._use_left(run, _objects_of(run.number, found), began)
        _note_checkpoints(run, found)
        events: list[ev.Event] = []
        if self.done:
            numbers, sizes, hosts = map(list, zip(*self._replicas, strict=True)) if self._replicas else ([], [], [])
            events.append(ev.ResultsCommitted(run.number, self.done, numbers, sizes, hosts))
        for host, (own, attempts) in going_on.items():
            for task in own:
                run.hosts[task] = host
            known = found[host].shown
            pairs = zip(own, attempts, strict=True)
            told = [known.get(numbering.attempt_id(run.number, *each), 0) for each in pairs]
            events.append(ev.AttemptsFound(host, run.number, own, attempts, told))
        self._journal.clear_starts([i for t, i in lost if not (t in unseen or t in began)])
        unknown = [task for task in unseen if task not in began]
        if unknown:
            where = [unseen[task] for task in unknown]
            hosts, attempts, shown = map(list, zip(*where, strict=True))
            events.append(ev.AttemptsUnknown(run.number, unknown, hosts, attempts, shown))
        # These events must come last, because the core must first learn which attempt of a task counts. The core then
        # ends the attempts in these events, and never uses their numbers again.
        events += [ev.AttemptsFound(host, run.number, *attempts) for host, attempts in superseded.items()]
        return events

    def _use_left(self, run: GraphRun, left: Mapping[int, Sequence[tuple[str, int]]], began: Collection[int]) -> None:
        """Note the replicas that agents have, and the tasks that ended just before the earlier controller died.

        Such a task is not committed, but agents have all its objects.

        Args:
            run: The run.
            left: Maps each object to the hosts that have it, each with the size in bytes there.
            began: Tasks that go on, so that they have not ended.
        """
        producer = run.spec.producer
        tasks = {producer[number] for number in left if number < len(producer)}
        for task in sorted(tasks - {-1}):
            made = [number for number in run.task_objects[task] if run.wanted[number]]
            if task not in self.reused:
                if task in began or not made or not all(number in left for number in made):
                    continue
                run.hosts[task] = left[made[0]][0][0]
                self.done.append(task)
            for number in made:
                self._replicas += [(number, nbytes, host) for host, nbytes in left.get(number, ())]

    def _take(
        self, run: GraphRun, task: int, found: CommittedTask, data_only: Collection[str]
    ) -> Iterable[tuple[int, int, str]]:
        """Put a task's committed objects into the run. Yield the number, the size and the holder of each object."""
        for number in run.task_objects[task]:
            part = found.parts.get(self._identities.part_of(number))
            if part is None or not run.wanted[number]:
                continue
            if part.data is not None:
                run.objects.put_new(number, part.data)
                part.data = None
            elif part.file is not None:
                run.objects.put_file(number, part.file, part.nbytes, part.file.name)
            elif number in self._outputs:
                # The object did not fit in memory when `read` loaded objects.
                run.objects.put_new(number, self._journal.read_part(part))
            else:
                run.objects.put_later(number, partial(self._journal.read_part, part), part.nbytes)
            if part.data_only or part.host in data_only:
                run.suspects[number] = part.host
            yield number, part.nbytes, CONTROLLER


def _note_checkpoints(run: GraphRun, found: Mapping[str, FoundAgent]) -> None:
    """Note the checkpoints that agents have from an earlier controller. They are newer than those in the journal."""
    for host, agent in found.items():
        for key, nbytes in agent.objects:
            number, task, _ = numbering.checkpoint_parts(key)
            if numbering.is_checkpoint(key) and number == run.number and task < run.task_count:
                run.checkpoints.found(host, key, nbytes)


def _class_named(module: str, name: str) -> type | None:
    """Return the class of a qualified name in a module that the program has imported. Return None if there is none.

    This runs in the event loop, so it must run no user code. It imports no module, and looks attributes up where no
    ``__getattr__`` is called. The run's functions use no class of a module that the program has not imported.
    """
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        if not issubclass(type(found), (types.ModuleType, type)):
            return None
        found = object.__getattribute__(found, "__dict__").get(part)
    return found if issubclass(type(found), type) else None


#: Maps each host to two columns: the tasks that the host has, and the number of the attempt of each task.
_Attempts = dict[str, tuple[list[int], list[int]]]


def latest_attempts(
    held: Mapping[str, tuple[Sequence[int], Sequence[int]]], unseen: Mapping[int, int]
) -> tuple[_Attempts, _Attempts]:
    """Split the attempts that agents have. Return the attempts that count, and the replaced attempts.

    An attempt is replaced if its task has a later attempt. An agent reports the end of an attempt until a controller
    confirms this report. So an agent may still report the end of a replaced attempt, if the earlier controller died
    before it confirmed the report. Such a report says nothing about the later attempt.

    Args:
        held: Maps each host to the tasks that the host has, and to the numbers of their attempts.
        unseen: Maps a task to the number of its latest attempt in the journal. It has only tasks that must not run
            twice, and for which the end of that attempt is not known.
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
    """Return a mapping from the objects of a run to the hosts that have them, each with the size in bytes there."""
    objects: dict[int, list[tuple[str, int]]] = {}
    for host, each in found.items():
        for key, nbytes in each.objects:
            owner, number = numbering.key_parts(key)
            if owner == run:
                objects.setdefault(number, []).append((host, nbytes))
    return objects
