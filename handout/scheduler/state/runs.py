"""The state of one run, in columns. A column has one entry for each task, so no task needs a Python object of its own.

The core makes the decisions of the controller. The shell is the part of the controller around the core. It contains the
driver, which performs the core's commands.

A task is handed (`State.HANDED`) while an agent has it. A claim is the part of a host's amounts that a task holds. A
task that is handed ahead is handed over before it has a claim; see `handout.scheduler.state.hosts`. If two attempts of
a task are live at the same time, one of them is the present attempt, which the columns describe; see `SecondAttempt`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from heapq import heappop, heappush
from typing import NamedTuple

from handout.errors import InternalError
from handout.protocol.resource_ledger import Claim
from handout.scheduler.run_spec import RunSpec
from handout.scheduler.state.allocator_requests import AllocatorRequests
from handout.scheduler.state.begun_attempts import BegunAttempts
from handout.scheduler.state.durations import Durations
from handout.scheduler.state.hosts import Demand, HostRecord
from handout.scheduler.state.object_table import ObjectTable
from handout.scheduler.state.second_attempts import SecondAttempt
from handout.scheduler.state.stragglers import Stragglers
from handout.scheduler.task_states import EFFECTS, TRANSITIONS, Outcome, State
from handout.slices import Slices

__all__ = ["FailureCount", "ReadyQueue", "ReadyQueueKey", "Run"]

_NONE: tuple[int, ...] = ()
_HANDED, _READY, _DONE = State.HANDED, State.READY, State.DONE


class FailureCount(Enum):
    """The kinds of failure that the core counts for each task. Each kind has a limit of its own."""

    #: The task's own code failed.
    OWN_CODE = auto()
    #: The worker that ran the task died.
    WORKER_DIED = auto()
    #: The task failed, but not because of its own code.
    ENVIRONMENT = auto()
    #: The task's host was lost, and the task may have been running there.
    HOST_LOST = auto()


class ReadyQueueKey(NamedTuple):
    """The facts that decide to which hosts a task may go. All tasks of one ready queue have the same key."""

    profile: int
    #: Index of the host on which all tasks of the task's collocation group must run. 0: the task has no group, or the
    #: group has no host yet.
    pin: int
    #: Indices of the hosts that are tried after others, because the task has failed there.
    avoid: tuple[int, ...]
    #: The profiles of all tasks of the group: its host must be able to run all of these tasks. Empty if the task has no
    #: group, or if the group has a host already.
    group_profiles: frozenset[int]
    #: Indices of those hosts in `avoid` that are tried last, because each attempt of the task would fail there.
    unfit: tuple[int, ...] = ()


class ReadyQueue:
    """The ready tasks of one run that have the same `ReadyQueueKey`, in the run's order; see `ranks_of`."""

    __slots__ = ("blocked", "heap", "hosts", "key", "run", "since", "version")

    def __init__(self, run: Run, key: ReadyQueueKey) -> None:
        self.run = run
        self.key = key
        #: A heap of the tasks' positions in the run's order. An entry is stale if its task is not ready in this queue
        #: any more.
        self.heap: list[int] = []
        #: True if no host had room for the first task when the core last tried to place it. The next try then considers
        #: only hosts that have got room since that try.
        self.blocked = False
        #: The last time at which the queue was empty, or at which one of its tasks was placed.
        self.since = 0.0
        #: The hosts that can run the queue's tasks. Value: the variants of the tasks' cost that the host can cover.
        self.hosts: dict[HostRecord, tuple[Demand, ...]] = {}
        #: The value of `Fleet.version` for which ``hosts`` was computed.
        self.version = -1

    def head(self) -> int:
        """Return the first ready task, or -1 if there is none. Remove the stale entries before this task."""
        run, heap = self.run, self.heap
        while heap:
            t = heap[0] if run.task_at is None else run.task_at[heap[0]]
            if run.queue[t] is self and run.state[t] == _READY:
                return t
            self._remove_stale(t)
        self.blocked = False
        return -1

    def remove_stale(self) -> Slices[None]:
        """Remove the stale entries before the first ready task in slices. `head` then returns at once."""
        run = self.run
        while self.heap:
            t = self.heap[0] if run.task_at is None else run.task_at[self.heap[0]]
            if run.queue[t] is self and run.state[t] == _READY:
                return
            self._remove_stale(t)
            yield

    def _remove_stale(self, head: int) -> None:
        heappop(self.heap)
        if self.run.queue[head] is self:
            self.run.queue[head] = None

    def push(self, t: int, now: float) -> None:
        """Add a ready task."""
        run, heap = self.run, self.heap
        if run.queue[t] is self:
            return  # an entry from an earlier time is still in the heap
        if not heap:
            self.since = now
            self.blocked = False
        run.queue[t] = self
        heappush(heap, t if run.order is None else run.order[t])

    def remove_head(self, head: int) -> None:
        """Remove the first task. ``head`` is its number, which the method `head` has returned."""
        heappop(self.heap)
        self.run.queue[head] = None

    def block(self, blocked: bool) -> None:
        """Set ``blocked``. If True, the next try to place a task considers only hosts that get room from now on."""
        self.blocked = blocked

    def note_placed(self, now: float) -> None:
        """Note that a task of the queue was placed."""
        self.since = now

    def set_hosts(self, hosts: dict[HostRecord, tuple[Demand, ...]], version: int) -> None:
        """Set the hosts that can run the queue's tasks, as computed for this value of `Fleet.version`."""
        self.hosts = hosts
        self.version = version
        self.blocked = False


