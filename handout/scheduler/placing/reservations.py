"""Who was passed over for long gets a host (or the shared amounts) kept free until it fits."""

from __future__ import annotations

from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import ReadyQueue
from handout.scheduler.state.timers import Wake
from handout.scheduler.state.world import World

__all__ = ["RESERVE_AFTER_S", "expire", "may_have", "note_blocked", "note_placed", "release"]

#: How long a task may be passed over.
RESERVE_AFTER_S = 30.0


def may_have(world: World, lane: ReadyQueue, host: HostRecord) -> bool:
    """Whether what is free on a host is not being kept for somebody else.

    Who the shared amounts are kept for may have any host: else it and who a host is kept for could wait for
    each other.
    """
    return host.reserved is None or host.reserved is lane or world.shared_lane is lane


def note_placed(world: World, lane: ReadyQueue) -> None:
    """A lane got something: it is not starving."""
    lane.since = world.now
    release(world, lane)


def note_blocked(world: World, lane: ReadyQueue, short: bool, placed: bool) -> None:
    """A lane's head fits nowhere now; ``short``: for want of shared amounts."""
    if placed:
        note_placed(world, lane)
    if world.now < lane.since + RESERVE_AFTER_S:
        world.timers.wake(lane.since + RESERVE_AFTER_S, Wake.RESERVE)
    elif short:
        world.shared_lane = world.shared_lane or lane
    elif lane not in world.reservations:
        reserve(world, lane)


def reserve(world: World, lane: ReadyQueue) -> None:
    """Keep the host that will have room soonest, as far as can be told, free of others."""
    hosts = [host for host in lane.choices if host.reserved is None and host.open]
    if hosts:
        host = min(hosts, key=lambda host: (host.load(), host.index))
        host.reserved = lane
        world.reservations[lane] = host


def release(world: World, lane: ReadyQueue) -> None:
    """A lane needs its reservation no more."""
    host = world.reservations.pop(lane, None)
    if host is not None:
        host.reserved = None
        world.freed.add(host)
    if world.shared_lane is lane:
        world.shared_lane = None
        world.freed.update(world.fleet.by_name.values())


def expire(world: World) -> None:
    """Give up reservations of lanes that have nothing to place any more."""
    for lane in [lane for lane in world.reservations if lane.head() < 0]:
        release(world, lane)
    if world.shared_lane is not None and world.shared_lane.head() < 0:
        release(world, world.shared_lane)
