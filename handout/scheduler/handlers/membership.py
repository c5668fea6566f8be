"""Handle hosts that join, change or leave, and runs that are submitted or closed.

The shell is the part of the controller around the core, and contains the driver. The shell connects to hosts, and
reports events to the core. A group is a set of tasks that must all run on one host.
"""

from __future__ import annotations

from handout.errors import InternalError, PlacementError
from handout.scheduler import events as ev
from handout.scheduler.commands import AnnounceRunEnded, RefuseDrain, ReleaseHost
from handout.scheduler.handlers.attempts import recall
from handout.scheduler.handlers.borrowing import borrow_all
from handout.scheduler.handlers.cancellation import close
from handout.scheduler.handlers.recovery import give_up_later, lose_host, unpin_groups
from handout.scheduler.handlers.replicas import copy_to
from handout.scheduler.placing.feasibility import depends_on_host
from handout.scheduler.state.absent_hosts import DeclaredHost
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.run_preparation import prepare_run
from handout.scheduler.state.runs import Run
from handout.scheduler.state.timers import Timer, Wake
from handout.scheduler.state.world import World
from handout.scheduler.task_states import Outcome, State
from handout.slices import at_once

__all__ = [
    "SHORTAGE_S",
    "capabilities_changed",
    "host_abandoned",
    "host_connected",
    "host_delayed",
    "host_drained",
    "host_expected",
    "host_lost",
    "host_recovered",
    "host_removed",
    "host_suspected",
    "patience_over",
    "release_drained",
    "run_closed",
    "run_submitted",
    "shared_changed",
    "shortage_over",
]

#: After the capabilities of a host have changed, there may be a task that no host can run. A run with such a task still
#: goes on for this many seconds, because a tracker may report less for a while, for example while other programs use
#: memory. A new run does not get this time.
SHORTAGE_S = 60.0


def run_submitted(world: World, event: ev.RunSubmitted) -> None:
    """Begin the run. The tasks without missing inputs are READY."""
    if event.run in world.runs:
        world.stale += 1
        return
    try:
        run = event.state or at_once(prepare_run(event.run, event.spec))
    except InternalError as error:
        world.out.add(AnnounceRunEnded(event.run, Outcome.FAILED, error))
        return
    world.runs[event.run] = run
    run.begin(world.now, world.remembered)
    if run.spec.borrowed:
        borrow_all(world, run, run.spec.borrowed)
    world.recheck = True
    world.ending.add(run)


def run_closed(world: World, event: ev.RunClosed) -> None:
    """Forget the run."""
    run = world.runs.get(event.run)
    if run is None:
        world.stale += 1
    else:
        close(world, run)


def host_expected(world: World, event: ev.HostExpected) -> None:
    """Note that a host of the inventory is expected to join. Tasks that only this host can run wait for it."""
    world.fleet.leave_no_more(event.host)
    declared = DeclaredHost(event.declared, event.price_per_hour, event.patience_s)
    world.fleet.expect(event.host, declared, world.now)


def host_delayed(world: World, event: ev.HostDelayed) -> None:
    """Note why the shell does not connect to a host for now. An empty reason means that it is connecting again."""
    host = world.fleet.absent.get(event.host)
    if host is None:
        return
    if event.reason:
        host.quarantine(event.reason)
        world.note_change()
    elif host.state == "quarantined":
        host.end_quarantine(world.now)
        give_up_later(world, host)
        world.note_change()


def host_connected(world: World, event: ev.HostConnected) -> None:
    """Add a host whose agent is ready.

    If the core still knows the host by an earlier agent, it first treats the host as lost.
    """
    known = world.fleet.by_name.get(event.host)
    if known is not None:
        if known.epoch >= event.epoch:
            world.stale += 1
            return
        lose_host(world, known, "its agent was started anew")
    host = world.fleet.join(event.host, event.offer, event.python, event.rtt_s, event.epoch, event.price_per_hour)
    _has_room(world, host)
    world.recheck = True


def _has_room(world: World, host: HostRecord) -> None:
    world.dirty.add(host)
    world.note_change()


def host_lost(world: World, event: ev.HostLost) -> None:
    """Forget the agent of a lost host, or note that tasks must not wait any longer for an expected host."""
    host = world.fleet.by_name.get(event.host)
    world.fleet.leave_no_more(event.host)
    if host is not None:
        lose_host(world, host, event.reason)
        if host.draining and not host.released:
            world.out.add(ReleaseHost(host.name))
    elif (absent := world.fleet.give_up(event.host, world.now, event.reason, final=event.final)) is not None:
        # Custom allocators may have kept tasks back for this host.
        world.note_change()
        give_up_later(world, absent)
        world.recheck = True
    else:
        world.stale += 1


def host_abandoned(world: World, event: ev.HostAbandoned) -> None:
    """Give a host no new work, because its agent is given up. Its tasks may still run until `HostLost`."""
    host = world.fleet.by_name.get(event.host)
    if host is not None and not host.abandoned:
        host.abandon(world.now)
        world.fleet.note_change()
        world.note_change()


def host_removed(world: World, event: ev.HostRemoved) -> None:
    """Forget a host that is not in the inventory any more."""
    world.fleet.forget_host(event.host)
    world.note_change()
    world.recheck = True


