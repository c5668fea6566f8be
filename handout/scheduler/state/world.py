"""All state of the core in one place, for the functions that make up its decisions."""

from __future__ import annotations

from handout.scheduler.state.hosts import Fleet, HostRecord
from handout.scheduler.state.outbox import Outbox
from handout.scheduler.state.runs import ReadyQueue, Run
from handout.scheduler.state.timers import Timers
from handout.scheduler.state.waiters import Waiters

__all__ = ["World"]


class World:
    """Hosts, runs, and what the present call has gathered. Decides nothing itself."""

    __slots__ = (
        "awaited",
        "denied",
        "dirty",
        "ending",
        "fleet",
        "freed",
        "now",
        "out",
        "pausing",
        "recheck",
        "remembered",
        "requests",
        "reservations",
        "runs",
        "shared_lane",
        "short_until",
        "stale",
        "timers",
        "tipped",
        "waiting",
    )

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.runs: dict[int, Run] = {}
        self.out = Outbox(self.fleet.names)
        self.timers = Timers()
        self.now = 0.0
        #: Events that were ignored because the world had moved on.
        self.stale = 0
        #: Hosts that have got room since tasks were last placed.
        self.dirty: set[HostRecord] = set()
        #: Hosts whose reservation was given up while tasks were being placed.
        self.freed: set[HostRecord] = set()
        #: Hosts where followers of handed tasks may be handed too.
        self.tipped: set[HostRecord] = set()
        #: Where priorities differ: lanes whose head found no room when tasks were last placed, after its priority.
        self.waiting: list[tuple[float, ReadyQueue]] = []
        #: Hosts that somebody has asked about since: who of these waits for them.
        self.awaited: dict[HostRecord, Waiters] = {}
        #: Hosts that tasks were not handed ahead to, by what somebody more urgent needs and by the tasks' priority.
        self.denied: dict[tuple[frozenset[str], float], set[HostRecord]] = {}
        #: Hosts that are paused for some function.
        self.pausing: set[HostRecord] = set()
        #: Runs that may be over.
        self.ending: set[Run] = set()
        #: Whether some task may have become impossible to place.
        self.recheck = False
        #: Until then capabilities that dropped may come back.
        self.short_until = float("-inf")
        #: Number of the last request to a custom allocator.
        self.requests = 0
        #: Lanes that were passed over for long, and the host that is kept free for each.
        self.reservations: dict[ReadyQueue, HostRecord] = {}
        #: The lane that shared amounts are kept free for, or None.
        self.shared_lane: ReadyQueue | None = None
        #: Expected durations by function name, from closed runs.
        self.remembered: dict[str, float] = {}
