"""Which ready task goes where: lanes in order, each on the best host that has room for it."""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from math import inf

from handout.protocol.ledger import Claim
from handout.scheduler.handlers.attempts import hand, promote
from handout.scheduler.placing.priority_guard import is_awaited, look_anew, note_waiting, open_denied
from handout.scheduler.placing.reservations import may_have, note_blocked, note_placed, release
from handout.scheduler.placing.strategies import STRATEGIES, Strategy
from handout.scheduler.state.hosts import HostRecord, Need
from handout.scheduler.state.runs import ReadyQueue, Run
from handout.scheduler.state.world import World

__all__ = ["candidates", "claim_on", "is_free", "is_paused", "place", "ready_anywhere", "room_ahead", "transfer_s"]

#: Tasks of one lane that are placed before another lane of the same standing gets its turn.
TURN = 16
#: Tasks that take nothing of a host are handed to it up to this number.
MAX_FREE_TASKS = 4096
#: How long a task that was handed ahead may wait for a claim before nothing new may pass it on that host.
PATIENCE_S = 1.0
#: What a link carries, where nothing was measured.
BYTES_PER_S = 2e8
#: Inputs that are brought anywhere in no time.
LIGHT_BYTES = 65536
#: An object that more hosts have is as good as everywhere.
MAX_HOLDERS = 8

_Granted = tuple[HostRecord, Need, Claim | None, float]


def place(world: World) -> None:
    """Hand out what fits, on all hosts that have got room."""
    while True:
        look_anew(world)
        for host in world.dirty:
            if host.ahead:
                promote(world, host)
        settled: set[ReadyQueue] = set()
        while lanes := _lanes(world, settled):
            _share_out(world, lanes, settled)
        open_denied(world)
        # Reservations that were given up meanwhile make room for lanes that had been seen to before.
        world.dirty, world.freed = world.freed, set()
        if not world.dirty:
            return


def _lanes(world: World, settled: set[ReadyQueue]) -> list[ReadyQueue]:
    """Lanes with something to place that have not been seen to in this call."""
    found = []
    for run in world.runs.values():
        if run.over or run.aborting:
            continue
        asks = run.spec.allocator is None
        for key, lane in list(run.lanes.items()):
            if not lane.heap or lane in settled:
                continue
            if lane.head() < 0:
                if lane not in run.plain:
                    del run.lanes[key]
            elif not (asks and is_free(run, lane)):
                found.append(lane)
    return found


def is_free(run: Run, lane: ReadyQueue) -> bool:
    """Whether it is for a custom allocator to say where the lane's tasks go."""
    return not lane.key.pin and run.spec.profiles[lane.key.profile].host is None


def _share_out(world: World, lanes: list[ReadyQueue], settled: set[ReadyQueue]) -> None:
    """Serve lanes by the priority of their heads; runs of the same priority by how little they have."""
    alone = len(lanes) == 1
    ranked = _has_priorities(world)
    queue = [(_standing(lane), number, lane, Candidates(world, lane)) for number, lane in enumerate(lanes)]
    heapify(queue)
    while queue:
        _, number, lane, slate = heappop(queue)
        floor = -queue[0][0][0] if ranked and queue else -inf
        more = _fill(world, slate, 1 << 60 if alone else TURN, floor)
        t = lane.head()
        if t < 0:
            continue  # it is not settled: tasks may join it when their group gets its host
        if more:
            heappush(queue, (_standing(lane), number, lane, slate))
        else:
            settled.add(lane)
            if ranked and lane.blocked:
                note_waiting(world, lane, lane.run.priority_of(t))


def _has_priorities(world: World) -> bool:
    """Whether some tasks may go before others for it."""
    specs = [run.spec for run in world.runs.values()]
    return any(spec.priority is not None or spec.run_priority != specs[0].run_priority for spec in specs)


def _standing(lane: ReadyQueue) -> tuple[float, int, int]:
    run = lane.run
    place = lane.heap[0]
    return (-run.priority_of(place if run.place_at is None else run.place_at[place]), run.active, place)


class Candidates:
    """The hosts that come into question for one lane in one call, those with room first."""

    __slots__ = ("ahead_allowed", "free", "full", "lane", "needs", "short", "strategy")

    def __init__(self, world: World, lane: ReadyQueue) -> None:
        self.lane = lane
        run = lane.run
        self.strategy: Strategy = STRATEGIES.get(run.spec.allocator or "locality", STRATEGIES["locality"])
        choices = candidates(world, lane)
        if lane.blocked:
            choices = {host: choices[host] for host in world.dirty if host in choices}
        self.needs = choices
        rank = self.strategy.rank
        #: Hosts where a claim may be granted.
        self.free: list[tuple[float, int, HostRecord]] = [(rank(host), host.index, host) for host in self.needs]
        heapify(self.free)
        #: Hosts that are full, where tasks may be handed ahead; by backlog a slot.
        self.full: list[tuple[float, int, HostRecord]] = []
        self.ahead_allowed = run.spec.profiles[lane.key.profile].idempotent
        #: Whether it was shared amounts that were missing.
        self.short = False


