"""Place ready tasks: take them from the ready queues in order, and hand each to the best host that has room for it.

A ready queue holds ready tasks of one run that may go to the same hosts. A claim sets amounts aside for one attempt:
amounts of a host, or amounts that all hosts share. A host is full for a task if it has no room for a claim for this
task. A task may be handed ahead to a full host, which means that it waits there without a claim. The backlog of a host
is the expected seconds of all tasks that wait there for a claim. A host has a slot for each of its CPU cores.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import NamedTuple

from handout.protocol.resource_ledger import Claim
from handout.scheduler.handlers.attempts import hand_over, promote
from handout.scheduler.placing.priority_guard import must_wait, note_waiting, reset_waiting, retry_denied
from handout.scheduler.placing.reservations import give_up_reservation, may_use, note_blocked, note_placed
from handout.scheduler.placing.strategies import STRATEGIES, Strategy
from handout.scheduler.state.hosts import Demand, HostRecord
from handout.scheduler.state.runs import ReadyQueue, Run
from handout.scheduler.state.world import World

__all__ = [
    "able_hosts",
    "ahead_backlog_s",
    "any_ready",
    "claim_on",
    "eligible_hosts",
    "is_for_allocator",
    "is_paused",
    "place",
    "transfer_s",
]

#: At most this many tasks of one queue are placed before another queue may get its turn.
TURN = 16
#: Tasks that take none of a host's amounts always fit, so a host that has this many tasks gets no further task of this
#: kind.
MAX_FREE_TASKS = 4096
#: Once a task that was handed ahead has waited this many seconds for a claim, newer tasks get no claim on its host.
PATIENCE_S = 1.0
#: The bandwidth of every link, in bytes per second. It is assumed, because none is measured.
BYTES_PER_S = 2e8
#: The inputs of a task are light if they have at most this many bytes together, and heavy otherwise. Copying light
#: inputs takes no noticeable time.
LIGHT_BYTES = 65536
#: An object on more hosts than this hardly says where a task should go. If the inputs of a task are light, such an
#: object does not count in the choice of the task's host. If the inputs are heavy, only the first hosts that have the
#: object are considered.
MAX_HOLDERS = 8


class Standing(NamedTuple):
    """The key by which queues are sorted. The queue with the lowest key is served first."""

    #: The priority of the queue's first task, negated.
    priority: float
    #: How many tasks of the queue's run are handed over. So at the same priority, the run with the fewest of them is
    #: first.
    active: int
    #: The place of the queue's first task in the run's order.
    place: int


class FreeHost(NamedTuple):
    """A host that may have room for a claim. The lowest one is tried first."""

    #: The rank by the strategy of the run.
    rank: float
    #: When a warm value of the host was used last; less than any time if it has none. A task may end warm values of its
    #: host, and the core does not know what they hold there.
    used: float
    #: The index of the host.
    place: int
    host: HostRecord


class Delay(NamedTuple):
    """How long a task would wait on a host, and what decides between hosts on which it would wait equally long."""

    #: Seconds until the task could begin. The time to copy light inputs is left out.
    wait_s: float
    rank: float
    #: When a warm value of the host was used last, if a value must be made there for the task.
    used: float
    #: Seconds that it takes to copy all inputs.
    copying_s: float
    #: The index of the host.
    place: int


#: The host that a task goes to, the chosen variant of the task's cost, and the task's share of the host. The share is a
#: claim, or, if the task is handed ahead, the seconds that it adds to the host's backlog.
_Grant = tuple[HostRecord, Demand, Claim | float]


def place(world: World) -> None:
    """Hand over the ready tasks that fit. If hosts were freed in the meantime, begin again.

    A host is freed if it is no longer reserved for a queue (see `reservations`), or no longer denied to less urgent
    tasks (see `priority_guard`).
    """
    while True:
        reset_waiting(world)
        for host in world.dirty:
            if host.ahead:
                promote(world, host)
        settled: set[ReadyQueue] = set()
        while queues := _queues_to_serve(world, settled):
            _serve(world, queues, settled)
        retry_denied(world)
        # Queues that were served before may be able to use the freed hosts now.
        world.dirty, world.freed = world.freed, set()
        if not world.dirty:
            return


def _queues_to_serve(world: World, settled: set[ReadyQueue]) -> list[ReadyQueue]:
    """Return the queues with tasks that the core may place, without the queues in ``settled``.

    A queue is settled once it was served and no further task of it fits.
    """
    found = []
    for run in world.runs.values():
        if not world.may_place(run):
            continue
        custom = run.spec.allocator is None
        for key, queue in list(run.queues.items()):
            if not queue.heap or queue in settled:
                continue
            if queue.head() < 0:
                run.forget_queue(key)
            elif not (custom and is_for_allocator(queue)):
                found.append(queue)
    return found


def is_for_allocator(queue: ReadyQueue) -> bool:
    """Return True if a custom allocator may choose the host of a queue's tasks.

    The allocator may not choose if the host is already fixed, either by an option of
    the tasks or by their group.
    """
    return not queue.key.pin and queue.run.spec.profiles[queue.key.profile].host is None


def _serve(world: World, queues: list[ReadyQueue], settled: set[ReadyQueue]) -> None:
    """Serve queues in the order of their `Standing`. In one turn, a queue places up to `TURN` tasks."""
    alone = len(queues) == 1
    ranked = _has_priorities(world)
    turns = [(_standing(queue), number, Candidates(world, queue)) for number, queue in enumerate(queues)]
    heapify(turns)
    while turns:
        _, number, candidates = heappop(turns)
        queue = candidates.queue
        floor = -turns[0][0].priority if ranked and turns else -inf
        more = _place_some(world, candidates, 1 << 60 if alone else TURN, floor)
        t = queue.head()
        if t < 0:
            continue  # the queue is empty but not settled: tasks may join it when their group gets its host
        if more:
            heappush(turns, (_standing(queue), number, candidates))
        else:
            settled.add(queue)
            if ranked and queue.blocked:
                note_waiting(world, queue, queue.run.priority_of(t))


def _has_priorities(world: World) -> bool:
    """Return True if some tasks may be more urgent than others."""
    specs = [run.spec for run in world.runs.values()]
    return any(spec.priority is not None or spec.run_priority != specs[0].run_priority for spec in specs)


def _standing(queue: ReadyQueue) -> Standing:
    run = queue.run
    place = queue.heap[0]
    return Standing(-run.priority_of(place if run.task_at is None else run.task_at[place]), run.active, place)


class Candidates:
    """The hosts that may get the tasks of one queue in one call of `_serve`. Hosts with room are tried first."""

    __slots__ = ("ahead_allowed", "demands", "free", "full", "queue", "short", "strategy")

    def __init__(self, world: World, queue: ReadyQueue) -> None:
        self.queue = queue
        run = queue.run
        self.strategy: Strategy = STRATEGIES.get(run.spec.allocator or "locality", STRATEGIES["locality"])
        #: By host: the variants of the tasks' cost that the host can cover.
        self.demands = eligible_hosts(world, queue)
        if queue.blocked:
            self.demands = {host: self.demands[host] for host in world.dirty if host in self.demands}
        rank = self.strategy.rank
        #: A heap of the hosts that may have room for a claim.
        self.free = [FreeHost(rank(host), world.warm.last_use(host.index), host.index, host) for host in self.demands]
        heapify(self.free)
        #: A heap of the full hosts to which tasks may be handed ahead, least backlog per slot first.
        self.full: list[tuple[float, int, HostRecord]] = []
        self.ahead_allowed = run.spec.profiles[queue.key.profile].idempotent
        #: True if some claim was not granted because not enough of the shared amounts was free, or because the shared
        #: amounts are kept free for another queue.
        self.short = False


def able_hosts(world: World, queue: ReadyQueue) -> dict[HostRecord, tuple[Demand, ...]]:
    """Return the hosts that can run a queue's tasks, each with the variants of the cost that the host can cover."""
    fleet, key, profiles = world.fleet, queue.key, queue.run.spec.profiles
    hosts = {}
    for host in fleet.by_name.values():
        if not host.open or (key.pin and host.index != key.pin):
            continue
        demands = fleet.feasible(host, profiles[key.profile])
        if demands and all(fleet.feasible(host, profiles[p]) for p in key.group_profiles):
            hosts[host] = demands
    return hosts


