"""Hosts come, go and change; runs come and go."""

from __future__ import annotations

from handout.errors import InternalError, PlacementError
from handout.scheduler import events as ev
from handout.scheduler.commands import AnnounceRunEnded, RefuseDrain, ReleaseHost
from handout.scheduler.handlers.attempts import recall
from handout.scheduler.handlers.cancellation import close
from handout.scheduler.handlers.recovery import lose_host, unpin_groups
from handout.scheduler.handlers.replicas import bring, make_ready
from handout.scheduler.placing.feasibility import needs_host
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import Run
from handout.scheduler.state.timers import Timer, Wake
from handout.scheduler.state.world import World
from handout.scheduler.states import Outcome, State

__all__ = [
    "SHORTAGE_S",
    "capabilities_changed",
    "host_delayed",
    "host_drained",
    "host_expected",
    "host_joined",
    "host_lost",
    "host_recovered",
    "host_suspected",
    "release_drained",
    "run_closed",
    "run_submitted",
    "shared_changed",
    "shortage_over",
]

#: A tracker may report less for a while (memory that others use): so long may a task wait for it to come back.
SHORTAGE_S = 60.0


def run_submitted(world: World, event: ev.RunSubmitted) -> None:
    """Its tasks without inputs are ready."""
    if event.run in world.runs:
        world.stale += 1
        return
    try:
        run = Run(event.run, event.spec, world.remembered)
    except InternalError as error:
        world.out.add(AnnounceRunEnded(event.run, Outcome.FAILED, error))
        return
    world.runs[event.run] = run
    for t, missing in enumerate(run.missing):
        if not missing:
            make_ready(world, run, t)
    world.recheck = True
    world.ending.add(run)


def run_closed(world: World, event: ev.RunClosed) -> None:
    """Everything about it goes."""
    run = world.runs.get(event.run)
    if run is None:
        world.stale += 1
    else:
        close(world, run)


def host_expected(world: World, event: ev.HostExpected) -> None:
    """Tasks that only it can run wait for it."""
    world.fleet.leaving.discard(event.host)
    if event.host not in world.fleet.by_name:
        world.fleet.expected[event.host] = ""


def host_delayed(world: World, event: ev.HostDelayed) -> None:
    """Tasks that only it can run wait for it all the same."""
    if event.host in world.fleet.expected:
        world.fleet.expected[event.host] = event.reason


def host_joined(world: World, event: ev.HostConnected) -> None:
    """A new host, or a new epoch of one."""
    known = world.fleet.by_name.get(event.host)
    if known is not None:
        if known.epoch >= event.epoch:
            world.stale += 1
            return
        lose_host(world, known, "its agent was started anew")
    host = world.fleet.join(event.host, event.offer, event.python, event.rtt_s, event.epoch, event.price_per_hour)
    _stir(world, host)
    world.recheck = True


def _stir(world: World, host: HostRecord) -> None:
    world.dirty.add(host)
    for run in world.runs.values():
        run.stirred = True


def host_lost(world: World, event: ev.HostLost) -> None:
    """It is gone, or will not come."""
    host = world.fleet.by_name.get(event.host)
    world.fleet.leaving.discard(event.host)
    if host is not None:
        lose_host(world, host, event.reason)
        if host.draining and not host.released:
            world.out.add(ReleaseHost(host.name))
    elif event.host in world.fleet.expected:
        _expect_no_more(world, event.host)
        world.recheck = True
    else:
        world.stale += 1


def _expect_no_more(world: World, name: str) -> None:
    """A host will not come: an allocator may have left tasks out for its sake."""
    world.fleet.expected.pop(name, None)
    for run in world.runs.values():
        run.stirred = True


def host_suspected(world: World, event: ev.HostSuspected) -> None:
    """It gets no new work for now."""
    host = world.fleet.by_name.get(event.host)
    if host is not None and not host.suspected:
        host.suspected = True
        world.fleet.version += 1


