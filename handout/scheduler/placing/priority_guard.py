"""Who waits for room, where some tasks are more urgent than others: what is handed ahead must not keep it from them.

What was handed ahead begins by itself as soon as there is room for it, before anybody who is placed. How long it may
pass somebody more urgent is known where its duration is: then it may, unless what it would take is all that the other
still lacks. One of which nothing is known may never give back what it takes: it must not take anything of what the
other needs.
"""

from __future__ import annotations

from handout.scheduler.state.hosts import HostRecord, Need
from handout.scheduler.state.runs import ReadyQueue
from handout.scheduler.state.waiters import Waiters
from handout.scheduler.state.world import World

__all__ = ["is_awaited", "look_anew", "note_waiting", "open_denied"]


def note_waiting(world: World, lane: ReadyQueue, priority: float) -> None:
    """No host had room for a lane's head, of this priority: it waits for any of them."""
    world.waiting.append((priority, lane))


def is_awaited(world: World, host: HostRecord, need: Need, priority: float, expected_s: float) -> bool:
    """Whether a task must not be handed ahead to a host, for the sake of somebody more urgent.

    Args:
        need: What the task would take.
        priority: The task's.
        expected_s: How long it takes, negative where not known.
    """
    if not world.waiting:
        return False
    takes = need.names
    waiters = world.awaited.get(host)
    if waiters is None:
        waiters = world.awaited[host] = Waiters()
    while True:
        for (lacks, needs), urgency in waiters.alike.items():
            # Who lacks nothing there waits for its turn alone.
            if urgency > priority and (lacks <= takes or (expected_s < 0.0 and not needs.isdisjoint(takes))):
                world.denied.setdefault((needs, priority), set()).add(host)
                return True
        if waiters.seen == len(world.waiting):
            return False
        _read_on(world, host, waiters)


def look_anew(world: World) -> None:
    """Tasks are to be placed on hosts that have got room: who waits for what is found out again on the way."""
    world.waiting.clear()
    world.awaited.clear()
    for hosts in world.denied.values():
        hosts -= world.dirty


def open_denied(world: World) -> None:
    """Have the hosts tried again where tasks were held back for the sake of others and nobody like these waits now."""
    for (names, priority), hosts in list(world.denied.items()):
        left = set(hosts)
        for urgency, lane in world.waiting:
            if not left:
                break
            if urgency > priority and any(need.names == names for need in _needs(world, lane)):
                left.difference_update(lane.choices)
        world.freed |= {host for host in left if host.alive}
        hosts -= left
        if not hosts:
            del world.denied[names, priority]


def _needs(world: World, lane: ReadyQueue) -> tuple[Need, ...]:
    return world.fleet.all_needs(lane.run.spec.profiles[lane.key.profile])


def _read_on(world: World, host: HostRecord, waiters: Waiters) -> None:
    """Find out who else waits for a host: only where somebody asks, whom those that are known do not hold back."""
    alike = waiters.alike
    for priority, lane in world.waiting[waiters.seen :]:
        for need in lane.choices.get(host, ()):
            key = (_lacks(host, need), need.names)
            alike[key] = max(priority, alike.get(key, priority))
    waiters.seen = len(world.waiting)


def _lacks(host: HostRecord, need: Need) -> frozenset[str]:
    """Of what there is too little on a host now. Devices go by one name, whatever of them is missing."""
    free = host.ledger.free
    short = [name for name, parts in need.plain.items() if parts > free.get(name, 0)]
    if need.devices and not host.ledger.fits(need.devices):
        short.append("gpu")
    return need.names if len(short) == len(need.names) else frozenset(short)