def eligible_hosts(world: World, queue: ReadyQueue) -> dict[HostRecord, tuple[Demand, ...]]:
    """Return the hosts that may get a queue's tasks now, each with the variants of the cost that the host can cover.

    A host is paused for tasks if it had no room for the data of such tasks. First, paused hosts are left out, unless
    all are paused. Then hosts on which each attempt would fail are left out, and then all hosts on which the tasks have
    failed, unless no host would remain. Because of this order, a failed task goes back to the same host rather than to
    a paused host, where it would probably fail again.
    """
    fleet, key = world.fleet, queue.key
    if queue.version == fleet.version:
        return queue.hosts
    hosts = able_hosts(world, queue)
    if world.pausing:
        hosts = {host: demands for host, demands in hosts.items() if not is_paused(world, queue, host)} or hosts
    for last in (key.unfit, key.avoid) if key.avoid else ():
        hosts = {host: demands for host, demands in hosts.items() if host.index not in last} or hosts
    queue.set_hosts(hosts, fleet.version)
    reserved = world.reservations.get(queue)
    if reserved is not None and reserved not in hosts:
        give_up_reservation(world, queue)  # the queue cannot use the host that is reserved for it
    return hosts


def is_paused(world: World, queue: ReadyQueue, host: HostRecord) -> bool:
    """Return True if a host is paused for a queue's tasks, or for tasks of their group, which must run on one host."""
    if host not in world.pausing:
        return False
    key, profiles = queue.key, queue.run.spec.profiles
    return any(host.is_paused(profiles[p], world.now) for p in (key.profile, *key.group_profiles))


