"""One run as columns: a list entry or a byte a task or object, no object for either."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from handout.protocol.ledger import Claim
from handout.scheduler.spec import RunSpec
from handout.scheduler.state.estimates import Estimates
from handout.scheduler.state.hosts import HostRecord, Need
from handout.scheduler.state.pace import Pace
from handout.scheduler.state.ranks import ranks_of
from handout.scheduler.states import Outcome, State

__all__ = ["KEEP", "OUTPUT", "ReadyQueue", "ReadyQueueKey", "Run", "SecondAttempt"]

#: Flags of an object.
OUTPUT, KEEP = 1, 2

_NONE: tuple[int, ...] = ()


class SecondAttempt(NamedTuple):
    """What a run's columns hold of the present attempt, of the other one."""

    host: int
    attempt: int
    claim: Claim | None
    shared: Claim | None
    variant: int
    begun: bool


class ReadyQueueKey(NamedTuple):
    """What decides where a task may go: tasks of one lane are interchangeable as far as that is concerned."""

    profile: int
    #: Index of the host that its group is on, 0 for none.
    pin: int
    #: Indices of hosts to be tried last.
    avoid: tuple[int, ...]
    #: All profiles of its group while the group has no host yet: the host must cover them all.
    together: frozenset[int]


class ReadyQueue:
    """Ready tasks of one run with one key, in order."""

    __slots__ = ("blocked", "choices", "heap", "key", "run", "since", "version")

    def __init__(self, run: Run, key: ReadyQueueKey) -> None:
        self.run = run
        self.key = key
        #: Places in the run's order; an entry whose task is not ready here any more is stale.
        self.heap: list[int] = []
        #: Whether no host had room for the head when last tried: only hosts that got room since can have it.
        self.blocked = False
        #: When it last had nothing to wait for.
        self.since = 0.0
        #: Hosts that can cover it, computed for this version of the fleet.
        self.choices: dict[HostRecord, tuple[Need, ...]] = {}
        self.version = -1

    def push(self, place: int) -> None:
        """Put in the task at a place of the run's order."""
        heappush(self.heap, place)

    def head(self) -> int:
        """The first task that is ready here, -1 where there is none; stale entries go."""
        run, heap = self.run, self.heap
        while heap:
            t = heap[0] if run.place_at is None else run.place_at[heap[0]]
            if run.lane[t] is self and run.state[t] == State.READY:
                return t
            heappop(heap)
            if run.lane[t] is self:
                run.lane[t] = None
        self.blocked = False
        return -1

    def pop(self) -> None:
        """Take out the head."""
        place = heappop(self.heap)
        self.run.lane[place if self.run.place_at is None else self.run.place_at[place]] = None


