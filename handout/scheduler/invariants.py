"""The rules that the core's state must follow after every call of the core.

Only tests and the simulator check these rules. The checks count everything anew, after every event of thousands of
simulations, so the loops over tasks and objects are written for speed.
"""

from __future__ import annotations

from collections.abc import Iterator

from handout.errors import InternalError
from handout.protocol.resource_ledger import Claim
from handout.scheduler.state.hosts import CONTROLLER_ONLY, HostRecord
from handout.scheduler.state.object_table import KEEP, OUTPUT
from handout.scheduler.state.runs import Run
from handout.scheduler.state.world import World
from handout.scheduler.task_states import State

__all__ = ["broken", "check", "stuck"]

# The states are plain numbers here, because looking up an attribute of an enum takes too long in these loops.
_WAITING, _READY, _HANDED, _DONE = (int(s) for s in (State.WAITING, State.READY, State.HANDED, State.DONE))


def check(world: World) -> None:
    """Check all rules.

    Raises:
        InternalError: Some rule is broken. The message names each broken rule.
    """
    if problems := list(broken(world)):
        raise InternalError("the core broke its own rules: " + "; ".join(problems), remedy="Please report it.")


def broken(world: World) -> Iterator[str]:
    """Yield a clause for each rule that is broken.

    If a clause has two numbers, the first was counted anew, and the second is what the core's state says.
    """
    for run in world.runs.values():
        # While the core notes the results of earlier runs, it has noted the end of some tasks, but not their objects.
        objects = () if run.noting else (*_columns(run), *_objects(world, run))
        for problem in (*objects, *_tasks(world, run), *_whole(world, run)):
            yield f"run {run.number}: {problem}"
    for host, problem in _hosts(world):
        yield f"host {host.name!r}: {problem}"
    yield from _shared(world)
    lost = [index for index in world.warm.hosts() if world.fleet.at(index) is None]
    if lost:
        yield f"lost hosts with the indices {lost} are said to have warm values"
    if world.dirty or world.freed or world.ending:
        yield "some hosts or runs are still marked as waiting for a decision"


def stuck(world: World) -> list[int]:
    """Return the numbers of the runs that hang: they are not over, and the core waits for nothing that may end them."""
    fleet = world.fleet
    if (
        world.timers.next_s is not None
        or world.jobs
        or fleet.expected
        or not all(h.open or h.released for h in fleet.by_name.values())
    ):
        return []
    if any(host.handed or host.lingering for host in fleet.by_name.values()):
        return []
    return [
        run.number
        for run in world.runs.values()
        if not (run.over or run.objects.copying or run.requests.number >= 0)
        and not (run.is_lasting and not run.unended and not run.objects.awaited)
    ]


def _columns(run: Run) -> Iterator[str]:
    replicas, inputs, state = run.objects.replicas, run.spec.inputs, run.state
    uses = [0] * len(replicas)
    for t, ins in enumerate(inputs):
        if state[t] >= _DONE:
            continue
        missing = 0
        for o in ins:
            uses[o] += 1
            if not replicas[o]:
                missing += 1
        if missing != run.missing[t]:
            yield f"task {t} lacks {missing} inputs, but the state says {run.missing[t]}"
    if uses != run.objects.uses:
        yield f"the unfinished users per object are {uses}, but the state says {run.objects.uses}"