def _place_some(world: World, candidates: Candidates, turn: int, floor: float) -> bool:
    """Place up to ``turn`` tasks of a queue. Return True if more may fit.

    Stop at the first task with a lower priority than ``floor``.
    """
    queue, run = candidates.queue, candidates.queue.run
    limit = run.spec.max_concurrency
    weighs = candidates.strategy.weighs_bytes and len(candidates.demands) > 1
    inputs, fn, seconds = run.spec.inputs, run.spec.fn, run.durations.expected_s
    placed = False
    while turn and (t := queue.head()) >= 0:
        if floor > -inf and run.priority_of(t) < floor:
            turn = 0
            break
        if limit is not None and run.active >= limit:
            # The run has reached its limit. As long as this is so, the core does not note for this queue which hosts
            # get room, so all hosts must be tried the next time.
            queue.block(False)
            give_up_reservation(world, queue)
            break
        expected_s = seconds[fn[t]]
        grant = None
        if weighs and inputs[t]:
            is_heavy = _is_heavy(run, t) or bool(run.spec.warm and run.warm_values(t))
            grant = (_nearest if is_heavy else _beside_inputs)(world, candidates, t, expected_s)
        if grant is None:
            grant = _any_free(world, candidates, t) if candidates.free else None
            grant = grant or _least_backlog(world, candidates, t, expected_s)
        if grant is None:
            queue.block(not candidates.short)
            note_blocked(world, queue, candidates.short, placed)
            return False
        queue.remove_head(t)
        hand_over(world, run, t, *grant)
        placed = True
        turn -= 1
    if placed:
        note_placed(world, queue)
    return turn == 0


def _any_free(world: World, candidates: Candidates, t: int) -> _Grant | None:
    """Return a grant on the first host, in the order of ranks, that has room for a claim. None: no host has room."""
    free, rank = candidates.free, candidates.strategy.rank
    while free:
        stood, used, index, host = free[0]
        stands = rank(host)
        if stands != stood:
            heapreplace(free, FreeHost(stands, used, index, host))
            continue
        claimed = claim_on(world, candidates.queue, host, candidates.demands[host], t, candidates)
        if claimed is not None:
            return host, *claimed
        heappop(free)
        if candidates.ahead_allowed:
            heappush(candidates.full, (host.ahead_s / host.slots, index, host))
    return None