class Run:
    """State of one run. Columns are indexed by task, or by object where said."""

    __slots__ = (
        "abort_outcome",
        "aborting",
        "active",
        "asked",
        "asks_again",
        "attempt",
        "avoid",
        "awaited",
        "begun",
        "cancelled",
        "cancelling",
        "charge",
        "checked",
        "claims",
        "consumers",
        "copy_failures",
        "deaths",
        "error",
        "estimates",
        "failed",
        "flags",
        "flying",
        "found",
        "group_at",
        "groups",
        "host",
        "lane",
        "lanes",
        "latest",
        "leftovers",
        "looked_at",
        "losses",
        "missing",
        "nbytes",
        "number",
        "order",
        "over",
        "pace",
        "picks",
        "place_at",
        "plain",
        "rank",
        "ready_at",
        "recalled",
        "reported",
        "request",
        "shared",
        "shown",
        "shown_version",
        "spec",
        "speculated",
        "state",
        "stirred",
        "together",
        "tries",
        "troubles",
        "twins",
        "unended",
        "uses",
        "variant",
        "where",
    )

    def __init__(self, number: int, spec: RunSpec, remembered: dict[str, float]) -> None:
        count, objects = spec.count, len(spec.producer)
        self.number = number
        self.spec = spec
        self._task_columns(count)
        self._few()
        self._object_columns(objects)
        self._counts(count)
        self._requests()
        self.estimates = Estimates(spec, remembered)
        #: Where it is asked for: who is slow.
        self.pace = None if spec.speculation is None else Pace(spec.profile, spec.speculation)
        self._link(count, objects)
        #: Critical path (tasks that still follow; empty where none does), each task's place, the task at each place.
        self.rank, self.order, self.place_at = ranks_of(spec, self.missing, self.consumers, self.objects_of)

    def _task_columns(self, count: int) -> None:
        self.state = bytearray(count)
        #: Tries so far; the number of the present one while it is handed.
        self.attempt = [0] * count
        #: Index of the host that has it, or had it last.
        self.host = [0] * count
        #: Inputs that have no replica anywhere.
        self.missing = [0] * count
        #: What it has claimed of its host; None: handed ahead.
        self.claims: list[Claim | None] = [None] * count
        #: What it added to its host's backlog when it was handed ahead.
        self.charge = [0.0] * count
        #: Whether the shell has been told how it ended: that happens once.
        self.reported = bytearray(count)
        #: The lane that has an entry for it, which may be stale.
        self.lane: list[ReadyQueue | None] = [None] * count

    def _few(self) -> None:
        """What is true of few tasks."""
        self.picks: dict[int, list[int]] = {}
        self.shared: dict[int, Claim] = {}
        self.avoid: dict[int, tuple[int, ...]] = {}
        self.tries: dict[int, int] = {}
        self.deaths: dict[int, int] = {}
        self.troubles: dict[int, int] = {}
        #: Hosts that were lost while it may have run there.
        self.losses: dict[int, int] = {}
        #: How many of its inputs were seen to be made where it might follow them, the last time somebody looked.
        self.looked_at: dict[int, int] = {}
        #: Variant of its cost that it was granted, where not the first.
        self.variant: dict[int, int] = {}
        #: Asked to be ended, not confirmed yet.
        self.cancelling: set[int] = set()
        #: Asked back, not answered yet: task -> attempt.
        self.recalled: dict[int, int] = {}
        #: Known to run.
        self.begun: set[int] = set()
        #: Attempts that a host went on with while there was no controller, whatever limits there are.
        self.found: dict[int, int] = {}
        #: The other, older attempt of tasks that are attempted twice at once.
        self.twins: dict[int, SecondAttempt] = {}
        #: Tasks that ever were.
        self.speculated: set[int] = set()
        #: Of tasks that were: the highest number of an attempt, which may not be the present one's.
        self.latest: dict[int, int] = {}

    def _object_columns(self, objects: int) -> None:
        self.nbytes = list(self.spec.nbytes)
        #: Indices of hosts that have it, ascending; 0 is the controller.
        self.where: list[tuple[int, ...]] = [_NONE] * objects
        self.consumers: list[Sequence[int]] = [_NONE] * objects
        #: Consumers that have not ended.
        self.uses = [0] * objects
        self.flags = bytearray(objects)
        #: Copies under way: (object, host) -> source.
        self.flying: dict[tuple[int, int], int] = {}
        self.copy_failures: dict[tuple[int, int], int] = {}
        #: Results that count no more, on hosts that were to get a copy of what does: (object, host).
        self.leftovers: set[tuple[int, int]] = set()

    def _counts(self, count: int) -> None:
        """The run as a whole, and its groups."""
        self.groups: dict[int, list[int]] = {}
        self.group_at: dict[int, int] = {}
        self.together: dict[int, frozenset[int]] = {}
        self.lanes: dict[ReadyQueueKey, ReadyQueue] = {}
        #: By profile: the lane of tasks without a group and without hosts to avoid.
        self.plain: list[ReadyQueue] = []
        #: Tasks that are handed.
        self.active = 0
        self.unended = count
        #: Outputs that may still come to the controller.
        self.awaited = 0
        self.failed = 0
        self.cancelled = 0
        self.aborting = False
        self.abort_outcome = Outcome.DONE
        self.error: Exception | None = None
        self.over = False
        #: Whether it has been checked that hosts can run its tasks.
        self.checked = False

    def _requests(self) -> None:
        #: The custom allocator's request that is out, and its tasks; -1: none is.
        self.request = -1
        self.asked: dict[str, int] = {}
        #: The hosts that it was shown, and the fleet's version then.
        self.shown: dict[str, HostRecord] = {}
        self.shown_version = -1
        #: Times that it has asked to be asked again and has not been yet.
        self.asks_again = 0
        #: When tasks that it was shown were first shown, for how long they wait.
        self.ready_at: dict[int, float] = {}
        #: Whether anything has happened that a custom allocator might answer differently to.
        self.stirred = True

    def _link(self, count: int, objects: int) -> None:
        """Fill the columns that say who needs what."""
        spec, consumers, uses, where, missing = self.spec, self.consumers, self.uses, self.where, self.missing
        for o in range(count, objects):
            if spec.producer[o] >= 0:
                self.picks.setdefault(spec.producer[o], []).append(o)
        for o in range(objects):
            if spec.producer[o] < 0:
                where[o] = (0,)
        for t, inputs in enumerate(spec.inputs):
            for o in inputs:
                users = consumers[o]
                if users:
                    users.append(t)  # type: ignore[attr-defined]  # a list from the first consumer on
                else:
                    consumers[o] = [t]
                uses[o] += 1
                if not where[o]:
                    missing[t] += 1
        for o in spec.outputs:
            if not self.flags[o] & OUTPUT:
                self.flags[o] |= OUTPUT
                if spec.producer[o] >= 0:
                    self.awaited += 1
        for o in spec.keep:
            self.flags[o] |= KEEP
        if spec.group is not None:
            for t, group in enumerate(spec.group):
                if group >= 0:
                    self.groups.setdefault(group, []).append(t)
            self.together = {g: frozenset(spec.profile[t] for t in ts) for g, ts in self.groups.items()}
        self.plain = [self._lane(ReadyQueueKey(p, 0, _NONE, frozenset())) for p in range(len(spec.profiles))]

    def _lane(self, key: ReadyQueueKey) -> ReadyQueue:
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = ReadyQueue(self, key)
        return lane

    def lane_of(self, t: int) -> ReadyQueue:
        """Where a ready task belongs now."""
        avoid = self.avoid.get(t, _NONE)
        group = -1 if self.spec.group is None else self.spec.group[t]
        if group < 0:
            if not avoid:
                return self.plain[self.spec.profile[t]]
            return self._lane(ReadyQueueKey(self.spec.profile[t], 0, avoid, frozenset()))
        pin = self.group_at.get(group, 0)
        together = frozenset() if pin else self.together[group]
        return self._lane(ReadyQueueKey(self.spec.profile[t], pin, avoid, together))

    def objects_of(self, t: int) -> Sequence[int]:
        """What a task makes: its whole result and the elements that are asked for by themselves."""
        picks = self.picks.get(t)
        return (t,) if picks is None else (t, *picks)

    def priority_of(self, t: int) -> float:
        """Higher goes first, among all runs."""
        column = self.spec.priority
        return self.spec.run_priority + (0.0 if column is None else column[t])

    def name_of(self, t: int) -> str:
        """The user's id of a task."""
        return str(t) if self.spec.ids is None else self.spec.ids[t]

    def needed(self, o: int) -> bool:
        """Whether an object that has no replica must be made (again)."""
        if self.uses[o]:
            return True
        flags = self.flags[o]
        return bool(flags & KEEP) or bool(flags & OUTPUT and not (self.where[o] and self.where[o][0] == 0))

    def ended(self, t: int) -> bool:
        """Whether it is in a final state."""
        return self.state[t] >= State.DONE
