"""One host as the core sees it: its offer, the claims on that offer, and the tasks that were handed over to it.

The core makes the decisions of the controller. The shell is the part of the controller around the core, and contains
the driver. The shell talks to the hosts, and performs the core's commands.

A claim is the part of a host's amounts that one task holds. A task is handed ahead if the core hands it over without a
claim, because the host has no room for the task yet, or because the task's inputs are still being made on this host.
Such a task waits on the host for a claim. The backlog of a host is the work of its tasks that were handed ahead and
have no claim yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from handout.allocators import HostState
from handout.protocol.resource_ledger import Claim, Ledger
from handout.resources.offer import Offer
from handout.resources.units import PARTS
from handout.scheduler.run_spec import Profile

__all__ = [
    "AHEAD_LIMIT",
    "CONTROLLER_INDEX",
    "CONTROLLER_ONLY",
    "AheadTask",
    "Demand",
    "HostRecord",
    "Lingering",
    "Pause",
]

#: If a host has this many tasks without a claim, the core hands no further tasks ahead to the host.
AHEAD_LIMIT = 1024
#: The backlog may hold at least this many seconds of work for each slot, which is one CPU of the host.
MIN_TARGET_S = 0.010

#: The controller's index. Hosts have higher indices.
CONTROLLER_INDEX = 0
#: The entry in `ObjectTable.replicas` for an object that only the controller has.
CONTROLLER_ONLY = (CONTROLLER_INDEX,)


class Demand:
    """One variant of the cost of a `Profile`, divided into amounts of the host and amounts that all hosts share."""

    __slots__ = ("devices", "host", "names", "plain", "shared", "variant")

    def __init__(self, variant: int, host: Mapping[str, int], shared: Mapping[str, int]) -> None:
        self.variant = variant
        self.host = host
        self.shared = shared
        #: The amounts of ``host`` that are claimed on devices, which are GPUs. Empty if a task needs no GPU and no part
        #: of a GPU.
        self.devices = {name: parts for name, parts in host.items() if name in ("gpu", "gpu_memory")}
        #: The other amounts of ``host``, without zeros.
        self.plain = {name: parts for name, parts in host.items() if parts and name not in self.devices}
        #: The names of the amounts of ``host`` that are not zero.
        self.names = frozenset(name for name, parts in host.items() if parts)


class AheadTask(NamedTuple):
    """A task that was handed ahead and waits on its host for a claim."""

    run: int
    task: int
    attempt: int
    #: The core's time at which the task began to wait.
    since_s: float


_new_tuple = tuple.__new__


def ahead_task(run: int, task: int, attempt: int, since_s: float) -> AheadTask:
    """Return an `AheadTask`, in half the time that a call of the class would take."""
    return _new_tuple(AheadTask, (run, task, attempt, since_s))


class Lingering(NamedTuple):
    """The claims and objects of an attempt that the core has given up and whose end the agent has not confirmed yet."""

    claim: Claim | None
    shared: Claim | None
    #: The objects that the attempt makes if it finishes before the agent ends it.
    objects: Sequence[int]


@dataclass(slots=True)
class Pause:
    """A time in which a function's tasks avoid a host, because the host had no room for a result or an argument."""

    #: The core's time at which the pause ends.
    until: float
    #: Seconds that the pause lasts.
    length_s: float
    #: Bytes for which the host had no room; 0 if not known.
    need: int
    #: Bytes of the objects that were dropped on the host since the pause began.
    freed: float = 0.0


