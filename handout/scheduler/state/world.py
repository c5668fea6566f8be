"""All state of the core in one object, for the functions that make the core's decisions."""

from __future__ import annotations

from handout.scheduler.state.fleet import Fleet
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.jobs import STEPS, Jobs
from handout.scheduler.state.outbox import Outbox
from handout.scheduler.state.runs import ReadyQueue, Run
from handout.scheduler.state.timers import Timers
from handout.scheduler.state.waiters import Waiters
from handout.scheduler.state.warm_hosts import WarmHosts
from handout.slices import Slices

__all__ = ["World"]


class World:
    """The hosts, the runs, and the commands of the present call of the core. A world decides nothing itself.

    Args:
        steps: The number of steps of `Jobs` that a call of the core takes at most.
    """

    __slots__ = (
        "denied",
        "dirty",
        "ending",
        "fleet",
        "freed",
        "jobs",
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
        "warm",
    )

    def __init__(self, steps: int = STEPS) -> None:
        self.fleet = Fleet()
        self.runs: dict[int, Run] = {}
        self.out = Outbox(self.fleet.names)
        self.timers = Timers()
        self.jobs = Jobs(steps)
        self.now = 0.0
        #: Number of events that the core ignored because they came too late. A report about several tasks or objects
        #: counts once for each of them.
        self.stale = 0
        #: Hosts that have got room since tasks were last placed.
        self.dirty: set[HostRecord] = set()
        #: Hosts on which the core tries to place tasks once more in the present call. What kept tasks away from these
        #: hosts is over: a reservation, or an entry of ``denied`` (see below).
        self.freed: set[HostRecord] = set()
        #: Hosts that have leaders. A leader is a task that was handed to a host, and the tasks that take its result may
        #: be handed to this host too; see `HostRecord.leaders`.
        self.leading: set[HostRecord] = set()
        #: The queues whose first task found no room when tasks were last placed, as (priority of that task, queue).
        #: Always empty if no run has priorities and all runs have the same ``run_priority``.
        self.waiting: list[tuple[float, ReadyQueue]] = []
        #: For each host: the tasks that wait for this host, from the part of ``waiting`` that the core has gone through
        #: for this host so far.
        self.waiters: dict[HostRecord, Waiters] = {}
        #: Hosts that did not get a task ahead, because a more urgent task waits for these hosts. To hand a task ahead
        #: is to hand it over before the host has room for it. Key: (names of the amounts that the more urgent task
        #: needs, priority of the task that was not handed ahead).
        self.denied: dict[tuple[frozenset[str], float], set[HostRecord]] = {}
        #: Hosts that the tasks of some function avoid for a while; see `Pause`.
        self.pausing: set[HostRecord] = set()
        #: Runs that may be over.
        self.ending: set[Run] = set()
        #: True if some task may have become impossible to place.
        self.recheck = False
        #: The time until which the core waits for a host's lowered capabilities to rise again.
        self.shortage_until = float("-inf")
        #: Number of the last request to a custom allocator.
        self.requests = 0
        #: Maps a queue whose first task has waited for a long time to the host that is kept free for this queue.
        self.reservations: dict[ReadyQueue, HostRecord] = {}
        #: The queue for which the shared amounts are kept free, or None.
        self.shared_reservation: ReadyQueue | None = None
        #: The warm values that hosts have.
        self.warm = WarmHosts()
        #: Expected durations by function name, from runs that are over.
        self.remembered: dict[str, float] = {}

    def work_on(self, run: Run, work: Slices[None]) -> None:
        """Do work of a run in this call of the core and the next ones. Then the run may be over.

        Args:
            run: The run.
            work: Yields after each step of `Jobs`.
        """
        self.jobs.begin(run.number, self._until_done(run, work))

    def _until_done(self, run: Run, work: Slices[None]) -> Slices[None]:
        yield from work
        self.ending.add(run)

    def may_place(self, run: Run) -> bool:
        """Return True if the core may place tasks of a run."""
        return not (run.over or run.aborting or run.pauses)

    def settle(self) -> None:
        """Do all unfinished work of the runs that go on.

        Call this before an event about a host or about replicas is handled. Otherwise a task that is about to be
        skipped could have its inputs made again, and a replica that is about to be noted could be missed.
        """
        for run in self.runs.values():
            if not run.aborting:
                self.jobs.finish(run.number)

    def note_change(self) -> None:
        """Note that custom allocators may answer differently now."""
        for run in self.runs.values():
            run.requests.note_change()
