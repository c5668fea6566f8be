"""Keep tasks that are handed ahead from taking room that a more urgent task waits for.

A task that was handed ahead begins by itself as soon as there is room, before any task that is placed. If its duration
is known, it may pass a more urgent task for that long, unless it takes all that the more urgent task still lacks. If
its duration is not known, it might never give back what it takes, so it must not take anything that the more urgent
task needs.
"""

from __future__ import annotations

from handout.scheduler.state.hosts import Demand, HostRecord
from handout.scheduler.state.runs import ReadyQueue
from handout.scheduler.state.waiters import Waiters
from handout.scheduler.state.world import World

__all__ = ["must_wait", "note_waiting", "reset_waiting", "retry_denied"]


def note_waiting(world: World, queue: ReadyQueue, priority: float) -> None:
    """Note that the head of a queue, which has this priority, waits because no host had room for it."""
    world.waiting.append((priority, queue))


def must_wait(world: World, host: HostRecord, demand: Demand, priority: float, expected_s: float) -> bool:
    """Return True if a task must not be handed ahead to a host, because a more urgent one waits for it.

    Args:
        world: The core's state.
        host: The host.
        demand: What the task would take of it.
        priority: The task's priority.
        expected_s: Its expected duration in seconds; negative if not known.
    """
    if not world.waiting:
        return False
    takes = demand.names
    waiters = world.waiters.get(host)
    if waiters is None:
        waiters = world.waiters[host] = Waiters()
    while True:
        for (lacks, needs), urgency in waiters.alike.items():
            # A waiting task that lacks nothing on the host waits for its turn only, not for room.
            if urgency > priority and (lacks <= takes or (expected_s < 0.0 and not needs.isdisjoint(takes))):
                world.denied.setdefault((needs, priority), set()).add(host)
                return True
        if waiters.seen == len(world.waiting):
            return False
        _read_on(world, host, waiters)


def reset_waiting(world: World) -> None:
    """Forget which tasks wait, because tasks are about to be placed on hosts that have got room."""
    world.waiting.clear()
    world.waiters.clear()
    for hosts in world.denied.values():
        hosts -= world.dirty


def retry_denied(world: World) -> None:
    """Try a host of `World.denied` again, once no more urgent task with the same needs waits for the host."""
    for (names, priority), hosts in list(world.denied.items()):
        left = set(hosts)
        for urgency, queue in world.waiting:
            if not left:
                break
            if urgency > priority and any(demand.names == names for demand in _demands(world, queue)):
                left.difference_update(queue.hosts)
        world.freed |= {host for host in left if host.alive}
        hosts -= left
        if not hosts:
            del world.denied[names, priority]


def _demands(world: World, queue: ReadyQueue) -> tuple[Demand, ...]:
    return world.fleet.demands(queue.run.spec.profiles[queue.key.profile])


def _read_on(world: World, host: HostRecord, waiters: Waiters) -> None:
    """Read the rest of `World.waiting` for a host. This is done only if the entries read before do not decide."""
    alike = waiters.alike
    for priority, queue in world.waiting[waiters.seen :]:
        for demand in queue.hosts.get(host, ()):
            key = (_lacks(host, demand), demand.names)
            alike[key] = max(priority, alike.get(key, priority))
    waiters.seen = len(world.waiting)


def _lacks(host: HostRecord, demand: Demand) -> frozenset[str]:
    """Return the names of what is short on a host now. Devices count as one name, whichever part is short."""
    free = host.ledger.free
    short = [name for name, parts in demand.plain.items() if parts > free.get(name, 0)]
    if demand.devices and not host.ledger.fits(demand.devices):
        short.append("gpu")
    return demand.names if len(short) == len(demand.names) else frozenset(short)
