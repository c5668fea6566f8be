"""The driver's state of one run.

The driver performs the commands of the core, which is the part of the scheduler that makes all decisions. The state
here is the data that the core does not need.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, Protocol

from handout.events import RunEvent, TaskEnded, TaskNotReused
from handout.execution.shell.attempt_history import AttemptHistory
from handout.execution.shell.run_checkpoints import RunCheckpoints, TaskCheckpoint
from handout.execution.shell.run_objects import RunObjects
from handout.execution.task_logs import RunLogs
from handout.failures import Failure
from handout.graph.function_options import TaskOptions
from handout.graph.plan import Plan
from handout.graph.stored import Home
from handout.protocol import numbering
from handout.scheduler.commands import AnnounceTasksEnded, StartTasks
from handout.scheduler.run_spec import RunSpec
from handout.scheduler.state.runs import Run
from handout.scheduler.task_states import Outcome
from handout.slices import Slices
from handout.submission.arguments import EncodedRun
from handout.submission.plan_to_spec import RunPolicy, Traits
from handout.submission.run_identities import RunIdentities

__all__ = ["GraphRun", "HeldAttempt", "RunRecorder", "RunState"]


class HeldAttempt(NamedTuple):
    """An attempt that is held back until its start is recorded."""

    host: str
    task: int
    attempt: int


class RunRecorder(Protocol):
    """Records a run; see `Recorder`."""

    def watch(self, lost: Callable[[Exception], None]) -> None:
        """Register ``lost``. It is called when nothing can be recorded any more."""
        ...

    def must_wait(self, command: StartTasks) -> bool:
        """Return True if the starts of some tasks must be recorded before the tasks are handed over."""
        ...

    def start(
        self, run: RunState, command: StartTasks, shown: Sequence[int], then: Callable[[Exception | None], None]
    ) -> None:
        """Hold back attempts, and record their starts. Then call ``then``, with None or with the error.

        ``shown`` has the numbers by which users know the attempts.
        """
        ...

    def release(self, run: RunState, task: int, attempt: int) -> bool:
        """Stop holding back an attempt. Return False if the attempt was not held back."""
        ...

    def release_all(self) -> Sequence[HeldAttempt]:
        """Stop holding back all attempts, and return them."""
        ...

    def not_started(self, tasks: Iterable[int], attempts: Iterable[int]) -> None:
        """Record that these attempts never began."""
        ...

    def failed(self, failure: Failure, task: int, attempt: int) -> None:
        """Record that an attempt failed."""
        ...

    def ended(self, run: RunState, command: AnnounceTasksEnded, shown: Callable[[int], int]) -> None:
        """Record how tasks ended, with the results that the controller has.

        ``shown`` returns the number by which users know the last attempt of a task; 0 if there was no attempt.
        """
        ...

    def arrived(self, run: RunState, number: int, shown: int) -> None:
        """Record a result that arrived at the controller after its task had ended."""
        ...

    def checkpoint(self, run: RunState, task: int, checkpoint: TaskCheckpoint) -> None:
        """Record a checkpoint that has arrived at the controller."""
        ...

    def checkpoints_over(self, task: int, well: bool) -> None:
        """Record that a task makes no more checkpoints. If it has ended well, none of them is needed any more."""
        ...

    def over(self, outcome: Outcome, then: Callable[[Exception | None], None]) -> None:
        """Record how the run ended. Then call ``then``, with None if all is committed, or with the error."""
        ...


@dataclass(eq=False, kw_only=True)
class RunState:
    """A run from its submission until its results have been taken.

    Lists and mappings by task use the task numbers of the run's specification.
    """

    number: int
    encoded: EncodedRun
    spec: RunSpec
    policy: RunPolicy
    objects: RunObjects
    #: For each profile, the facts that agents must know. Tasks of one function with the same options share a profile.
    traits: Sequence[Traits]
    #: For each task, the object number of its whole result, then the object numbers of its elements.
    task_objects: Sequence[tuple[int, ...]]
    #: For each object, 1 if a task, the caller or the cluster needs it, otherwise 0.
    wanted: bytearray
    started_at: float
    #: The caller's context variables, with which the function ``retry_on`` is called.
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    #: For some tasks of an open run: context variables that replace those in ``context``.
    contexts: dict[int, contextvars.Context] = field(default_factory=dict)
    #: For each task, how it ended, or None if it has not ended.
    outcomes: list[Outcome | None] = field(default_factory=list)
    #: For each task, the host to which its last attempt was handed over.
    hosts: list[str] = field(default_factory=list)
    #: The objects that other runs keep, and their keys. The homes are alive as long as they are here.
    homes: dict[int, Home] = field(default_factory=dict)
    borrowed: dict[int, int] = field(default_factory=dict)
    #: The unpickled values that the caller has asked for, by object number.
    values: dict[int, Any] = field(default_factory=dict)
    #: For each object whose bytes have passed through a host with ``trust="data"``, that host. Such bytes are untrusted
    #: on every host.
    suspects: dict[int, str] = field(default_factory=dict)
    #: For each object that the run keeps and that is lost for good: why.
    lost: dict[int, object] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    #: The tasks that failed, in the order of their failures.
    failed_order: list[int] = field(default_factory=list)
    #: The error that ended the run as a whole.
    error: Exception | None = None
    #: True once a warning has told that objects of the run wait, because too many files are open.
    has_waited_for_files: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    #: Called with every batch of events; see `Execution.events`.
    watchers: list[Callable[[Sequence[RunEvent]], None]] = field(default_factory=list)
    #: Called when the first watcher comes, and when the last one has gone.
    on_watched: Callable[[], None] = lambda: None
    checkpoints: RunCheckpoints = field(default_factory=RunCheckpoints)
    #: For each task, the functions that are called once when the task ends.
    on_task_end: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    #: For some tasks, the function that is called when the task is first handed over to a host.
    on_hand_over: dict[int, Callable[[], object]] = field(default_factory=dict)
    #: For each object, the functions that are called once, when the object has arrived or the run has ended.
    on_object: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    logs: RunLogs = field(default_factory=RunLogs)
    #: For each task that has failed attempts, these attempts.
    histories: dict[int, AttemptHistory] = field(default_factory=dict)
    #: The core's state of the run, until the run is submitted. The state then belongs to the core.
    prepared: Run | None = None
    #: Records the run, if it has a journal.
    recorder: RunRecorder | None = None
    #: For each task whose result comes from an earlier run, or is not needed because of such results: what the caller
    #: is told about that.
    reused: dict[int, str] = field(default_factory=dict)
    #: If the caller gave the results of an earlier run: for each task that runs, why these have no result for it. The
    #: last tasks come first.
    anew: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.spec.profile)
        self.outcomes = [None] * count
        self.hosts = [""] * count

    @property
    def task_count(self) -> int:
        """The number of tasks that the run has at present."""
        return len(self.outcomes)

    @property
    def ids(self) -> Sequence[str]:
        """The id of each task."""
        ids = self.spec.ids
        assert ids is not None  # only the core's tests make specifications without ids
        return ids

    def name_of(self, number: int) -> str:
        """Return the id of an object: the id of the task that makes it."""
        producer = self.spec.producer[number]
        return self.ids[producer] if producer >= 0 else f"value-{number}"

    def options_of(self, task: int) -> TaskOptions:
        """Return the options of a task. The run's options replace those that were not set for the function."""
        return self.traits[self.spec.profile[task]].options

    @property
    def base(self) -> int:
        """The upper bits of the keys of this run's objects."""
        return numbering.base(self.number)

    def borrow(self, number: int, home: Home) -> None:
        """Note that an object is one that another run keeps."""
        self.homes[number] = home
        home.use()
        run, object_ = home.place
        self.borrowed[number] = numbering.base(run) | object_

    def give_back(self, numbers: Iterable[int]) -> None:
        """Undo `borrow` for some objects."""
        for number in numbers:
            self.borrowed.pop(number, None)
            home = self.homes.pop(number, None)
            if home is not None:
                home.unuse()

    def key_of(self, number: int) -> int:
        """Return the key of an object, by which agents know it."""
        return self.borrowed.get(number) or self.base | number

    def suspect(self, task: int, host: str) -> None:
        """Note that all results of a task come from a host with ``trust="data"``."""
        self.suspects.update(dict.fromkeys(self.task_objects[task], host))

    def chain(self, task: int, cause: int) -> list[int]:
        """Return a shortest path of tasks, from a skipped task through its inputs to the task that caused the skip."""
        came_from = {task: -1}
        queue = deque([task])
        while queue and cause not in came_from:
            at = queue.popleft()
            for number in self.encoded.inputs[at]:
                producer = self.spec.producer[number]
                if (producer >= 0 and producer not in came_from and producer in self.failures) or producer == cause:
                    came_from.setdefault(producer, at)
                    queue.append(producer)
        way = [cause]
        while came_from.get(way[-1], -1) >= 0:
            way.append(came_from[way[-1]])
        return way[::-1] if way[-1] == task else [task, cause]

    def watch(self, watcher: Callable[[Sequence[RunEvent]], None]) -> None:
        """Hand all events from now on to a watcher."""
        self.watchers.append(watcher)
        if len(self.watchers) == 1:
            self.on_watched()

    def unwatch(self, watcher: Callable[[Sequence[RunEvent]], None]) -> None:
        """Hand no more events to a watcher."""
        self.watchers.remove(watcher)
        if not self.watchers:
            self.on_watched()

    def note_made_again(self, tasks: Sequence[int]) -> None:
        """Note that tasks run although an earlier run had their results, because these were lost."""
        for task in tasks:
            if self.reused.pop(task, None) is not None:
                self.anew[task] = "its earlier result was lost"

    def reused_event(self, task: int, at_s: float) -> TaskEnded:
        """Return the event that tells that a task's result comes from an earlier run."""
        return TaskEnded(at_s, self.ids[task], "reused", self.hosts[task] or None, None, self.reused[task])

    def events_so_far(self, at_s: float) -> Iterator[RunEvent]:
        """Return the events about results of earlier runs that a watcher has missed that begins to watch now."""
        ended = [task for task in self.reused if self.outcomes[task] is Outcome.DONE]
        ids = self.ids
        return chain(
            (TaskNotReused(at_s, ids[task], self.anew[task]) for task in reversed(self.anew)),
            (self.reused_event(task, at_s) for task in ended),
        )

    def tell(self, events: Sequence[RunEvent]) -> None:
        """Hand events to the watchers."""
        for watcher in list(self.watchers):
            watcher(events)

    def arrived(self, number: int) -> None:
        """Call the functions that wait for an object, because the object has arrived."""
        for callback in self.on_object.pop(number, ()):
            callback()

    def task_ended(self, task: int) -> None:
        """Call the functions that wait for the end of a task."""
        for callback in self.on_task_end.pop(task, ()):
            callback()

    def finish(self, error: Exception | None) -> None:
        """End the run, and call all functions that wait for its tasks or objects."""
        if error is not None and self.error is None:
            self.error = error
        self.ended.set()
        for waiting in (self.on_task_end, self.on_object):
            callbacks = [callback for each in waiting.values() for callback in each]
            waiting.clear()  # a callback may end the run again
            for callback in callbacks:
                callback()

    def counts(self) -> Mapping[Outcome, int]:
        """Return the number of tasks by outcome."""
        counts = dict.fromkeys(Outcome, 0)
        for outcome in self.outcomes:
            if outcome is not None:
                counts[outcome] += 1
        return counts


@dataclass(eq=False, kw_only=True)
class GraphRun(RunState):
    """The run of a graph."""

    plan: Plan
    _identities: RunIdentities | None = None

    def name_of(self, number: int) -> str:
        """Return the id of an object; see `Plan.name_of`."""
        return self.plan.name_of(number)

    def identities(self) -> Slices[RunIdentities]:
        """Return the identities of the run's tasks. They are computed when they are first asked for."""
        known = self._identities
        if known is None:
            known = RunIdentities(self.plan, self.encoded)
            yield from known.compute()
            self._identities = known
        return known

    def note_identities(self, identities: RunIdentities) -> None:
        """Keep identities that were computed before the run began."""
        self._identities = identities

    def holds(self, number: int) -> bool:
        """Return True if the controller still holds an object, so that another run can use it."""
        return self.objects.is_lasting(number)
