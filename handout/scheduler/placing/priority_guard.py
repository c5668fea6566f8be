"""Do not hand tasks ahead if they would take room that a more urgent task waits for.

A task is handed ahead if it is handed over to a host that has no room for its cost yet. The agent starts such a task as
soon as there is room, before the core can place a more urgent task. So if a more urgent task waits for a host, the host
is denied to a less urgent task in two cases:

- The less urgent task would take some of each amount of which too little is free for the more urgent task.
- The duration of the less urgent task is not known, and it would take some amount that the more urgent task needs. The
  less urgent task might never give this amount back.

In all other cases, the less urgent task may be handed ahead. Then it takes nothing that the more urgent task needs, or
its duration is known and limits the delay of the more urgent task.
"""

from __future__ import annotations

from handout.scheduler.state.hosts import Demand, HostRecord
from handout.scheduler.state.runs import ReadyQueue
from handout.scheduler.state.waiters import Waiters
from handout.scheduler.state.world import World

__all__ = ["must_wait", "note_waiting", "reset_waiting", "retry_denied"]


def note_waiting(world: World, queue: ReadyQueue, priority: float) -> None:
    """Note that the first task of a queue, which has this priority, waits, because no host had room for it."""
    world.waiting.append((priority, queue))


def must_wait(world: World, host: HostRecord, demand: Demand, priority: float, expected_s: float) -> bool:
    """Return True if a task must not be handed ahead to a host, because a more urgent task waits for the host.

    Args:
        world: The core's state.
        host: The host.
        demand: What the task would take of the host.
        priority: The task's priority.
        expected_s: The task's expected duration in seconds; negative if not known.
    """
    if not world.waiting:
        return False
    takes = demand.names
    waiters = world.waiters.get(host)
    if waiters is None:
        waiters = world.waiters[host] = Waiters()
    while True:
        for (lacks, needs), urgency in waiters.alike.items():
            # ``lacks`` is empty if the more urgent task would fit on the host and only waits for its turn. An empty set
            # is a part of every set, so the less urgent task must wait then.
            if urgency > priority and (lacks <= takes or (expected_s < 0.0 and not needs.isdisjoint(takes))):
                world.denied.setdefault((needs, priority), set()).add(host)
                return True
        if waiters.seen == len(world.waiting):
            return False
        _read_on(world, host, waiters)


def reset_waiting(world: World) -> None:
    """Forget which tasks wait, and that hosts with new room were denied, because tasks are about to be placed again."""
    world.waiting.clear()
    world.waiters.clear()
    for hosts in world.denied.values():
        hosts -= world.dirty


def retry_denied(world: World) -> None:
    """Have hosts of `World.denied` tried again if the more urgent tasks do not wait for these hosts any more."""
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
    """Read the remaining entries of `World.waiting` for a host, because no entry read before denies the host."""
    alike = waiters.alike
    for priority, queue in world.waiting[waiters.seen :]:
        for demand in queue.hosts.get(host, ()):
            key = (_lacks(host, demand), demand.names)
            alike[key] = max(priority, alike.get(key, priority))
    waiters.seen = len(world.waiting)


def _lacks(host: HostRecord, demand: Demand) -> frozenset[str]:
    """Return the names of the demanded amounts of which too little is free on the host now.

    GPUs and GPU memory together count as one name.
    """
    free = host.ledger.free
    short = [name for name, parts in demand.plain.items() if parts > free.get(name, 0)]
    if demand.devices and not host.ledger.fits(demand.devices):
        short.append("gpu")
    return demand.names if len(short) == len(demand.names) else frozenset(short)
