"""Keep a host, or the shared amounts, free for a task that was passed over for long, until the task fits."""

from __future__ import annotations

from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import ReadyQueue
from handout.scheduler.state.timers import Wake
from handout.scheduler.state.world import World

__all__ = ["RESERVE_AFTER_S", "expire", "give_up_reservation", "may_use", "note_blocked", "note_placed"]

#: Seconds that a task may be passed over before a host or the shared amounts are kept free for it.
RESERVE_AFTER_S = 30.0


def may_use(world: World, queue: ReadyQueue, host: HostRecord) -> bool:
    """Return True if a queue may use a host, and False if the host is kept free for another queue.

    A queue with the reservation of the shared amounts may use every host. Otherwise its task could wait for a reserved
    host while the task of that reservation waits for the shared amounts.
    """
    return host.reserved is None or host.reserved is queue or world.shared_reservation is queue


def note_placed(world: World, queue: ReadyQueue) -> None:
    """Note that a task of a queue was placed, so that the queue is not starving."""
    queue.note_placed(world.now)
    give_up_reservation(world, queue)


def note_blocked(world: World, queue: ReadyQueue, short: bool, placed: bool) -> None:
    """Reserve a host or the shared amounts for a queue, once its head has fitted nowhere for `RESERVE_AFTER_S`.

    ``short`` means that shared amounts are short; ``placed`` that tasks before the head were placed just now.
    """
    if placed:
        note_placed(world, queue)
    if world.now < queue.since + RESERVE_AFTER_S:
        world.timers.wake(queue.since + RESERVE_AFTER_S, Wake.RESERVE)
    elif short:
        world.shared_reservation = world.shared_reservation or queue
    elif queue not in world.reservations:
        _reserve(world, queue)


def _reserve(world: World, queue: ReadyQueue) -> None:
    """Keep the host free that will probably have room soonest."""
    hosts = [host for host in queue.hosts if host.reserved is None and host.open]
    if hosts:
        host = min(hosts, key=lambda host: (host.load(), host.index))
        host.reserve(queue)
        world.reservations[queue] = host


def give_up_reservation(world: World, queue: ReadyQueue) -> None:
    """End the reservations of a queue, if it has any, so that all queues may use what was kept free for it."""
    host = world.reservations.pop(queue, None)
    if host is not None:
        host.reserve(None)
        world.freed.add(host)
    if world.shared_reservation is queue:
        world.shared_reservation = None
        world.freed.update(world.fleet.by_name.values())


def expire(world: World) -> None:
    """Give up the reservations of queues that have nothing to place any more."""
    for queue in [queue for queue in world.reservations if queue.head() < 0]:
        give_up_reservation(world, queue)
    if world.shared_reservation is not None and world.shared_reservation.head() < 0:
        give_up_reservation(world, world.shared_reservation)