def _tasks(world: World, run: Run) -> Iterator[str]:
    claims, reported = run.claims, run.reported
    for t, state in enumerate(run.state):
        if state == _HANDED:
            yield from _handed(world, run, t)
            continue
        if claims[t] is not None:
            yield f"task {t} is {State(state).name}, but has a claim"
        if state >= _DONE:
            if not (reported[t] or (run.spec.is_open and run.objects.awaits(t))):
                yield f"task {t} is {State(state).name}, but its end was not reported"
        elif state == _READY:
            queue = run.queue_of(t)
            place = t if run.order is None else run.order[t]
            if run.missing[t] or run.queue[t] is not queue or place not in queue.heap:
                yield f"task {t} is ready, but lacks {run.missing[t]} inputs or is not in its queue"
            if run.queues.get(queue.key) is not queue:
                yield f"task {t} is in a queue that was forgotten"
        elif state == _WAITING:
            if not run.missing[t]:
                yield f"task {t} is WAITING, but lacks no input"
            for o in () if run.number in world.jobs else run.spec.inputs[t]:
                if not run.objects.replicas[o] and not _can_come(run, o):
                    yield f"task {t} waits for object {o}, which no task makes"
    for t in (*run.shared, *run.recalled, *run.second_attempts):
        if run.state[t] != _HANDED:
            yield f"task {t} is {State(run.state[t]).name}, but has shared amounts, a recall or a second attempt"


def _handed(world: World, run: Run, t: int) -> Iterator[str]:
    index = run.host[t]
    other = run.second_attempts.get(t)
    if other is not None:
        if world.fleet.at(other.host) is None or other.host == index or other.attempt == run.attempt[t]:
            yield (
                f"task {t} has {other} beside attempt {run.attempt[t]} on host {index}, but both have the same host or "
                "number, or the second host is lost"
            )
        if not run.spec.profiles[run.spec.profile[t]].idempotent:
            yield f"task {t} must not run twice, but has a second attempt"
    if world.fleet.at(index) is None:
        yield f"task {t} is handed to the lost host {world.fleet.names[index]!r}"
    for o in run.spec.inputs[t]:
        home, object_ = run.borrowed.get(o, (run, o))
        if index in run.objects.replicas[o] or (object_, index) in home.objects.copying:
            continue
        if run.objects.replicas[o]:
            yield f"task {t} waits on {world.fleet.names[index]!r} for object {o}, which is not being copied"
        elif not _can_come(run, o) and t not in run.cancelling and not run.aborting and run.number not in world.jobs:
            yield f"task {t} waits on {world.fleet.names[index]!r} for object {o}, which no task makes"


def _can_come(run: Run, o: int) -> bool:
    """Return True if some task may still make an object, or make it again."""
    home, object_ = run.borrowed.get(o, (run, o))
    producer = home.spec.producer[object_]
    return producer >= 0 and not home.ended(producer)


def _objects(world: World, run: Run) -> Iterator[str]:
    at, uses, flags, producer = world.fleet.at, run.objects.uses, run.objects.flags, run.spec.producer
    for o, replicas in enumerate(run.objects.replicas):
        if replicas:
            before = -1
            for i in replicas:
                if i <= before or (i and at(i) is None):
                    yield f"object {o} has replicas on {replicas}, which are unsorted or on a lost host"
                before = i
            if not uses[o] and not flags[o] and (producer[o] >= 0 or replicas != CONTROLLER_ONLY):
                yield f"object {o} has replicas on {replicas}, but is not needed"
        if o in run.borrowed:
            if run.spec.is_open and all(run.reported[c] for c in run.objects.consumers[o]):
                yield f"object {o} is borrowed, but the tasks that take it have ended"
            home, object_ = run.borrowed[o]
            if replicas != (there := home.objects.replicas[object_]):
                yield f"object {o} has replicas on {replicas}, but on {there} in run {home.number}, which keeps it"
        elif flags[o] & KEEP and not replicas and not run.over and not run.aborting and producer[o] >= 0:
            if run.reported[producer[o]] and run.state[producer[o]] == State.DONE:
                yield f"object {o} must be kept, but has no replica"
    for (o, target), source in run.objects.copying.items():
        if (target and world.fleet.at(target) is None) or (source and world.fleet.at(source) is None):
            yield f"object {o} is being copied from or to a lost host"
        if target in run.objects.replicas[o]:
            yield f"object {o} is being copied to a host that has a replica of it"