def _least_backlog(world: World, candidates: Candidates, t: int, expected_s: float) -> _Grant | None:
    """Return a grant on the first full host, in the order of backlogs per slot, to which a task may be handed ahead.

    Return None if there is no such host.
    """
    full = candidates.full
    while full:
        stood, index, host = full[0]
        stands = host.ahead_s / host.slots
        if stands != stood:
            heapreplace(full, (stands, index, host))
            continue
        demand = candidates.demands[host][0]
        backlog_s = ahead_backlog_s(host, demand, expected_s)
        if backlog_s >= 0.0 and not (world.waiting and _must_wait(world, candidates, t, host, expected_s)):
            return host, demand, backlog_s
        heappop(full)
    return None


def claim_on(
    world: World,
    queue: ReadyQueue,
    host: HostRecord,
    demands: tuple[Demand, ...],
    t: int,
    candidates: Candidates | None = None,
) -> tuple[Demand, Claim] | None:
    """Claim the amounts of a host and the shared amounts that the first fitting variant of a cost takes.

    Returns:
        The variant and the claim on the host, or None if no variant fits.
    """
    if host.reserved is not None and not may_use(world, queue, host):
        return None
    if host.ahead and world.now - host.ahead[0].since_s > PATIENCE_S:
        return None
    for demand in demands:
        if not demand.host and host.handed >= MAX_FREE_TASKS:
            continue
        claim = host.ledger.claim(demand.host)
        if claim is None:
            continue
        if not demand.shared:
            return demand, claim
        shared = None
        if world.shared_reservation is None or world.shared_reservation is queue:
            shared = world.fleet.shared.claim(demand.shared)
        if shared is not None:
            queue.run.grant_shared(t, shared)
            return demand, claim
        host.ledger.release(claim)
        if candidates is not None:
            candidates.short = True
    return None


def ahead_backlog_s(host: HostRecord, demand: Demand, expected_s: float) -> float:
    """Return the seconds that a task would add to a host's backlog; negative if it may not be handed ahead there."""
    if demand.shared or demand.devices or host.reserved is not None:
        return -1.0
    return host.backlog_for(expected_s)


def _ahead_backlog_s(world: World, candidates: Candidates, t: int, host: HostRecord, expected_s: float) -> float:
    """Return the same as `ahead_backlog_s`, or a negative number if the task must wait for a more urgent task."""
    backlog_s = ahead_backlog_s(host, candidates.demands[host][0], expected_s)
    if backlog_s >= 0.0 and world.waiting and _must_wait(world, candidates, t, host, expected_s):
        return -1.0
    return backlog_s


def _must_wait(world: World, candidates: Candidates, t: int, host: HostRecord, expected_s: float) -> bool:
    return must_wait(world, host, candidates.demands[host][0], candidates.queue.run.priority_of(t), expected_s)


def _is_heavy(run: Run, t: int) -> bool:
    """Return True if it would take noticeable time to copy a task's inputs to another host."""
    nbytes, total = run.objects.nbytes, 0
    for o in run.spec.inputs[t]:
        total += nbytes[o]
    return total > LIGHT_BYTES


def _beside_inputs(world: World, candidates: Candidates, t: int, expected_s: float) -> _Grant | None:
    """Choose the host that has the greatest number of a task's light inputs, unless another host can begin sooner.

    Returns:
        A grant, or None if the other hosts must be tried.
    """
    run = candidates.queue.run
    counts: dict[int, int] = {}
    for o in run.spec.inputs[t]:
        replicas = run.objects.replicas[o]
        if len(replicas) <= MAX_HOLDERS:
            for index in replicas:
                counts[index] = counts.get(index, 0) + 1
    counts.pop(0, None)
    host = world.fleet.at(max(counts, key=counts.__getitem__)) if counts else None
    demands = None if host is None else candidates.demands.get(host)
    if host is None or demands is None:
        return None
    claimed = claim_on(world, candidates.queue, host, demands, t, candidates)
    if claimed is not None:
        return host, *claimed
    elsewhere = _any_free(world, candidates, t)
    if elsewhere is not None or not candidates.ahead_allowed:
        return elsewhere
    if candidates.full and host.ahead_s / host.slots > candidates.full[0][0] + host.target_s * 0.5:
        return None
    backlog_s = _ahead_backlog_s(world, candidates, t, host, expected_s)
    return None if backlog_s < 0.0 else (host, demands[0], backlog_s)