class Run:
    """The state of one run. Its columns are indexed by task number.

    Other modules may read the columns, but change them only by calling methods.
    """

    __slots__ = (
        "abort_outcome",
        "aborting",
        "active",
        "announced",
        "attempt",
        "avoid",
        "backlog_s",
        "begun",
        "borrowed",
        "borrowers",
        "cancelled",
        "cancelling",
        "checked",
        "claims",
        "default_queues",
        "durations",
        "error",
        "failed",
        "failures",
        "found",
        "group_host",
        "group_profiles",
        "groups",
        "host",
        "inputs_checked",
        "latest",
        "missing",
        "noting",
        "number",
        "objects",
        "order",
        "over",
        "pauses",
        "queue",
        "queues",
        "rank",
        "recalled",
        "reported",
        "requests",
        "second_attempts",
        "shared",
        "spec",
        "speculated",
        "started",
        "state",
        "stragglers",
        "task_at",
        "unended",
        "unfit",
        "unmade",
        "variant",
    )

    def __init__(self, number: int, spec: RunSpec, objects: ObjectTable, durations: Durations) -> None:
        self.number = number
        self.spec = spec
        self.objects = objects
        self.durations = durations
        self.stragglers = None if spec.speculation is None else Stragglers(spec, spec.speculation, self.durations)
        #: The requests to the custom allocator. There are none if the run has a built-in allocator.
        self.requests = AllocatorRequests()
        self._task_columns(spec)
        self._sparse_columns()
        self._whole(spec)
        self._groups(spec)
        # Three columns; see `ranks_of`.
        #: The rank of each task.
        self.rank: list[int] = []
        #: The position of each task in the run's order.
        self.order: list[int] | None = None
        #: The task at each position.
        self.task_at: list[int] | None = None

    def _task_columns(self, spec: RunSpec) -> None:
        """Create the columns with an entry for each task. `prepare_run` fills the lists."""
        count = 0 if spec.is_open else spec.count
        self.state = bytearray(count)
        #: Number of the task's present attempt while the task is handed. Otherwise, number of the last attempt, or 0 if
        #: there was no attempt. `begun` has the numbers that users see.
        self.attempt: list[int] = []
        #: Index of the host that has the task, or had it last.
        self.host: list[int] = []
        #: How many of the task's inputs have no replica anywhere.
        self.missing: list[int] = []
        #: The task's claim on its host. None: the task is not handed, or was handed ahead and has no claim yet.
        self.claims: list[Claim | None] = []
        #: Seconds that the task added to its host's backlog when it was handed ahead.
        self.backlog_s: list[float] = []
        #: 1 if the core has told the shell how the task ended. The core tells it only once for each task.
        self.reported = bytearray(count)
        #: The ready queue that has an entry for the task. The entry may be stale.
        self.queue: list[ReadyQueue | None] = []

    def _sparse_columns(self) -> None:
        """Create the columns with entries for few tasks only. Their keys are task numbers, unless noted otherwise."""
        #: The task's claim on the shared amounts.
        self.shared: dict[int, Claim] = {}
        #: Indices of the hosts on which the task has failed.
        self.avoid: dict[int, tuple[int, ...]] = {}
        #: Indices of the hosts on which each attempt of the task would fail.
        self.unfit: dict[int, tuple[int, ...]] = {}
        #: How often a host could not make a warm value. Key: (object by which it is made, index of the host).
        self.unmade: dict[tuple[int, int], int] = {}
        #: How many failures of a kind a task has had. Key: (kind, task).
        self.failures: dict[tuple[FailureCount, int], int] = {}
        #: For a task that may be handed to the host on which its inputs are still being made: the position in its
        #: inputs at which the next check of these inputs begins.
        self.inputs_checked: dict[int, int] = {}
        #: Index of the cost variant that the task was granted. A task that was granted the first variant has no entry.
        self.variant: dict[int, int] = {}
        #: Tasks that the core has told an agent to end, and whose end the agent has not confirmed yet.
        self.cancelling: set[int] = set()
        #: Number of the attempt that the core has recalled, and for which the agent has not answered yet.
        self.recalled: dict[int, int] = {}
        #: For each task that runs, as far as the core knows: the core's time at which it learned of the start, or
        #: -inf if that is not known.
        self.started: dict[int, float] = {}
        #: Number of the attempt that an earlier controller began and that the host goes on with. Because of such
        #: attempts, more tasks may be handed than ``max_concurrency`` allows.
        self.found: dict[int, int] = {}
        #: For a task with two live attempts: the attempt beside the present one.
        self.second_attempts: dict[int, SecondAttempt] = {}
        #: Tasks that have, or have had, two live attempts.
        self.speculated: set[int] = set()
        #: Knows which attempts never began.
        self.begun = BegunAttempts()
        #: For a task that has had a second attempt: its highest attempt number. The present attempt may have a lower
        #: number.
        self.latest: dict[int, int] = {}

    def _whole(self, spec: RunSpec) -> None:
        """Create the fields that concern the run as a whole."""
        #: Number of tasks that are handed.
        self.active = 0
        #: Number of tasks that have not ended.
        self.unended = len(self.state)
        self.failed = 0
        self.cancelled = 0
        #: True while the core notes the results that earlier runs have committed. Some columns disagree meanwhile.
        self.noting = False
        #: The number of jobs during which no task of the run is placed.
        self.pauses = 0
        self.aborting = False
        self.abort_outcome = Outcome.DONE
        self.error: Exception | None = None
        #: True if the core has announced the end of the run.
        self.announced = False
        #: True if the run has ended, and keeps no objects.
        self.over = False
        #: For each object that another run keeps: that run, and the number of the object there.
        self.borrowed: dict[int, tuple[Run, int]] = {}
        #: For each object that this run keeps and other runs borrow: these runs, each with the object's number there.
        self.borrowers: dict[int, list[tuple[Run, int]]] = {}
        #: True if the core has checked whether the hosts can run the run's tasks.
        self.checked = False

    def _groups(self, spec: RunSpec) -> None:
        """Create the collocation groups and the ready queues. All tasks of a collocation group run on one host."""
        #: The tasks of each group.
        self.groups: dict[int, list[int]] = {}
        #: Index of the host on which the tasks of a group run. A group gets a host when its first task is placed.
        self.group_host: dict[int, int] = {}
        #: The profiles of each group's tasks.
        self.group_profiles: dict[int, frozenset[int]] = {}
        self.queues: dict[ReadyQueueKey, ReadyQueue] = {}
        #: For each profile: the queue of the tasks that have no group and no hosts to avoid.
        self.default_queues = [self._queue(ReadyQueueKey(p, 0, _NONE, frozenset())) for p in range(len(spec.profiles))]

    # -- open runs

    def add_profiles(self, now: float) -> None:
        """Create the queues of the profiles that were added to the specification."""
        for p in range(len(self.default_queues), len(self.spec.profiles)):
            queue = self._queue(ReadyQueueKey(p, 0, _NONE, frozenset()))
            queue.since = now
            self.default_queues.append(queue)

    def add_tasks(self, count: int) -> None:
        """Append ``count`` tasks to the columns. They are WAITING and lack no input."""
        self.state.extend(bytes(count))
        self.reported.extend(bytes(count))
        self.attempt.extend([0] * count)
        self.host.extend([0] * count)
        self.missing.extend([0] * count)
        self.claims.extend([None] * count)
        self.backlog_s.extend([0.0] * count)
        self.queue.extend([None] * count)
        self.unended += count

    def set_missing(self, t: int, missing: int) -> int:
        """Set how many inputs of a new task have no replica. Return this number."""
        self.missing[t] = missing
        return missing

    # -- objects of other runs

    def lacks(self, o: int) -> None:
        """Note that each task that takes an object lacks it."""
        for t in self.objects.consumers[o]:
            self.missing[t] += 1

    def borrow(self, o: int, home: Run, object_: int) -> None:
        """Note that an object is one that another run keeps."""
        self.borrowed[o] = home, object_
        home.borrowers.setdefault(object_, []).append((self, o))

    def give_back(self, o: int, home: Run, object_: int) -> None:
        """Undo `borrow`."""
        del self.borrowed[o]
        home.borrowers[object_].remove((self, o))
        if not home.borrowers[object_]:
            del home.borrowers[object_]
        self.objects.set_mirrored(o, (), -1)

    def give_back_inputs(self, t: int) -> None:
        """Give back the objects that only a task of an open run took, whose end is announced, so that it never runs
        again.
        """
        if self.borrowed and self.spec.is_open:
            for o in self.spec.inputs[t]:
                if o in self.borrowed and not self.objects.uses[o]:
                    self.give_back(o, *self.borrowed[o])

    # -- reading

    def shown_attempt(self, t: int) -> int:
        """Return the number by which users know a task's present or last attempt; see `BegunAttempts`."""
        return self.begun.shown(t, self.attempt[t])

    @property
    def is_lasting(self) -> bool:
        """True if each task ends for itself: the run is open, or it has ended and goes on for what it keeps."""
        return self.spec.is_open or self.announced

    @property
    def task_count(self) -> int:
        """The number of tasks that the run has at present."""
        return len(self.state)

    def handed_tasks(self) -> list[int]:
        """Return the tasks that are handed. The time of the search hardly depends on the size of the run."""
        found, at = [], self.state.find(_HANDED)
        while at >= 0:
            found.append(at)
            at = self.state.find(_HANDED, at + 1)
        return found

    def queue_of(self, t: int) -> ReadyQueue:
        """Return the queue that a ready task belongs to now."""
        avoid = self.avoid.get(t, _NONE)
        group = -1 if self.spec.group is None else self.spec.group[t]
        if group < 0:
            if not avoid:
                return self.default_queues[self.spec.profile[t]]
            return self._queue(ReadyQueueKey(self.spec.profile[t], 0, avoid, frozenset(), self.unfit.get(t, _NONE)))
        pin = self.group_host.get(group, 0)
        profiles = frozenset() if pin else self.group_profiles[group]
        return self._queue(ReadyQueueKey(self.spec.profile[t], pin, avoid, profiles, self.unfit.get(t, _NONE)))

    def _queue(self, key: ReadyQueueKey) -> ReadyQueue:
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = ReadyQueue(self, key)
        return queue

    def objects_of(self, t: int) -> Sequence[int]:
        """Return the objects that a task makes: its whole result, and the elements that are objects of their own."""
        elements = self.objects.elements
        return (t, *elements[t]) if elements and t in elements else (t,)

    def warm_values(self, t: int) -> list[str]:
        """Return the warm values that a task takes."""
        warm = self.spec.warm
        return [warm[o] for o in self.spec.inputs[t] if o in warm]

    def priority_of(self, t: int) -> float:
        """Return a task's priority among the tasks of all runs."""
        column = self.spec.priority
        return self.spec.run_priority + (0.0 if column is None else column[t])

    def name_of(self, t: int) -> str:
        """Return the id of a task, as the user knows it."""
        return str(t) if self.spec.ids is None else self.spec.ids[t]

    def ended(self, t: int) -> bool:
        """Return True if a task is in a final state."""
        return self.state[t] >= _DONE

    # -- states

    def move(self, t: int, new: State) -> None:
        """Move a task to another state, and update the counts of active and unended tasks.

        Raises:
            InternalError: `TRANSITIONS` has no such move.
        """
        state = self.state
        effect = EFFECTS[state[t]][new]
        if effect is None:
            raise self._illegal(t, new)
        state[t] = new
        if effect:
            active, unended = effect
            self.active += active
            self.unended += unended

    def _illegal(self, t: int, new: State) -> InternalError:
        old = State(self.state[t])
        legal = "; ".join(f"{state.name} ({cause})" for state, cause in TRANSITIONS[old].items())
        return InternalError(
            f"task {self.name_of(t)!r} (number {t}) of run {self.number} cannot move from {old.name} to "
            f"{State(new).name}. It is in attempt {self.attempt[t]}, its last host has index {self.host[t]}, it lacks "
            f"{self.missing[t]} inputs, and its end was {'' if self.reported[t] else 'not '}reported. "
            f"From {old.name} a task moves to {legal or 'no other state'}.",
            remedy="Please report this error.",
        )

    def begin(self, now: float, remembered: dict[str, float]) -> None:
        """Begin the run.

        Args:
            now: The present time in seconds.
            remembered: Expected seconds by function name, from earlier runs.
        """
        self.durations.recall(remembered)
        for queue in self.queues.values():
            queue.since = now

    def make_ready(self, t: int, now: float) -> None:
        """Make a task ready if it is not ready yet, and put it into the queue that it belongs to now."""
        if self.state[t] != _READY:
            self.move(t, _READY)
        self.requests.changed = True
        self.queue_of(t).push(t, now)

    def end_task(self, t: int, new: State) -> bool:
        """Move a task to a final state other than DONE. Return True if the core must announce this end."""
        self.move(t, new)
        self.cancelling.discard(t)
        self.failed += new is State.FAILED
        self.cancelled += new is State.CANCELLED
        untold = not self.reported[t]
        self.reported[t] = 1
        return untold

    def mark_reported(self, tasks: Iterable[int]) -> None:
        """Note that the core tells the shell how tasks ended."""
        reported = self.reported
        for t in tasks:
            reported[t] = 1
            if self.borrowed:
                self.give_back_inputs(t)

    # -- attempts

    def begin_attempt(self, t: int, host: int, claim: Claim | None, backlog_s: float, variant: int) -> int:
        """Begin an attempt of a task on a host, and return the number of the attempt.

        If ``claim`` is None, the task is handed ahead, and adds ``backlog_s`` seconds to the host's backlog.
        """
        self.move(t, _HANDED)
        attempt = self.attempt[t] + 1
        if self.latest:
            attempt = max(attempt, self.latest.get(t, 0) + 1)
        self.attempt[t] = attempt
        self.host[t] = host
        if claim is None:
            self.backlog_s[t] = backlog_s
        else:
            self.claims[t] = claim
        if variant:
            self.variant[t] = variant
        elif self.variant:
            self.variant.pop(t, None)
        return attempt

    def end_attempt(self, t: int) -> tuple[Claim | None, Claim | None]:
        """Clear the columns of a task's present attempt. Return its claims on the host and on the shared amounts.

        The caller must then move the task to its next state, or let it go on with its second attempt.
        """
        claim = self.claims[t]
        self.claims[t] = None
        self.started.pop(t, None)
        self.recalled.pop(t, None)
        if self.stragglers is not None:
            self.stragglers.stopped(t)
        return claim, self.shared.pop(t, None)

    def set_claim(self, t: int, claim: Claim | None) -> None:
        """Set the claim of a handed task. None: the caller releases the claim that the task had."""
        self.claims[t] = claim

    def grant_shared(self, t: int, claim: Claim) -> None:
        """Note the claim that a task has on the shared amounts. The core is about to hand the task over."""
        self.shared[t] = claim

    def mark_started(self, t: int, now: float) -> None:
        """Note that a handed task runs."""
        self.started[t] = now

    def mark_recalled(self, t: int) -> bool:
        """Note that a task's attempt is recalled. Return False if it was recalled before, or is being cancelled."""
        if self.recalled.get(t) == self.attempt[t] or t in self.cancelling:
            return False
        self.recalled[t] = self.attempt[t]
        return True

    def mark_cancelling(self, t: int) -> bool:
        """Note that the core tells an agent to end a handed task. Return False if the core has done so before."""
        if t in self.cancelling:
            return False
        self.cancelling.add(t)
        return True

    def cancel_no_more(self, t: int) -> None:
        """Note that the core does not wait any more for an agent to confirm the end of a task."""
        self.cancelling.discard(t)

    def skip_attempts(self, t: int, attempt: int) -> None:
        """Have the next attempt of a task get a number above ``attempt``."""
        self.attempt[t] = max(self.attempt[t], attempt)

    def mark_found(self, t: int, attempt: int) -> None:
        """Note that an earlier controller began this attempt. The core is about to call `begin_attempt` for it."""
        self.attempt[t] = attempt - 1
        self.found[t] = attempt

    def avoid_host(self, t: int, index: int) -> None:
        """Have a task avoid a host that it failed on."""
        self.avoid[t] = tuple(sorted({*self.avoid.get(t, ()), index}))

    def mark_unfit(self, t: int, index: int) -> None:
        """Note that each attempt of a task on a host would fail."""
        self.unfit[t] = tuple(sorted({*self.unfit.get(t, ()), index}))

    def count_unmade(self, recipe: int, index: int) -> int:
        """Count that a host could not make a warm value. Return how often it could not."""
        count = self.unmade[recipe, index] = self.unmade.get((recipe, index), 0) + 1
        return count

    def count(self, kind: FailureCount, t: int) -> int:
        """Count a failure of a task. Return how many failures of this kind the task has had."""
        failures = self.failures[kind, t] = self.failures.get((kind, t), 0) + 1
        return failures

    # -- second attempts

    def begin_second_attempt(self, t: int) -> None:
        """Set the present attempt of a task aside, so that `begin_attempt` can begin another one.

        `continue_with_second` undoes this.
        """
        self.second_attempts[t] = self._present(t)
        self.claims[t] = None
        self.shared.pop(t, None)
        self.started.pop(t, None)

    def mark_speculated(self, t: int) -> None:
        """Note that a task has got a second attempt, so that it never gets another second attempt."""
        self.speculated.add(t)

    def continue_with_second(self, t: int) -> bool:
        """Make the second attempt of a task the present one. Return False if the task has no second attempt.

        The columns of the present attempt must have been cleared before.
        """
        other = self.second_attempts.pop(t, None)
        if other is None:
            return False
        self._install(t, other)
        return True

    def swap_attempts(self, t: int) -> None:
        """Exchange a task's present attempt and its second attempt, because an event concerns the second attempt."""
        other = self.second_attempts[t]
        self.second_attempts[t] = self._present(t)
        self._install(t, other)

    def _present(self, t: int) -> SecondAttempt:
        shared, variant = self.shared.get(t), self.variant.get(t, 0)
        return SecondAttempt(self.host[t], self.attempt[t], self.claims[t], shared, variant, self.started.get(t))

    def _install(self, t: int, other: SecondAttempt) -> None:
        # The highest attempt number is kept, so that no later attempt gets this number again, even if the older of the
        # two attempts outlives the newer one.
        self.latest[t] = max(self.latest.get(t, 0), self.attempt[t], other.attempt)
        self.host[t], self.attempt[t], self.claims[t] = other.host, other.attempt, other.claim
        self.shared.pop(t, None)
        if other.shared is not None:
            self.shared[t] = other.shared
        self.variant.pop(t, None)
        if other.variant:
            self.variant[t] = other.variant
        self.started.pop(t, None)
        if other.started_s is not None:
            self.started[t] = other.started_s

    # -- inputs

    def input_made(self, t: int) -> int:
        """Note that an input of a task exists now. Return how many of its inputs are still missing."""
        missing = self.missing[t] = self.missing[t] - 1
        return missing

    def object_lost(self, o: int) -> None:
        """Note that an object has no replica any more."""
        for c in self.objects.consumers[o]:
            if self.state[c] < _DONE:
                self.missing[c] += 1

    def lose_host(self, index: int) -> list[int]:
        """Remove a host from the replicas of all objects. Return the objects that have no replica any more."""
        objects = self.objects
        held = [o for o, replicas in enumerate(objects.replicas) if index in replicas and o not in self.borrowed]
        lost = [o for o in held if not objects.remove_replica(o, index)]
        for o in lost:
            self.object_lost(o)
        return lost

    def use_inputs_again(self, t: int) -> list[int]:
        """Note that a task that had ended needs its inputs again. Return the inputs that have no replica."""
        missing = []
        for o in self.spec.inputs[t]:
            self.objects.add_use(o)
            if not self.objects.replicas[o]:
                missing.append(o)
        self.missing[t] = len(missing)
        return missing

    def note_inputs_checked(self, t: int, count: int) -> None:
        """Note that the next check of a task's inputs begins at the position ``count``; see ``inputs_checked``."""
        self.inputs_checked[t] = count

    # -- groups and queues

    def pin_group(self, group: int, index: int) -> bool:
        """Have all tasks of a group run on a host. Return False if the group has a host already."""
        if group in self.group_host:
            return False
        self.group_host[group] = index
        return True

    def unpin_groups(self, index: int) -> list[int]:
        """Let all groups that have this host run on another host. Return these groups."""
        groups = [group for group, at in self.group_host.items() if at == index]
        for group in groups:
            del self.group_host[group]
        return groups

    def forget_queue(self, key: ReadyQueueKey) -> None:
        """Forget an empty queue, unless it is one of ``default_queues``."""
        if self.queues[key] not in self.default_queues:
            del self.queues[key]

    # -- the run as a whole

    def note_earlier(self, noting: bool) -> None:
        """Set ``noting``."""
        self.noting = noting

    def pause(self) -> None:
        """Place no task of the run until `unpause` has been called as often as this method."""
        self.pauses += 1

    def unpause(self) -> None:
        """Undo one call of `pause`. Hosts may have got room meanwhile, so all hosts are tried again."""
        self.pauses -= 1
        for queue in self.queues.values():
            queue.block(False)

    def mark_checked(self) -> None:
        """Note that the core has checked whether the hosts can run the run's tasks."""
        self.checked = True

    def begin_abort(self, outcome: Outcome, error: Exception | None) -> None:
        """Note that the core is ending the run early, with this outcome and error."""
        self.aborting = True
        self.abort_outcome = outcome
        self.set_error(error)
        self.requests.close()

    def set_error(self, error: Exception | None) -> None:
        """Set the error of the run as a whole, unless an earlier error is set."""
        self.error = self.error or error

    def end(self) -> Outcome:
        """Note that the run has ended. Return its outcome. The run is over, unless it goes on for what it keeps."""
        self.announced = True
        self.over = self.aborting or not self.objects.kept
        if self.aborting:
            return self.abort_outcome
        if self.failed:
            return Outcome.FAILED
        return Outcome.CANCELLED if self.cancelled else Outcome.DONE
