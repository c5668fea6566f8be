"""One host as the core sees it: what it offers, what is claimed of it, and what has been handed over to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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

#: Most tasks that may be handed ahead to one host.
AHEAD_LIMIT = 1024
#: Least seconds of work that the backlog of a slot may hold.
MIN_TARGET_S = 0.010

#: The controller's place among host indices.
CONTROLLER_INDEX = 0
#: Replicas of an object that only the controller has.
CONTROLLER_ONLY = (CONTROLLER_INDEX,)


class Demand:
    """One variant of a profile's cost on the ledgers: what it takes of a host, and of the shared amounts."""

    __slots__ = ("devices", "host", "names", "plain", "shared", "variant")

    def __init__(self, variant: int, host: Mapping[str, int], shared: Mapping[str, int]) -> None:
        self.variant = variant
        self.host = host
        self.shared = shared
        #: The amounts of ``host`` that lie on devices; empty if there are no GPUs and no parts of one among them.
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
    #: When it began to wait, in the core's time.
    since_s: float


_new_tuple = tuple.__new__


def ahead_task(run: int, task: int, attempt: int, since_s: float) -> AheadTask:
    """Return an `AheadTask`. Calling the class takes twice as long."""
    return _new_tuple(AheadTask, (run, task, attempt, since_s))


class Lingering(NamedTuple):
    """What an attempt that the core has given up holds until its agent confirms its end."""

    claim: Claim | None
    shared: Claim | None
    #: The objects that the attempt will have made if it finishes before it is ended.
    objects: Sequence[int]


@dataclass(slots=True)
class Pause:
    """A host had no room for what a function makes or takes, so tasks of that function avoid it for a while."""

    until: float
    length_s: float
    #: Bytes that found no room, 0 if not known.
    need: int
    #: Bytes that were dropped on the host since the pause began.
    freed: float = 0.0