def candidates(world: World, lane: ReadyQueue) -> dict[HostRecord, tuple[Need, ...]]:
    """The open hosts that can cover a lane's tasks; those to be avoided only where there is no other.

    A host that is paused for them comes last of all: there they would fail, elsewhere they may.
    """
    fleet = world.fleet
    if lane.version == fleet.version:
        return lane.choices
    key, profiles = lane.key, lane.run.spec.profiles
    choices = {}
    for host in fleet.by_name.values():
        if not host.open or (key.pin and host.index != key.pin):
            continue
        needs = fleet.needs(host, profiles[key.profile])
        if needs and all(fleet.needs(host, profiles[p]) for p in key.together):
            choices[host] = needs
    if world.pausing:
        choices = {host: needs for host, needs in choices.items() if not is_paused(world, lane, host)} or choices
    elsewhere = {host: needs for host, needs in choices.items() if host.index not in key.avoid}
    lane.choices = elsewhere or choices
    lane.version = fleet.version
    lane.blocked = False
    kept = world.reservations.get(lane)
    if kept is not None and kept not in lane.choices:
        release(world, lane)  # what is kept free for it there would stand idle
    return lane.choices


def is_paused(world: World, lane: ReadyQueue, host: HostRecord) -> bool:
    """Whether a host is paused for a lane's tasks, or for others that would have to follow them there."""
    key, profiles = lane.key, lane.run.spec.profiles
    return host in world.pausing and any(host.is_paused(profiles[p], world.now) for p in (key.profile, *key.together))


def _fill(world: World, slate: Candidates, turn: int, floor: float) -> bool:
    """Place up to ``turn`` tasks of a lane, none of them of a lower priority than ``floor``. Whether more may fit."""
    lane, run = slate.lane, slate.lane.run
    limit = run.spec.max_concurrency
    weighs = slate.strategy.weighs_bytes and len(slate.needs) > 1
    inputs, fn, seconds = run.spec.inputs, run.spec.fn, run.estimates.seconds
    placed = False
    while turn and (t := lane.head()) >= 0:
        if floor > -inf and run.priority_of(t) < floor:
            turn = 0
            break
        if limit is not None and run.active >= limit:
            # Hosts that get room meanwhile are not noted for this lane: next time it must ask them all.
            lane.blocked = False
            release(world, lane)
            break
        expected_s = seconds[fn[t]]
        granted = None
        if weighs and inputs[t]:
            near = _nearest if _is_heavy(run, t) else _beside_inputs
            granted = near(world, slate, t, expected_s)
        if granted is None:
            granted = _any_free(world, slate, t) or _least_backlog(world, slate, t, expected_s)
        if granted is None:
            lane.blocked = not slate.short
            note_blocked(world, lane, slate.short, placed)
            return False
        lane.pop()
        hand(world, run, t, *granted)
        placed = True
        turn -= 1
    if placed:
        note_placed(world, lane)
    return turn == 0


def _any_free(world: World, slate: Candidates, t: int) -> _Granted | None:
    """The first host by rank that grants a claim."""
    free, rank = slate.free, slate.strategy.rank
    while free:
        stood, index, host = free[0]
        stands = rank(host)
        if stands != stood:
            heapreplace(free, (stands, index, host))
            continue
        claimed = claim_on(world, slate.lane, host, slate.needs[host], t, slate)
        if claimed is not None:
            return host, claimed[0], claimed[1], 0.0
        heappop(free)
        if slate.ahead_allowed:
            heappush(slate.full, (host.ahead_s / host.slots, index, host))
    return None


def _least_backlog(world: World, slate: Candidates, t: int, expected_s: float) -> _Granted | None:
    """The full host with the least to do that takes one ahead."""
    full = slate.full
    while full:
        stood, index, host = full[0]
        stands = host.ahead_s / host.slots
        if stands != stood:
            heapreplace(full, (stands, index, host))
            continue
        need = slate.needs[host][0]
        charge = room_ahead(host, need, expected_s)
        if charge >= 0.0 and not _is_awaited(world, slate, t, host, expected_s):
            return host, need, None, charge
        heappop(full)
    return None


def claim_on(
    world: World, lane: ReadyQueue, host: HostRecord, needs: tuple[Need, ...], t: int, slate: Candidates | None = None
) -> tuple[Need, Claim] | None:
    """Claim the first variant that is free on a host now, and what it takes of the shared amounts."""
    if not may_have(world, lane, host) or (host.ahead and world.now - host.ahead[0].since_s > PATIENCE_S):
        return None
    for need in needs:
        if not need.host and host.handed >= MAX_FREE_TASKS:
            continue
        claim = host.ledger.claim(need.host)
        if claim is None:
            continue
        if not need.shared:
            return need, claim
        shared = None
        if world.shared_lane is None or world.shared_lane is lane:
            shared = world.fleet.shared.claim(need.shared)
        if shared is not None:
            lane.run.shared[t] = shared
            return need, claim
        host.ledger.release(claim)
        if slate is not None:
            slate.short = True
    return None


