"""All state of the core in one place, for the functions that make its decisions."""

from __future__ import annotations

from handout.scheduler.state.fleet import Fleet
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.outbox import Outbox
from handout.scheduler.state.runs import ReadyQueue, Run
from handout.scheduler.state.timers import Timers
from handout.scheduler.state.waiters import Waiters

__all__ = ["World"]


class World:
    """The hosts, the runs, and the commands of the present call. A world decides nothing itself."""

    __slots__ = (
        "denied",
        "dirty",
        "ending",
        "fleet",
        "freed",
        "leading",
        "now",
        "out",
        "pausing",
        "recheck",
        "remembered",
        "requests",
        "reservations",
        "runs",
        "shared_reservation",
        "shortage_until",
        "stale",
        "timers",
        "waiters",
        "waiting",
    )

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.runs: dict[int, Run] = {}
        self.out = Outbox(self.fleet.names)
        self.timers = Timers()
        self.now = 0.0
        #: Number of events, or of tasks and objects in them, that were ignored because they came too late to count.
        self.stale = 0
        #: Hosts that have got room since tasks were last placed.
        self.dirty: set[HostRecord] = set()
        #: Hosts whose reservation was given up while tasks were being placed.
        self.freed: set[HostRecord] = set()
        #: Hosts with leaders: followers of handed tasks may be handed to them.
        self.leading: set[HostRecord] = set()
        #: If priorities differ: the queues whose head found no room when tasks were last placed, with its priority.
        self.waiting: list[tuple[float, ReadyQueue]] = []
        #: By host: the tasks of ``waiting`` that wait for it, as far as they have been read.
        self.waiters: dict[HostRecord, Waiters] = {}
        #: Hosts that tasks were not handed ahead to, because a more urgent task waits. By the names of what the more
        #: urgent task needs, and by the priority of the less urgent ones.
        self.denied: dict[tuple[frozenset[str], float], set[HostRecord]] = {}
        #: Hosts that are paused for some function.
        self.pausing: set[HostRecord] = set()
        #: Runs that may be over.
        self.ending: set[Run] = set()
        #: True if some task may have become impossible to place.
        self.recheck = False
        #: The time until which the core waits for capabilities that dropped to come back.
        self.shortage_until = float("-inf")
        #: Number of the last request to a custom allocator.
        self.requests = 0
        #: Queues that were passed over for long, and the host that is kept free for each.
        self.reservations: dict[ReadyQueue, HostRecord] = {}
        #: The queue that shared amounts are kept free for, or None.
        self.shared_reservation: ReadyQueue | None = None
        #: Expected durations by function name, from closed runs.
        self.remembered: dict[str, float] = {}

    def note_change(self) -> None:
        """Note that custom allocators may answer differently now."""
        for run in self.runs.values():
            run.requests.note_change()