def _nearest(world: World, candidates: Candidates, t: int, expected_s: float) -> _Grant | None:
    """Choose the host where a task could begin soonest, judged by what to copy, what to make warm and the backlog.

    A host that has to make a value may end others for it, and making those again takes far longer than copying light
    inputs. So among equal hosts, the one whose values were used least recently is chosen, even without light inputs.

    Returns:
        A grant, or None if the other hosts must be tried.
    """
    run = candidates.queue.run
    values = run.warm_values(t) if run.spec.warm else ()
    is_heavy = _is_heavy(run, t)
    best: Delay | None = None
    nearest: HostRecord | None = None
    for host in _holders(world, candidates, t):
        if any(host.ledger.fits(demand.host) for demand in candidates.demands[host]):
            wait_s = 0.0
        elif candidates.ahead_allowed and (s := _ahead_backlog_s(world, candidates, t, host, expected_s)) >= 0.0:
            wait_s = (host.ahead_s + s) / host.slots
        else:
            continue
        index, copying_s = host.index, transfer_s(run, t, host)
        wait_s += world.warm.missing_s(values, index) + (copying_s if is_heavy else 0.0)
        lacks = any(index not in world.warm.of(value) for value in values)
        used = world.warm.last_use(index) if lacks else -inf
        delay = Delay(wait_s, candidates.strategy.rank(host), used, copying_s, index)
        if best is None or delay < best:
            best, nearest = delay, host
    if nearest is None:
        return None
    if values:
        world.warm.use(nearest.index, world.now)
    demands = candidates.demands[nearest]
    claimed = claim_on(world, candidates.queue, nearest, demands, t, candidates)
    if claimed is not None:
        return nearest, *claimed
    backlog_s = _ahead_backlog_s(world, candidates, t, nearest, expected_s) if candidates.ahead_allowed else -1.0
    return None if backlog_s < 0.0 else (nearest, demands[0], backlog_s)


def _holders(world: World, candidates: Candidates, t: int) -> set[HostRecord]:
    """Return the hosts that have an input or a warm value of a task, and the first host of each heap."""
    run, at, demands = candidates.queue.run, world.fleet.at, candidates.demands
    found = set()
    for o in run.spec.inputs[t]:
        for index in run.objects.replicas[o][: MAX_HOLDERS + 1]:
            host = at(index)
            if host is not None and host in demands:
                found.add(host)
    for value in run.warm_values(t) if run.spec.warm else ():
        for index in world.warm.of(value):
            host = at(index)
            if host is not None and host in demands:
                found.add(host)
    if candidates.free:
        found.add(candidates.free[0].host)
    if candidates.full:
        found.add(candidates.full[0][-1])
    return found


def transfer_s(run: Run, t: int, host: HostRecord) -> float:
    """Return roughly how many seconds it would take to copy a task's inputs to a host.

    Inputs that the host has, or that are being copied to it, do not count.
    """
    index = host.index
    missing = 0
    wait_s = 0.0
    for o in run.spec.inputs[t]:
        replicas = run.objects.replicas[o]
        if index not in replicas and (o, index) not in run.objects.copying:
            missing += max(run.objects.nbytes[o], 0) + 1
            if replicas and replicas[0]:
                wait_s = host.rtt_s  # the input has to be copied to the controller first
    return missing / BYTES_PER_S + wait_s


def any_ready(world: World) -> bool:
    """Return True if some task of any run is in the frontier."""
    return any(
        queue.heap and queue.head() >= 0
        for run in world.runs.values()
        if world.may_place(run)
        for queue in run.queues.values()
    )