class HostRecord:
    """A host from the time when its agent is ready until the host is lost. A host that comes back gets a new record."""

    __slots__ = (
        "abandoned_s",
        "ahead",
        "ahead_n",
        "ahead_s",
        "alive",
        "both",
        "budget_s",
        "draining",
        "epoch",
        "feasible",
        "handed",
        "index",
        "leaders",
        "ledger",
        "lingering",
        "name",
        "offer",
        "only",
        "pauses",
        "price_per_hour",
        "python",
        "released",
        "reserved",
        "rtt_s",
        "shrunk",
        "slots",
        "suspected",
        "target_s",
    )

    def __init__(
        self, name: str, index: int, offer: Offer, python: str, rtt_s: float, epoch: int, price: float
    ) -> None:
        self.name = name
        #: The number of this record in the fleet. No other record ever gets this number.
        self.index = index
        self.epoch = epoch
        #: The first two numbers of the host's version of Python, such as "3.11".
        self.python = ".".join(python.split(".")[:2])
        self.rtt_s = rtt_s
        self.price_per_hour = price
        self.alive = True
        self.suspected = False
        #: The core's time at which the shell has given up the agent, or None. The agent's tasks may still run until the
        #: core learns that the host is lost.
        self.abandoned_s: float | None = None
        #: True if the caller drains the host: it gets no new work, and is let go once no run needs it.
        self.draining = False
        #: True if the core has told the shell that it may let this drained host go.
        self.released = False
        #: The `ReadyQueue` for which the host is kept free, or None. The type here is ``object``, because the module of
        #: `ReadyQueue` imports this module.
        self.reserved: object | None = None
        #: The host's amounts, and the claims of the tasks that run there, as far as the core knows.
        self.ledger = Ledger(offer.amounts, offer.devices)
        #: Number of tasks that the host's agent has, including tasks that were handed ahead.
        self.handed = 0
        #: Tasks that were handed ahead, whose inputs all exist, and that wait for a claim. If a task stops waiting, its
        #: entry may stay until it comes to the front.
        self.ahead: deque[AheadTask] = deque()
        #: Number of tasks without a claim: tasks in ``ahead``, and tasks whose inputs are still being made here.
        self.ahead_n = 0
        #: The backlog: the seconds that the tasks without a claim are expected to take in all.
        self.ahead_s = 0.0
        #: True if the host's offer has ever become smaller, so that more may be claimed than the host offers.
        self.shrunk = False
        #: The leaders, as (run, task), oldest first. The followers of a task are the tasks that take its result. A
        #: leader is a task that was handed to this host and whose followers may be handed to this host too.
        self.leaders: deque[tuple[int, int]] = deque()
        #: The attempts that the core has given up and whose end the agent has not confirmed yet. Key: (run, task,
        #: attempt).
        self.lingering: dict[tuple[int, int, int], Lingering] = {}
        #: The demands of each profile that this host can cover when it is idle: a cache of `Fleet.feasible`.
        self.feasible: dict[Profile, tuple[Demand, ...]] = {}
        #: The last pause of each profile on this host. The pause may be over.
        self.pauses: dict[Profile, Pause] = {}
        #: The entry in `ObjectTable.replicas` for every object that only this host has.
        self.only = (index,)
        #: The entry in `ObjectTable.replicas` for every object that only the controller and this host have.
        self.both = (CONTROLLER_INDEX, index)
        self.set_offer(offer)

    # -- what the host offers

    def set_offer(self, offer: Offer) -> None:
        """Set what the host offers from now on."""
        self.offer = offer
        self.shrunk = self.shrunk or any(offer.amounts.get(n, 0) < parts for n, parts in self.ledger.total.items())
        self.ledger.resize(offer.amounts, offer.devices)
        #: Number of slots: the number of whole CPUs that the host offers, but at least 1.
        self.slots = max(1, offer.amounts.get("cpu", PARTS) // PARTS)
        #: Seconds of work that the backlog may hold for each slot.
        self.target_s = max(2 * self.rtt_s, MIN_TARGET_S)
        # The seconds of work that the backlog may hold in all: the target of all slots, and a little more. Otherwise, a
        # rounding error could keep out a task although the exact sum of the durations fits.
        self.budget_s = self.target_s * self.slots * (1.0 + 1e-9)
        self.feasible.clear()

    @property
    def open(self) -> bool:
        """True if the host may get new work."""
        return self.alive and not self.suspected and not self.draining

    @property
    def state(self) -> HostState:
        """The host's state, as allocators and callers see it."""
        if self.abandoned:
            return "lost"
        if self.draining:
            return "draining"
        return "suspected" if self.suspected else "ready"

    @property
    def abandoned(self) -> bool:
        """True if the shell has given up the agent."""
        return self.abandoned_s is not None

    def abandon(self, now: float) -> None:
        """Note that the shell has given up the agent, so that the host gets no new work."""
        self.suspected, self.abandoned_s = True, now

    def suspect(self, suspected: bool) -> None:
        """Note that the controller has not heard from the host for a while (True), or hears from it again (False)."""
        self.suspected = suspected

    def drain(self) -> None:
        """Note that the host gets no new work any more."""
        self.draining = True

    def mark_released(self) -> None:
        """Note that the shell may let the host go."""
        self.released = True

    def mark_lost(self) -> None:
        """Note that the host is lost, with all that was on it."""
        self.alive = False
        self.ahead.clear()
        self.leaders.clear()
        self.lingering.clear()

    def reserve(self, queue: object | None) -> None:
        """Keep the host free for one ready queue. None ends the reservation."""
        self.reserved = queue

    # -- the tasks that its agent has

    def add_running(self) -> None:
        """Count one more task, which has a claim."""
        self.handed += 1

    def add_ahead(self, backlog_s: float, entry: AheadTask | None) -> None:
        """Count one more task that is handed ahead. Queue ``entry``, unless it is None because an input is missing."""
        self.handed += 1
        self.ahead_n += 1
        self.ahead_s += backlog_s
        if entry is not None:
            self.ahead.append(entry)

    def remove_attempt(self, claim: Claim | None, backlog_s: float) -> None:
        """Count one task less. If the task had no claim, take the task out of the backlog too."""
        self.handed -= 1
        if claim is None:
            self.shorten_backlog(backlog_s)

    def remove_attempts(self, count: int, ahead: int, backlog_s: float) -> None:
        """Count several tasks less.

        Args:
            count: The number of these tasks.
            ahead: How many of these tasks had no claim.
            backlog_s: Seconds that the tasks without a claim had added to the backlog, together.
        """
        self.handed -= count
        if ahead:
            self.ahead_n -= ahead
            self.ahead_s = self.ahead_s - backlog_s if self.ahead_n else 0.0

    def shorten_backlog(self, backlog_s: float) -> None:
        """Take one task out of the backlog."""
        self.ahead_n -= 1
        # An empty backlog is set to exactly 0, so that rounding errors do not add up.
        self.ahead_s = self.ahead_s - backlog_s if self.ahead_n else 0.0

    def wait_for_claim(self, run: int, t: int, attempt: int, now: float) -> None:
        """Queue a task that was handed ahead, because all of its inputs exist now."""
        self.ahead.append(AheadTask(run, t, attempt, now))

    def remove_ahead(self, count: int) -> None:
        """Remove the first ``count`` entries of ``ahead``."""
        for _ in range(count):
            self.ahead.popleft()

    def keep_ahead(self, entries: Iterable[AheadTask]) -> None:
        """Keep only these entries of ``ahead``, because the tasks of the other entries are recalled."""
        entries = list(entries)
        self.ahead.clear()
        self.ahead.extend(entries)

    def add_leader(self, run: int, t: int) -> None:
        """Note that the followers of a handed task may be handed to this host too."""
        self.leaders.append((run, t))

    def next_leader(self) -> tuple[int, int]:
        """Remove the first leader and return it."""
        return self.leaders.popleft()

    def return_leaders(self, leaders: Sequence[tuple[int, int]]) -> None:
        """Put leaders back at the front, in their order."""
        self.leaders.extendleft(reversed(leaders))

    def add_lingering(self, run: int, t: int, attempt: int, left: Lingering) -> None:
        """Note an attempt that the core has given up and whose end the agent has not confirmed yet."""
        self.lingering[run, t, attempt] = left

    def confirm_end(self, run: int, t: int, attempt: int) -> Lingering | None:
        """Forget a given-up attempt whose end is confirmed. Return what it held, or None if it was not noted."""
        return self.lingering.pop((run, t, attempt), None)

    # -- room

    def backlog_for(self, expected_s: float) -> float:
        """Return the seconds that a task would add to the backlog, or -1 if the backlog has no room for it.

        A negative ``expected_s`` means that the duration is not known. Such a task adds half of ``target_s``, so that
        the backlog has room for two such tasks per slot until the first results tell the duration.
        """
        cost = expected_s if expected_s >= 0.0 else self.target_s * 0.5
        if cost > self.target_s or self.ahead_n >= AHEAD_LIMIT or self.ahead_s + cost > self.budget_s:
            return -1.0
        return cost

    def is_too_long(self, expected_s: float) -> bool:
        """Return True if even an empty backlog has no room for a task of this expected duration."""
        return expected_s > self.target_s

    def load(self) -> float:
        """Return the number of tasks per slot, including tasks that were handed ahead."""
        return self.handed / self.slots

    # -- pauses

    def pause(self, profile: Profile, pause: Pause) -> None:
        """Have tasks of a profile avoid this host for a while."""
        self.pauses[profile] = pause

    def end_pause(self, profile: Profile) -> None:
        """End the pause of a profile early, and forget the pause."""
        del self.pauses[profile]

    def is_paused(self, profile: Profile, now: float) -> bool:
        """Return True if tasks of a profile avoid this host at the time ``now``."""
        pause = self.pauses.get(profile)
        return pause is not None and pause.until > now

    def forget(self, profile: Profile) -> None:
        """Forget a profile of a closed run."""
        self.feasible.pop(profile, None)
        self.pauses.pop(profile, None)

    def __repr__(self) -> str:
        return f"<host {self.name!r} #{self.index} handed={self.handed} ahead={self.ahead_n}>"