def room_ahead(host: HostRecord, need: Need, expected_s: float) -> float:
    """What handing one task ahead would add to a host's backlog, negative where it may not be."""
    if need.shared or need.devices or host.reserved is not None:
        return -1.0
    return host.room(expected_s)


def _room_ahead(world: World, slate: Candidates, t: int, host: HostRecord, expected_s: float) -> float:
    """The same for a task of a lane, where it would not keep anybody more urgent from the host."""
    charge = room_ahead(host, slate.needs[host][0], expected_s)
    return -1.0 if charge >= 0.0 and _is_awaited(world, slate, t, host, expected_s) else charge


def _is_awaited(world: World, slate: Candidates, t: int, host: HostRecord, expected_s: float) -> bool:
    """Whether somebody more urgent than a task waits for what it would take of a host."""
    return is_awaited(world, host, slate.needs[host][0], slate.lane.run.priority_of(t), expected_s)


def _is_heavy(run: Run, t: int) -> bool:
    """Whether bringing a task's inputs to another host would take a time worth reckoning with."""
    nbytes, total = run.nbytes, 0
    for o in run.spec.inputs[t]:
        total += nbytes[o]
    return total > LIGHT_BYTES


def _beside_inputs(world: World, slate: Candidates, t: int, expected_s: float) -> _Granted | None:
    """The host that has most of a task's light inputs, unless others would begin sooner; None: ask those."""
    run = slate.lane.run
    counts: dict[int, int] = {}
    for o in run.spec.inputs[t]:
        where = run.where[o]
        if len(where) <= MAX_HOLDERS:
            for index in where:
                counts[index] = counts.get(index, 0) + 1
    counts.pop(0, None)
    host = world.fleet.at(max(counts, key=counts.__getitem__)) if counts else None
    needs = None if host is None else slate.needs.get(host)
    if host is None or needs is None:
        return None
    claimed = claim_on(world, slate.lane, host, needs, t, slate)
    if claimed is not None:
        return host, claimed[0], claimed[1], 0.0
    elsewhere = _any_free(world, slate, t)
    if elsewhere is not None or not slate.ahead_allowed:
        return elsewhere
    if slate.full and host.ahead_s / host.slots > slate.full[0][0] + host.target_s * 0.5:
        return None
    charge = _room_ahead(world, slate, t, host, expected_s)
    return None if charge < 0.0 else (host, needs[0], None, charge)


def _nearest(world: World, slate: Candidates, t: int, expected_s: float) -> _Granted | None:
    """The host where a task could begin soonest, by the bytes to bring and the backlog; None: ask the others."""
    run = slate.lane.run
    best: tuple[float, float, int, HostRecord] | None = None
    for host in _holders(world, slate, t):
        needs = slate.needs[host]
        if any(host.ledger.fits(need.host) for need in needs):
            wait_s = 0.0
        elif slate.ahead_allowed and (charge := _room_ahead(world, slate, t, host, expected_s)) >= 0.0:
            wait_s = (host.ahead_s + charge) / host.slots
        else:
            continue
        cost = (wait_s + transfer_s(run, t, host), slate.strategy.rank(host), host.index, host)
        if best is None or cost < best:
            best = cost
    if best is None:
        return None
    host = best[3]
    claimed = claim_on(world, slate.lane, host, slate.needs[host], t, slate)
    if claimed is not None:
        return host, claimed[0], claimed[1], 0.0
    charge = _room_ahead(world, slate, t, host, expected_s) if slate.ahead_allowed else -1.0
    return None if charge < 0.0 else (host, slate.needs[host][0], None, charge)


def _holders(world: World, slate: Candidates, t: int) -> set[HostRecord]:
    """Hosts that have an input of a task, and the first of those that have room whatever they hold."""
    where, at, needs = slate.lane.run.where, world.fleet.at, slate.needs
    found = set()
    for o in slate.lane.run.spec.inputs[t]:
        for index in where[o][: MAX_HOLDERS + 1]:
            host = at(index)
            if host is not None and host in needs:
                found.add(host)
    for heap in (slate.free, slate.full):
        if heap:
            found.add(heap[0][2])
    return found


def transfer_s(run: Run, t: int, host: HostRecord) -> float:
    """Time to bring a task's missing inputs to a host, roughly."""
    index = host.index
    missing = 0
    wait_s = 0.0
    for o in run.spec.inputs[t]:
        where = run.where[o]
        if index not in where and (o, index) not in run.flying:
            missing += max(run.nbytes[o], 0) + 1
            if where and where[0]:
                wait_s = host.rtt_s  # it has to come to the controller first
    return missing / BYTES_PER_S + wait_s


def ready_anywhere(world: World) -> bool:
    """Whether some task is in the frontier."""
    return any(
        lane.heap and lane.head() >= 0 for run in world.runs.values() if not run.over for lane in run.lanes.values()
    )