def patience_over(world: World, timer: Timer) -> None:
    """Have custom allocators asked again, because tasks may have waited for a lost host long enough."""
    world.note_change()


def host_suspected(world: World, event: ev.HostSuspected) -> None:
    """Give a silent host no new work until it recovers."""
    host = world.fleet.by_name.get(event.host)
    if host is not None and not host.suspected:
        host.suspect(True)
        world.fleet.note_change()
        world.note_change()


def host_recovered(world: World, event: ev.HostRecovered) -> None:
    """Let a host that was silent get work again."""
    host = world.fleet.by_name.get(event.host)
    if host is not None and host.suspected and not host.abandoned:
        host.suspect(False)
        world.fleet.note_change()
        _has_room(world, host)


def host_drained(world: World, event: ev.HostDrained) -> None:
    """Give a host no new work, and recall its tasks that have not started. Running tasks go on.

    Needed objects that only this host has are copied to the controller before the host is released. If some task could
    not run anywhere without the host, the core refuses to drain the host and changes nothing.
    """
    host = world.fleet.by_name.get(event.host)
    if host is not None and host.draining:
        return
    world.settle()
    if (error := depends_on_host(world, event.host)) is not None:
        world.out.add(RefuseDrain(event.host, _refusal(event.host, error)))
        return
    if host is None:
        if (absent := world.fleet.absent.get(event.host)) is not None:
            absent.drain()
        world.note_change()  # custom allocators may have kept tasks back for this host
        world.fleet.leave(event.host)
        world.out.add(ReleaseHost(event.host))
        return
    host.drain()
    world.fleet.note_change()
    world.note_change()
    world.recheck = True
    for run in world.runs.values():
        unpin_groups(world, run, host.index)
        for t in _not_started(run, host):
            recall(world, run, t)


def _refusal(name: str, error: PlacementError) -> PlacementError:
    is_pinned = name in error.lacks  # the reasons are those of the other hosts, except for a task that is pinned
    why = f"task {error.id!r} is pinned to it." if is_pinned else f"without it {error.problem}"
    other = "cancel the task." if is_pinned else "first add another host that can run the task."
    return PlacementError(
        f"host {name!r} cannot be drained, because {why}",
        remedy=f"Wait until that task has ended, or {other} Then drain the host again.",
        id=error.id,
        lacks=error.lacks,
    )


def _not_started(run: Run, host: HostRecord) -> list[int]:
    """Return the tasks that were handed to a host and, as far as the core knows, have not started."""
    return [
        t
        for t in range(run.task_count)
        if run.state[t] == State.HANDED and run.host[t] == host.index and t not in run.started
    ]


def release_drained(world: World) -> None:
    """Let the shell release the drained hosts that no run needs any more."""
    for host in world.fleet.by_name.values():
        if host.draining and not host.released and not host.handed and not host.lingering:
            if _is_evacuated(world, host):
                host.mark_released()
                world.out.add(ReleaseHost(host.name))


def _is_evacuated(world: World, host: HostRecord) -> bool:
    """Return True if every needed object on a host has a replica on a host that stays, or with the controller.

    If a needed object has no such replica, begin to copy the object to the controller.
    """
    leaving = {each.index for each in world.fleet.by_name.values() if each.draining}
    empty = True
    for run in world.runs.values():
        objects = run.objects
        for o, replicas in enumerate(objects.replicas):
            if host.index in replicas and leaving.issuperset(replicas) and (objects.uses[o] or objects.flags[o]):
                empty = False
                copy_to(world, run, o, 0)
    return empty


def capabilities_changed(world: World, event: ev.CapabilitiesChanged) -> None:
    """Note what a host offers now. Recall tasks that have not started and whose cost the host does not cover any more.

    Running tasks go on.
    """
    host = world.fleet.by_name.get(event.host)
    if host is None:
        world.stale += 1
        return
    host.set_offer(event.offer)
    world.fleet.note_change()
    _has_room(world, host)
    for run in world.runs.values():
        for t in _not_started(run, host):
            demands = world.fleet.feasible(host, run.spec.profiles[run.spec.profile[t]])
            if all(demand.variant != run.variant.get(t, 0) for demand in demands):
                recall(world, run, t)
        _unpin_uncovered(world, run, host)
    world.shortage_until = world.now + SHORTAGE_S
    world.timers.set(world.shortage_until, Timer(Wake.SHORTAGE))


def _unpin_uncovered(world: World, run: Run, host: HostRecord) -> None:
    """Unpin all groups of a host if one of them cannot run there any more.

    The groups may then go elsewhere.
    """
    profiles = run.spec.profiles
    if any(
        at == host.index and not all(world.fleet.feasible(host, profiles[p]) for p in run.group_profiles[group])
        for group, at in run.group_host.items()
    ):
        unpin_groups(world, run, host.index)


def shortage_over(world: World, timer: Timer) -> None:
    """Have all runs checked again, because the core may have waited long enough for lost capabilities to come back."""
    if world.now < world.shortage_until:
        return  # capabilities have changed again since this timer was set, and a later timer will fire
    world.recheck = True
    world.note_change()


def shared_changed(world: World, event: ev.SharedChanged) -> None:
    """Set the inventory's shared amounts, and have ready tasks tried on all hosts again."""
    world.fleet.set_shared(event.amounts)
    for host in world.fleet.by_name.values():
        _has_room(world, host)
    world.recheck = True
