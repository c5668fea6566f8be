"""All state of the core in one object, for the functions that make the core's decisions."""

from __future__ import annotations

from handout.scheduler.state.fleet import Fleet
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.outbox import Outbox
from handout.scheduler.state.runs import ReadyQueue, Run
from handout.scheduler.state.timers import Timers
from handout.scheduler.state.waiters import Waiters

__all__ = ["World"]


class World:
    """The hosts, the runs, and the commands of the present call of the core. A world decides nothing itself."""

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
        #: Number of events that the core ignored because they came too late. In an event about several tasks or
        #: objects, each task or object counts.
        self.stale = 0
        #: Hosts that have got room since tasks were last placed.
        self.dirty: set[HostRecord] = set()
        #: Hosts on which the core tries to place tasks once more in the present call, because a reservation or an entry
        #: of ``denied`` has ended.
        self.freed: set[HostRecord] = set()
        #: Hosts that have leaders; see `HostRecord.leaders`.
        self.leading: set[HostRecord] = set()
        #: The queues whose head found no room when tasks were last placed, each with the priority of its head. Empty if
        #: all tasks have the same priority.
        self.waiting: list[tuple[float, ReadyQueue]] = []
        #: By host: the tasks in ``waiting`` that wait for this host, as far as the core has read them.
        self.waiters: dict[HostRecord, Waiters] = {}
        #: Hosts to which a task was not handed ahead, because a more urgent task waits. Key: (names of the amounts that
        #: the more urgent task needs, priority of the task that was not handed ahead).
        self.denied: dict[tuple[frozenset[str], float], set[HostRecord]] = {}
        #: Hosts that are paused for some function.
        self.pausing: set[HostRecord] = set()
        #: Runs that may be over.
        self.ending: set[Run] = set()
        #: True if some task may have become impossible to place.
        self.recheck = False
        #: Until this time, the core waits for capabilities that dropped to come back.
        self.shortage_until = float("-inf")
        #: Number of the last request to a custom allocator.
        self.requests = 0
        #: By queue that was passed over for long: the host that is kept free for it.
        self.reservations: dict[ReadyQueue, HostRecord] = {}
        #: The queue for which the shared amounts are kept free, or None.
        self.shared_reservation: ReadyQueue | None = None
        #: Expected durations by function name, from closed runs.
        self.remembered: dict[str, float] = {}

    def note_change(self) -> None:
        """Note that custom allocators may answer differently now."""
        for run in self.runs.values():
            run.requests.note_change()
