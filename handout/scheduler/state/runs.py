"""One run as columns: each column has a list entry or a byte for each task, and no task has a Python object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from handout.errors import InternalError
from handout.protocol.resource_ledger import Claim
from handout.scheduler.run_spec import RunSpec
from handout.scheduler.state.allocator_requests import AllocatorRequests
from handout.scheduler.state.durations import Durations
from handout.scheduler.state.hosts import Demand, HostRecord
from handout.scheduler.state.object_table import ObjectTable
from handout.scheduler.state.ranks import ranks_of
from handout.scheduler.state.second_attempts import SecondAttempt
from handout.scheduler.state.stragglers import Stragglers
from handout.scheduler.task_states import EFFECTS, TRANSITIONS, Outcome, State

__all__ = ["FailureCount", "ReadyQueue", "ReadyQueueKey", "Run"]

_NONE: tuple[int, ...] = ()
_HANDED, _READY, _DONE = State.HANDED, State.READY, State.DONE


class FailureCount(Enum):
    """Kinds of failure that are counted for a task, each with a limit of its own."""

    #: The task's own code failed.
    OWN_CODE = auto()
    #: The worker that ran it died.
    WORKER_DIED = auto()
    #: It failed through no fault of its own code.
    ENVIRONMENT = auto()
    #: Its host was lost while it may have run there.
    HOST_LOST = auto()


class ReadyQueueKey(NamedTuple):
    """What decides where a task may go. All tasks of one ready queue have the same key."""

    profile: int
    #: Index of the host that its group is on, 0 for none.
    pin: int
    #: Indices of hosts to be tried last.
    avoid: tuple[int, ...]
    #: All profiles of its group while the group has no host yet: the host must cover them all.
    group_profiles: frozenset[int]


class ReadyQueue:
    """Ready tasks of one run with one key, in order."""

    __slots__ = ("blocked", "heap", "hosts", "key", "run", "since", "version")

    def __init__(self, run: Run, key: ReadyQueueKey) -> None:
        self.run = run
        self.key = key
        #: Places in the run's order. An entry is stale if its task is not ready in this queue any more.
        self.heap: list[int] = []
        #: True if no host had room for the head when it was last tried. Only hosts that got room since are tried then.
        self.blocked = False
        #: When the queue was last empty, or one of its tasks was last placed.
        self.since = 0.0
        #: The hosts that can cover its tasks, computed for this version of the fleet.
        self.hosts: dict[HostRecord, tuple[Demand, ...]] = {}
        self.version = -1

    def head(self) -> int:
        """Return the first task that is ready here, or -1. Remove the stale entries before it."""
        run, heap = self.run, self.heap
        while heap:
            t = heap[0] if run.task_at is None else run.task_at[heap[0]]
            if run.queue[t] is self and run.state[t] == _READY:
                return t
            heappop(heap)
            if run.queue[t] is self:
                run.queue[t] = None
        self.blocked = False
        return -1

    def push(self, t: int, now: float) -> None:
        """Put in a task."""
        run, heap = self.run, self.heap
        if run.queue[t] is self:
            return  # an entry from an earlier time is still in the heap
        if not heap:
            self.since = now
            self.blocked = False
        run.queue[t] = self
        heappush(heap, t if run.order is None else run.order[t])

    def remove_head(self, head: int) -> None:
        """Take out the head, as `head` returned it."""
        heappop(self.heap)
        self.run.queue[head] = None

    def block(self, blocked: bool) -> None:
        """Set ``blocked``: True if only hosts that get room from now on are to be tried for the head."""
        self.blocked = blocked

    def note_placed(self, now: float) -> None:
        """Note that a task of the queue was placed."""
        self.since = now

    def set_hosts(self, hosts: dict[HostRecord, tuple[Demand, ...]], version: int) -> None:
        """Set the hosts that can cover its tasks in a version of the fleet."""
        self.hosts = hosts
        self.version = version
        self.blocked = False


class Run:
    """State of one run. Columns are indexed by task number.

    Other modules read the columns, and change them by the methods only.
    """

    __slots__ = (
        "abort_outcome",
        "aborting",
        "active",
        "attempt",
        "avoid",
        "backlog_s",
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
        "number",
        "objects",
        "order",
        "over",
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
        "variant",
    )

    def __init__(self, number: int, spec: RunSpec, remembered: dict[str, float]) -> None:
        self.number = number
        self.spec = spec
        self.objects = ObjectTable(spec)
        self.durations = Durations(spec, remembered)
        self.stragglers = None if spec.speculation is None else Stragglers(spec, spec.speculation, self.durations)
        #: The requests to the custom allocator, if there is one.
        self.requests = AllocatorRequests()
        self._task_columns(spec)
        self._sparse_columns()
        self._whole(spec)
        self._groups(spec)
        #: How many tasks still follow each task (empty if none does), its place in the order, the task at each place.
        self.rank, self.order, self.task_at = ranks_of(spec, self.missing, self.objects.consumers, self.objects_of)

    def _task_columns(self, spec: RunSpec) -> None:
        count = spec.count
        self.state = bytearray(count)
        #: Attempts so far; the number of the present one while the task is handed.
        self.attempt = [0] * count
        #: Index of the host that has it, or had it last.
        self.host = [0] * count
        #: How many of its inputs have no replica anywhere.
        self.missing = self.objects.missing_inputs(count)
        #: The claim on its host; None if it is handed ahead or not handed.
        self.claims: list[Claim | None] = [None] * count
        #: Seconds that it added to its host's backlog when it was handed ahead.
        self.backlog_s = [0.0] * count
        #: 1 if the shell has been told how it ended. The shell is told once.
        self.reported = bytearray(count)
        #: The queue that has an entry for it, which may be stale.
        self.queue: list[ReadyQueue | None] = [None] * count

    def _sparse_columns(self) -> None:
        """Columns that hold something for few tasks only."""
        #: The claim on the shared amounts.
        self.shared: dict[int, Claim] = {}
        #: Indices of the hosts that it failed on.
        self.avoid: dict[int, tuple[int, ...]] = {}
        self.failures: dict[tuple[FailureCount, int], int] = {}
        #: By task that may follow others: the place in its inputs where the next check of them goes on.
        self.inputs_checked: dict[int, int] = {}
        #: The variant of its cost that it was granted, if not the first.
        self.variant: dict[int, int] = {}
        #: Tasks that are asked to end and whose agents have not confirmed it.
        self.cancelling: set[int] = set()
        #: Attempts that are recalled and whose agents have not answered.
        self.recalled: dict[int, int] = {}
        #: Tasks that are known to run.
        self.started: set[int] = set()
        #: Attempts that a host went on with while there was no controller. They may exceed ``max_concurrency``.
        self.found: dict[int, int] = {}
        #: Of tasks with two live attempts: the one beside the present one.
        self.second_attempts: dict[int, SecondAttempt] = {}
        #: Tasks that have had two live attempts.
        self.speculated: set[int] = set()
        #: Of tasks that have had a second attempt: the highest attempt number, which may not be the present one's.
        self.latest: dict[int, int] = {}

    def _whole(self, spec: RunSpec) -> None:
        """The run as a whole."""
        #: Tasks that are handed.
        self.active = 0
        #: Tasks that have not ended.
        self.unended = spec.count
        self.failed = 0
        self.cancelled = 0
        self.aborting = False
        self.abort_outcome = Outcome.DONE
        self.error: Exception | None = None
        self.over = False
        #: True if it has been checked that the hosts can run its tasks.
        self.checked = False

    def _groups(self, spec: RunSpec) -> None:
        """Collocation groups, and the ready queues."""
        self.groups: dict[int, list[int]] = {}
        #: By group: index of the host that it is on, once its first task is placed.
        self.group_host: dict[int, int] = {}
        self.group_profiles: dict[int, frozenset[int]] = {}
        if spec.group is not None:
            for t, group in enumerate(spec.group):
                if group >= 0:
                    self.groups.setdefault(group, []).append(t)
            self.group_profiles = {g: frozenset(spec.profile[t] for t in ts) for g, ts in self.groups.items()}
        self.queues: dict[ReadyQueueKey, ReadyQueue] = {}
        #: By profile: the queue of tasks without a group and without hosts to avoid.
        self.default_queues = [self._queue(ReadyQueueKey(p, 0, _NONE, frozenset())) for p in range(len(spec.profiles))]

    # -- reading

    def queue_of(self, t: int) -> ReadyQueue:
        """Return the queue that a ready task belongs to now."""
        avoid = self.avoid.get(t, _NONE)
        group = -1 if self.spec.group is None else self.spec.group[t]
        if group < 0:
            if not avoid:
                return self.default_queues[self.spec.profile[t]]
            return self._queue(ReadyQueueKey(self.spec.profile[t], 0, avoid, frozenset()))
        pin = self.group_host.get(group, 0)
        profiles = frozenset() if pin else self.group_profiles[group]
        return self._queue(ReadyQueueKey(self.spec.profile[t], pin, avoid, profiles))

    def _queue(self, key: ReadyQueueKey) -> ReadyQueue:
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = ReadyQueue(self, key)
        return queue

    def objects_of(self, t: int) -> Sequence[int]:
        """Return what a task makes: its whole result and the elements that are asked for by themselves."""
        elements = self.objects.elements
        return (t, *elements[t]) if elements and t in elements else (t,)

    def priority_of(self, t: int) -> float:
        """Return a task's priority among the tasks of all runs."""
        column = self.spec.priority
        return self.spec.run_priority + (0.0 if column is None else column[t])

    def name_of(self, t: int) -> str:
        """Return the user's id of a task."""
        return str(t) if self.spec.ids is None else self.spec.ids[t]

    def ended(self, t: int) -> bool:
        """Return True if a task is in a final state."""
        return self.state[t] >= _DONE

    # -- states

    def move(self, t: int, new: State) -> None:
        """Move a task to another state, and keep the counts of active and unended tasks.

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
            f"{State(new).name}. It is in attempt {self.attempt[t]}, its last host has index {self.host[t]}, it misses "
            f"{self.missing[t]} inputs, and its end was {'' if self.reported[t] else 'not '}reported. "
            f"From {old.name} a task moves to {legal or 'no other state'}.",
            remedy="Please report it.",
        )

    def begin(self, now: float) -> None:
        """Put the tasks without missing inputs into the frontier."""
        order = self.order
        for t, missing in enumerate(self.missing):
            if not missing:
                self.move(t, _READY)
                queue = self.queue[t] = self.queue_of(t)
                queue.heap.append(t if order is None else order[t])
        for queue in self.queues.values():
            heapify(queue.heap)
            queue.since = now

    def make_ready(self, t: int, now: float) -> None:
        """Make a task ready if it is not, and put it into the queue that it belongs to now."""
        if self.state[t] != _READY:
            self.move(t, _READY)
        self.requests.changed = True
        self.queue_of(t).push(t, now)

    def end_task(self, t: int, new: State) -> bool:
        """Move a task to a final state other than DONE; return True if the shell has not been told of an end yet."""
        self.move(t, new)
        self.cancelling.discard(t)
        self.failed += new is State.FAILED
        self.cancelled += new is State.CANCELLED
        untold = not self.reported[t]
        self.reported[t] = 1
        return untold

    def mark_reported(self, tasks: Iterable[int]) -> None:
        """Note that the shell is told how tasks ended."""
        reported = self.reported
        for t in tasks:
            reported[t] = 1

    # -- attempts

    def begin_attempt(self, t: int, host: int, claim: Claim | None, backlog_s: float, variant: int) -> int:
        """Hand a task to the host of an index; return the number of the attempt.

        Without a claim it is handed ahead and adds ``backlog_s`` to the host's backlog.
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
        """Clear what the columns hold of a task's present attempt; return its claims of the host and of shared amounts.

        The task must be moved to its next state, or go on with its second attempt.
        """
        claim = self.claims[t]
        self.claims[t] = None
        self.started.discard(t)
        self.recalled.pop(t, None)
        if self.stragglers is not None:
            self.stragglers.stopped(t)
        return claim, self.shared.pop(t, None)

    def set_claim(self, t: int, claim: Claim | None) -> None:
        """Give a task that was handed ahead its claim; None: its claim is about to be released."""
        self.claims[t] = claim

    def grant_shared(self, t: int, claim: Claim) -> None:
        """Note what a task that is about to be handed over has claimed of the shared amounts."""
        self.shared[t] = claim

    def mark_started(self, t: int) -> None:
        """Note that a handed task runs."""
        self.started.add(t)

    def mark_recalled(self, t: int) -> bool:
        """Note that the present attempt is recalled; return False if it was recalled before or is being cancelled."""
        if self.recalled.get(t) == self.attempt[t] or t in self.cancelling:
            return False
        self.recalled[t] = self.attempt[t]
        return True

    def mark_cancelling(self, t: int) -> bool:
        """Note that a handed task is asked to end; return False if it was asked before."""
        if t in self.cancelling:
            return False
        self.cancelling.add(t)
        return True

    def cancel_no_more(self, t: int) -> None:
        """Note that no agent's confirmation is awaited for a task any more."""
        self.cancelling.discard(t)

    def skip_attempts(self, t: int, attempt: int) -> None:
        """Have the next attempt of a task get a higher number than this."""
        self.attempt[t] = max(self.attempt[t], attempt)

    def mark_found(self, t: int, attempt: int) -> None:
        """Note that an earlier controller began the attempt which is about to be handed over."""
        self.attempt[t] = attempt - 1
        self.found[t] = attempt

    def avoid_host(self, t: int, index: int) -> None:
        """Have a task avoid a host that it failed on."""
        self.avoid[t] = tuple(sorted({*self.avoid.get(t, ()), index}))

    def count(self, kind: FailureCount, t: int) -> int:
        """Count a failure of a task; return how many of this kind there were."""
        failures = self.failures[kind, t] = self.failures.get((kind, t), 0) + 1
        return failures

    # -- second attempts

    def begin_second_attempt(self, t: int) -> None:
        """Set the present attempt aside, so that `begin_attempt` can begin one. `continue_with_second` undoes this."""
        self.second_attempts[t] = self._present(t)
        self.claims[t] = None
        self.shared.pop(t, None)
        self.started.discard(t)

    def mark_speculated(self, t: int) -> None:
        """Note that a task has had two live attempts: it gets no third one."""
        self.speculated.add(t)

    def continue_with_second(self, t: int) -> bool:
        """Make the second attempt of a task the present one, whose columns are clear; return False if there is none."""
        other = self.second_attempts.pop(t, None)
        if other is None:
            return False
        self._install(t, other)
        return True

    def swap_attempts(self, t: int) -> None:
        """Exchange the present attempt and the one beside it, because an event concerns the latter."""
        other = self.second_attempts[t]
        self.second_attempts[t] = self._present(t)
        self._install(t, other)

    def _present(self, t: int) -> SecondAttempt:
        shared, variant = self.shared.get(t), self.variant.get(t, 0)
        return SecondAttempt(self.host[t], self.attempt[t], self.claims[t], shared, variant, t in self.started)

    def _install(self, t: int, other: SecondAttempt) -> None:
        # Two attempts never get the same number, even if the older one outlives the newer.
        self.latest[t] = max(self.latest.get(t, 0), self.attempt[t], other.attempt)
        self.host[t], self.attempt[t], self.claims[t] = other.host, other.attempt, other.claim
        self.shared.pop(t, None)
        if other.shared is not None:
            self.shared[t] = other.shared
        self.variant.pop(t, None)
        if other.variant:
            self.variant[t] = other.variant
        (self.started.add if other.started else self.started.discard)(t)

    # -- inputs

    def input_made(self, t: int) -> int:
        """Note that an input of a task exists now; return how many are still missing."""
        missing = self.missing[t] = self.missing[t] - 1
        return missing

    def object_lost(self, o: int) -> None:
        """Note that an object has no replica any more."""
        for c in self.objects.consumers[o]:
            if self.state[c] < _DONE:
                self.missing[c] += 1

    def lose_host(self, index: int) -> list[int]:
        """Take a host out of all replicas; return the objects that have none any more."""
        objects = self.objects
        held = [o for o, replicas in enumerate(objects.replicas) if index in replicas]
        lost = [o for o in held if not objects.remove_replica(o, index)]
        for o in lost:
            self.object_lost(o)
        return lost

    def use_inputs_again(self, t: int) -> list[int]:
        """Note that a task which had ended uses its inputs again; return those that are missing."""
        missing = []
        for o in self.spec.inputs[t]:
            self.objects.add_use(o)
            if not self.objects.replicas[o]:
                missing.append(o)
        self.missing[t] = len(missing)
        return missing

    def note_inputs_checked(self, t: int, count: int) -> None:
        """Note the place in a task's inputs where the next check of them goes on."""
        self.inputs_checked[t] = count

    # -- groups and queues

    def pin_group(self, group: int, index: int) -> bool:
        """Put a group on the host of an index; return False if it is on one already."""
        if group in self.group_host:
            return False
        self.group_host[group] = index
        return True

    def unpin_groups(self, index: int) -> list[int]:
        """Take all groups off a host; return them."""
        groups = [group for group, at in self.group_host.items() if at == index]
        for group in groups:
            del self.group_host[group]
        return groups

    def forget_queue(self, key: ReadyQueueKey) -> None:
        """Forget an empty queue, unless it is the default one of its profile."""
        if self.queues[key] not in self.default_queues:
            del self.queues[key]

    # -- the run as a whole

    def mark_checked(self) -> None:
        """Note that the hosts can run its tasks."""
        self.checked = True

    def begin_abort(self, outcome: Outcome, error: Exception | None) -> None:
        """Note that the run is being ended, with this outcome and error."""
        self.aborting = True
        self.abort_outcome = outcome
        self.set_error(error)
        self.requests.close()

    def set_error(self, error: Exception | None) -> None:
        """Set the error that ended the run as a whole, unless an earlier one is set."""
        self.error = self.error or error

    def end(self) -> Outcome:
        """Note that the run is over; return its outcome."""
        self.over = True
        if self.aborting:
            return self.abort_outcome
        if self.failed:
            return Outcome.FAILED
        return Outcome.CANCELLED if self.cancelled else Outcome.DONE