def host_recovered(world: World, event: ev.HostRecovered) -> None:
    """It may get work again."""
    host = world.fleet.by_name.get(event.host)
    if host is not None and host.suspected:
        host.suspected = False
        world.fleet.version += 1
        _stir(world, host)


def host_drained(world: World, event: ev.HostDrained) -> None:
    """What has not started there goes elsewhere, what runs may finish, what only it has is brought away.

    Nothing of this happens where a task could run nowhere without it.
    """
    host = world.fleet.by_name.get(event.host)
    if host is not None and host.draining:
        return
    if (error := needs_host(world, event.host)) is not None:
        world.out.add(RefuseDrain(event.host, _needed(event.host, error)))
        return
    if host is None:
        _expect_no_more(world, event.host)
        world.fleet.leaving.add(event.host)
        world.out.add(ReleaseHost(event.host))
        return
    host.draining = True
    world.fleet.version += 1
    world.recheck = True
    for run in world.runs.values():
        unpin_groups(world, run, host.index)
        _recall_all(world, run, host)


def _needed(name: str, error: PlacementError) -> PlacementError:
    return PlacementError(
        f"host {name!r} cannot be drained, because without it {error.problem}",
        remedy="Add a host that covers it first, or wait until that task has ended.",
        id=error.id,
        lacks=error.lacks,
    )


def _recall_all(world: World, run: Run, host: HostRecord) -> None:
    for t in range(run.spec.count):
        if run.state[t] == State.HANDED and run.host[t] == host.index and t not in run.begun:
            recall(world, run, t)


def release_drained(world: World) -> None:
    """Tell the shell of drained hosts that nothing needs any more."""
    for host in world.fleet.by_name.values():
        if host.draining and not host.released and not host.handed and not host.lingering:
            if _evacuated(world, host):
                host.released = True
                world.out.add(ReleaseHost(host.name))


def _evacuated(world: World, host: HostRecord) -> bool:
    """Whether nothing that is needed is on this host alone; what is gets brought to the controller."""
    empty = True
    for run in world.runs.values():
        for o, where in enumerate(run.where):
            if where == host.only and (run.uses[o] or run.flags[o]):
                empty = False
                bring(world, run, o, 0)
    return empty


def capabilities_changed(world: World, event: ev.CapabilitiesChanged) -> None:
    """Nothing that runs is ended, but what has not started and does not fit there any more goes elsewhere."""
    host = world.fleet.by_name.get(event.host)
    if host is None:
        world.stale += 1
        return
    host.offered(event.offer)
    world.fleet.version += 1
    _stir(world, host)
    for run in world.runs.values():
        for t in range(run.spec.count):
            if run.state[t] != State.HANDED or run.host[t] != host.index or t in run.begun:
                continue
            needs = world.fleet.needs(host, run.spec.profiles[run.spec.profile[t]])
            if all(need.variant != run.variant.get(t, 0) for need in needs):
                recall(world, run, t)
        _unpin_uncovered(world, run, host)
    world.short_until = world.now + SHORTAGE_S
    world.timers.set(world.short_until, Timer(Wake.SHORTAGE))


def _unpin_uncovered(world: World, run: Run, host: HostRecord) -> None:
    """Groups that are on a host which does not cover all of them any more may go elsewhere."""
    profiles = run.spec.profiles
    if any(
        at == host.index and not all(world.fleet.needs(host, profiles[p]) for p in run.together[group])
        for group, at in run.group_at.items()
    ):
        unpin_groups(world, run, host.index)


def shortage_over(world: World, timer: Timer) -> None:
    """What was reported as less has had its time to come back."""
    world.recheck = True


def shared_changed(world: World, event: ev.SharedChanged) -> None:
    """What the inventory shares."""
    world.fleet.set_shared(event.amounts)
    for host in world.fleet.by_name.values():
        _stir(world, host)
    world.recheck = True
