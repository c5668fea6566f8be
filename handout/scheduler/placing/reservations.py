"""Keep a host, or the shared amounts, free for a task that has waited for a long time, until the task fits.

A queue holds ready tasks of one run that may go to the same hosts. The shared amounts are those that all hosts of the
inventory share.
"""

from __future__ import annotations

from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import ReadyQueue
from handout.scheduler.state.timers import Wake
from handout.scheduler.state.world import World

__all__ = ["RESERVE_AFTER_S", "expire", "give_up_reservation", "may_use", "note_blocked", "note_placed"]

#: If no task of a queue could be placed for this many seconds, a host or the shared amounts are kept free for the first
#: task of the queue.
RESERVE_AFTER_S = 30.0


def may_use(world: World, queue: ReadyQueue, host: HostRecord) -> bool:
    """Return True if a queue may use a host, and False if the host is kept free for another queue.

    The queue for which the shared amounts are reserved may use every host. Otherwise its task could wait for a host
    that is reserved for a second queue, while the task of the second queue waits for the shared amounts.
    """
    return host.reserved is None or host.reserved is queue or world.shared_reservation is queue


def note_placed(world: World, queue: ReadyQueue) -> None:
    """Note that a task of a queue was placed. The queue then begins to wait anew, and its reservations end."""
    queue.note_placed(world.now)
    give_up_reservation(world, queue)


def note_blocked(world: World, queue: ReadyQueue, short: bool, placed: bool) -> None:
    """Reserve a host or the shared amounts for a queue whose first task has fitted nowhere for `RESERVE_AFTER_S` s.

    Args:
        world: The core's state.
        queue: The queue.
        short: True if the first task does not fit because it cannot get what it needs of the shared amounts.
        placed: True if other tasks of the queue have just been placed.
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
    """Reserve the host with the least load for a queue, because this host will probably have room first."""
    hosts = [host for host in queue.hosts if host.reserved is None and host.open]
    if hosts:
        host = min(hosts, key=lambda host: (host.load(), host.index))
        host.reserve(queue)
        world.reservations[queue] = host


def give_up_reservation(world: World, queue: ReadyQueue) -> None:
    """End the reservations of a queue, if it has any, so that other queues may use the host or the shared amounts."""
    host = world.reservations.pop(queue, None)
    if host is not None:
        host.reserve(None)
        world.freed.add(host)
    if world.shared_reservation is queue:
        world.shared_reservation = None
        world.freed.update(world.fleet.by_name.values())


def expire(world: World) -> None:
    """End the reservations of queues that have no task to place any more."""
    for queue in [queue for queue in world.reservations if queue.head() < 0]:
        give_up_reservation(world, queue)
    if world.shared_reservation is not None and world.shared_reservation.head() < 0:
        give_up_reservation(world, world.shared_reservation)