def _whole(world: World, run: Run) -> Iterator[str]:
    state, handed = run.state, run.state.count(_HANDED)
    unended = handed + state.count(_WAITING) + state.count(_READY) + state.count(State.BACKOFF)
    if unended != run.unended:
        yield f"{unended} tasks have not ended, but the state says {run.unended}"
    if handed != run.active:
        yield f"{handed} tasks are handed, but the state says {run.active}"
    awaited, producer, replicas = 0, run.spec.producer, run.objects.replicas
    for o, flags in enumerate(run.objects.flags):
        if flags & OUTPUT and producer[o] >= 0 and 0 not in replicas[o]:
            awaited += 1
    if awaited != run.objects.awaited:
        yield f"{awaited} outputs are awaited, but the state says {run.objects.awaited}"
    if run.over and unended:
        yield "the run is over, but some of its tasks have not ended"
    goes_on = run.is_lasting and not run.aborting
    if run.number not in world.jobs and not (run.over or unended or goes_on) and (not awaited or run.aborting):
        yield "the run is not over, but waits for no task and no output"
    limit = run.spec.max_concurrency
    if limit is not None and run.active > limit:
        found = sum(1 for t, attempt in run.found.items() if state[t] == _HANDED and run.attempt[t] == attempt)
        if run.active - found > limit:
            yield f"{run.active} tasks are handed, but max_concurrency is {limit}"


class _Sum:
    """The tasks and claims on one host, or the claims on the shared amounts, counted anew."""

    __slots__ = ("ahead", "claims", "handed", "used")

    def __init__(self) -> None:
        self.handed = self.ahead = self.claims = 0
        self.used: dict[str, int] = {}

    def task(self, claim: Claim | None) -> None:
        self.handed += 1
        self.ahead += claim is None
        self.claim(claim)

    def claim(self, claim: Claim | None) -> None:
        if claim is not None:
            self.claims += 1
            for name, parts in claim.need.items():
                if parts:
                    self.used[name] = self.used.get(name, 0) + parts


def _hosts(world: World) -> Iterator[tuple[HostRecord, str]]:
    sums = {host.index: _Sum() for host in world.fleet.by_name.values()}
    for run in world.runs.values():
        for t, state in enumerate(run.state):
            if state == _HANDED and (counted := sums.get(run.host[t])) is not None:
                counted.task(run.claims[t])
        for other in run.second_attempts.values():
            if other.claim is not None and (counted := sums.get(other.host)) is not None:
                counted.task(other.claim)
    for host in world.fleet.by_name.values():
        counted = sums[host.index]
        for left in host.lingering.values():
            counted.claim(left.claim)
        for problem in _host(host, counted):
            yield host, problem


def _host(host: HostRecord, counted: _Sum) -> Iterator[str]:
    handed, ahead = counted.handed, counted.ahead
    if (handed, ahead) != (host.handed, host.ahead_n):
        yield f"{handed} tasks are handed, {ahead} of them ahead, but the state says {host.handed} and {host.ahead_n}"
    if counted.claims != host.ledger.claims:
        yield f"{counted.claims} claims are held, but the ledger says {host.ledger.claims}"
    used = {name: parts for name, parts in counted.used.items() if name not in ("gpu", "gpu_memory")}
    if used != host.ledger.used:
        yield f"{used} is claimed, but the ledger says {host.ledger.used}"
    if not host.shrunk and min(host.ledger.free.values(), default=0) < 0:
        yield f"more is claimed than the host offers: {dict(host.ledger.free)} is free"
    if host.ahead_s < -1e-6 or (not ahead and host.ahead_s):
        yield f"the host's backlog is {host.ahead_s} s for {ahead} tasks"


def _shared(world: World) -> Iterator[str]:
    counted = _Sum()
    for run in world.runs.values():
        for claim in run.shared.values():
            counted.claim(claim)
        for other in run.second_attempts.values():
            counted.claim(other.shared)
    for host in world.fleet.by_name.values():
        for left in host.lingering.values():
            counted.claim(left.shared)
    if counted.used != world.fleet.shared.used:
        yield f"{counted.used} of the shared amounts is claimed, but the ledger says {world.fleet.shared.used}"