class HostRecord:
    """One epoch of one host. A host that comes back is a new record with a new index."""

    __slots__ = (
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
        self.index = index
        self.epoch = epoch
        #: First two numbers of the version of the host's Python.
        self.python = ".".join(python.split(".")[:2])
        self.rtt_s = rtt_s
        self.price_per_hour = price
        self.alive = True
        self.suspected = False
        self.draining = False
        #: True if the shell has been told that it may let the drained host go.
        self.released = False
        #: The one ready queue that may have what becomes free here, or None. It is only compared by identity.
        self.reserved: object | None = None
        #: What the tasks that are believed to run have claimed.
        self.ledger = Ledger(offer.amounts, offer.devices)
        #: Number of tasks with its agent, those handed ahead included.
        self.handed = 0
        #: Tasks that were handed ahead, have their inputs and wait for a claim. Stale entries stay until they come
        #: to the front.
        self.ahead: deque[AheadTask] = deque()
        #: Number of tasks without a claim: those in ``ahead`` and those whose inputs are still being made here.
        self.ahead_n = 0
        #: Sum of the seconds that these tasks are expected to take.
        self.ahead_s = 0.0
        #: True if the host once offered more than now. Then more may be claimed than it offers.
        self.shrunk = False
        #: Handed tasks, as (run, task), whose followers may be handed here too, oldest first.
        self.leaders: deque[tuple[int, int]] = deque()
        #: Attempts that the core has given up and whose end the agent has not confirmed: (run, task, attempt).
        self.lingering: dict[tuple[int, int, int], Lingering] = {}
        #: By profile: the demands that this host can cover when it is idle. A cache of `Fleet.feasible`.
        self.feasible: dict[Profile, tuple[Demand, ...]] = {}
        #: By profile: its last pause here, which may be over.
        self.pauses: dict[Profile, Pause] = {}
        #: Shared tuples: the replicas of an object that only this host has, and of one that the controller has too.
        self.only = (index,)
        self.both = (CONTROLLER_INDEX, index)
        self.set_offer(offer)

    # -- what it offers

    def set_offer(self, offer: Offer) -> None:
        """Set what the host offers from now on."""
        self.offer = offer
        self.shrunk = self.shrunk or any(offer.amounts.get(n, 0) < parts for n, parts in self.ledger.total.items())
        self.ledger.resize(offer.amounts, offer.devices)
        self.slots = max(1, offer.amounts.get("cpu", PARTS) // PARTS)
        self.target_s = max(2 * self.rtt_s, MIN_TARGET_S)
        # The budget is slightly larger, so that a rounding error does not keep out durations whose exact sum fits.
        self.budget_s = self.target_s * self.slots * (1.0 + 1e-9)
        self.feasible.clear()

    @property
    def open(self) -> bool:
        """True if the host may get new work."""
        return self.alive and not self.suspected and not self.draining

    def suspect(self, suspected: bool) -> None:
        """Note that the host is silent, or that it is heard again."""
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
        """Keep what becomes free here for one ready queue; None ends that."""
        self.reserved = queue

    # -- tasks with its agent

    def add_running(self) -> None:
        """Count one more task, which has a claim."""
        self.handed += 1

    def add_ahead(self, backlog_s: float, entry: AheadTask | None) -> None:
        """Count one more task that is handed ahead. If its inputs exist, queue its entry."""
        self.handed += 1
        self.ahead_n += 1
        self.ahead_s += backlog_s
        if entry is not None:
            self.ahead.append(entry)

    def remove_attempt(self, claim: Claim | None, backlog_s: float) -> None:
        """Count one task less, also in the backlog if it had no claim."""
        self.handed -= 1
        if claim is None:
            self.shorten_backlog(backlog_s)

    def remove_attempts(self, count: int, ahead: int, backlog_s: float) -> None:
        """Count ``count`` tasks less; ``ahead`` of them had no claim."""
        self.handed -= count
        if ahead:
            self.ahead_n -= ahead
            self.ahead_s = self.ahead_s - backlog_s if self.ahead_n else 0.0

    def shorten_backlog(self, backlog_s: float) -> None:
        """Count one task less that waits for a claim."""
        self.ahead_n -= 1
        # An empty backlog is set to exactly 0, so that rounding errors do not add up.
        self.ahead_s = self.ahead_s - backlog_s if self.ahead_n else 0.0

    def wait_for_claim(self, run: int, t: int, attempt: int, now: float) -> None:
        """Queue a task that was handed ahead and has its inputs."""
        self.ahead.append(AheadTask(run, t, attempt, now))

    def remove_ahead(self, count: int) -> None:
        """Take out the first tasks that wait for a claim."""
        for _ in range(count):
            self.ahead.popleft()

    def keep_ahead(self, entries: Iterable[AheadTask]) -> None:
        """Set the tasks that wait for a claim to those that are not recalled."""
        entries = list(entries)
        self.ahead.clear()
        self.ahead.extend(entries)

    def add_leader(self, run: int, t: int) -> None:
        """Note that the followers of a handed task may be handed here too."""
        self.leaders.append((run, t))

    def next_leader(self) -> tuple[int, int]:
        """Take out the first of the leaders."""
        return self.leaders.popleft()

    def return_leaders(self, leaders: Sequence[tuple[int, int]]) -> None:
        """Put leaders back at the front, in order."""
        self.leaders.extendleft(reversed(leaders))

    def add_lingering(self, run: int, t: int, attempt: int, left: Lingering) -> None:
        """Note an attempt whose end the agent has not confirmed."""
        self.lingering[run, t, attempt] = left

    def confirm_end(self, run: int, t: int, attempt: int) -> Lingering | None:
        """Forget a lingering attempt, whose end is confirmed. Return what it held, or None if it is not known."""
        return self.lingering.pop((run, t, attempt), None)

    # -- room

    def backlog_for(self, expected_s: float) -> float:
        """Return the seconds that a task would add to the backlog, or -1 if the backlog has no room for it.

        A negative ``expected_s`` means that the duration is not known. Such a task counts as half of a slot's backlog,
        so that two fit per slot until the first results tell the duration.
        """
        cost = expected_s if expected_s >= 0.0 else self.target_s * 0.5
        if cost > self.target_s or self.ahead_n >= AHEAD_LIMIT or self.ahead_s + cost > self.budget_s:
            return -1.0
        return cost

    def is_too_long(self, expected_s: float) -> bool:
        """Return True if even an empty backlog has no room for a task of this expected duration."""
        return expected_s > self.target_s

    def load(self) -> float:
        """Return the number of tasks per slot."""
        return self.handed / self.slots

    # -- pauses

    def pause(self, profile: Profile, pause: Pause) -> None:
        """Have tasks of a profile avoid this host for a while."""
        self.pauses[profile] = pause

    def end_pause(self, profile: Profile) -> None:
        """End a pause before its time, and forget it."""
        del self.pauses[profile]

    def is_paused(self, profile: Profile, now: float) -> bool:
        """Return True if tasks of a profile avoid this host at this time."""
        pause = self.pauses.get(profile)
        return pause is not None and pause.until > now

    def forget(self, profile: Profile) -> None:
        """Forget a profile of a closed run."""
        self.feasible.pop(profile, None)
        self.pauses.pop(profile, None)

    def __repr__(self) -> str:
        return f"<host {self.name!r} #{self.index} handed={self.handed} ahead={self.ahead_n}>"
