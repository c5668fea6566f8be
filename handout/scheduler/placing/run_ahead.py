"""Hiding latency: followers are handed over with the tasks that they wait for, and come back when a host idles."""

from __future__ import annotations

from enum import Enum

from handout.scheduler.handlers.attempts import hand, recall
from handout.scheduler.placing.placement import is_paused, ready_anywhere
from handout.scheduler.placing.priority_guard import is_awaited
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import Run
from handout.scheduler.state.timers import Wake
from handout.scheduler.state.world import World
from handout.scheduler.states import State

__all__ = ["hand_followers", "recall_for_idle"]


class _Tip(Enum):
    """What became of a handed task's followers."""

    DONE = 0
    #: Some are not handed while somebody more urgent waits for the host.
    HELD = 1
    #: There is no room for one of them now.
    FULL = 2


def hand_followers(world: World) -> None:
    """Hand waiting tasks to the host that makes all of what they miss, as far as its backlog lets them in."""
    for host in sorted(world.tipped, key=lambda host: host.index):
        if not host.open or host.reserved is not None:
            continue
        held = []
        while host.tips:
            number, t = host.tips[0]
            run = world.runs.get(number)
            tip = _Tip.DONE
            if run is not None and _still_at(run, t, host) and run.spec.allocator is not None and not run.aborting:
                tip = _hand_followers_of(world, run, t, host)
            if tip is _Tip.FULL:
                break
            host.tips.popleft()
            if tip is _Tip.HELD:
                held.append((number, t))  # others may be more urgent
        host.tips.extendleft(reversed(held))
        if not host.tips:
            world.tipped.discard(host)


def _still_at(run: Run, t: int, host: HostRecord) -> bool:
    return run.state[t] == State.HANDED and run.host[t] == host.index and t not in run.cancelling


def _hand_followers_of(world: World, run: Run, t: int, host: HostRecord) -> _Tip:
    """Hand the followers of one task that may be."""
    limit, tip = run.spec.max_concurrency, _Tip.DONE
    for o in run.objects_of(t):
        for c in run.consumers[o]:
            if run.state[c] != State.WAITING or not _may_follow(world, run, c, host):
                continue
            if limit is not None and run.active >= limit:
                return _Tip.FULL
            expected_s = run.estimates.seconds[run.spec.fn[c]]
            if host.is_too_long(expected_s):
                continue
            need = world.fleet.needs(host, run.spec.profiles[run.spec.profile[c]])[0]
            if is_awaited(world, host, need, run.priority_of(c), expected_s):
                tip = _Tip.HELD
                continue
            charge = host.room(expected_s)
            if charge < 0.0:
                return _Tip.FULL
            hand(world, run, c, host, need, None, charge)
    return tip


def _may_follow(world: World, run: Run, c: int, host: HostRecord) -> bool:
    """Whether a waiting task may be handed to a host although inputs are still being made there."""
    profiles = run.spec.profiles
    profile = profiles[run.spec.profile[c]]
    needs = world.fleet.needs(host, profile)
    if not profile.idempotent or not needs or needs[0].shared or needs[0].devices:
        return False
    lane = run.lane_of(c)
    key = lane.key
    if (key.pin and key.pin != host.index) or host.index in key.avoid:
        return False
    if world.pausing and is_paused(world, lane, host):
        return False
    if not all(world.fleet.needs(host, profiles[p]) for p in key.together):
        return False
    return run.missing[c] <= host.handed and _all_made_at(run, c, host)


def _all_made_at(run: Run, c: int, host: HostRecord) -> bool:
    """Whether each input exists or is being made on the host.

    A fan-in is asked about each time that one of its inputs comes: it goes on where it stopped the last time, and
    looks at all of them once more only when it has come through.
    """
    producer, where, inputs = run.spec.producer, run.where, run.spec.inputs[c]
    at = run.looked_at.get(c, 0)
    while at < len(inputs) and (where[inputs[at]] or _still_at(run, producer[inputs[at]], host)):
        at += 1
    if at == len(inputs):
        if all(where[o] or _still_at(run, producer[o], host) for o in inputs):
            return True
        at = 0
    run.looked_at[c] = at
    return False


def recall_for_idle(world: World) -> None:
    """Take back what has waited on one host for longer than it should while another one has nothing to do."""
    donors = [host for host in world.fleet.by_name.values() if host.ahead]
    if not donors or len(world.fleet.by_name) == 1 or ready_anywhere(world):
        return
    idle = [h for h in world.fleet.by_name.values() if h.open and not h.ahead_n and h.handed < h.slots]
    for donor in donors:
        takers = [host for host in idle if host is not donor]
        if takers:
            _recall_from(world, donor, takers)


def _recall_from(world: World, donor: HostRecord, takers: list[HostRecord]) -> None:
    """Take back a share of a host's queue, from its end, that is as large as the takers' slots among all."""
    before = world.now - donor.target_s
    old, young = [], []
    for entry in donor.ahead:
        number, t, attempt, since_s = entry
        run = world.runs.get(number)
        if (
            run is None
            or not _still_at(run, t, donor)
            or run.attempt[t] != attempt
            or run.claims[t] is not None
            or run.missing[t]
        ):
            continue
        if since_s > before:
            young.append(entry)
        else:
            old.append(entry)
    movable = [entry for entry in old if _fits_any(world, world.runs[entry.run], entry.task, takers)]
    if young and not movable and any(_fits_any(world, world.runs[entry.run], entry.task, takers) for entry in young):
        world.timers.wake(max(young[0].since_s + donor.target_s, world.now + donor.target_s * 0.1), Wake.RECALL)
    if not movable:
        return
    spare = sum(host.slots - host.handed for host in takers)
    count = min(len(movable), max(1, -(-len(movable) * spare // (spare + donor.slots))))
    taken = set(movable[-count:])
    for entry in movable[-count:]:
        recall(world, world.runs[entry.run], entry.task)
    kept = [entry for entry in donor.ahead if entry not in taken]
    donor.ahead.clear()
    donor.ahead.extend(kept)


def _fits_any(world: World, run: Run, t: int, takers: list[HostRecord]) -> bool:
    if t in run.begun or t in run.recalled or run.spec.allocator is None:
        return False
    profiles = run.spec.profiles
    lane = run.lane_of(t)
    key = lane.key
    return any(
        host.index not in key.avoid
        and not is_paused(world, lane, host)
        and (not key.pin or key.pin == host.index)
        and world.fleet.needs(host, profiles[key.profile])
        for host in takers
    )
