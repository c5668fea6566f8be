"""Who waits for room, where some tasks are more urgent than others: what is handed ahead must not keep it from them.

What was handed ahead begins by itself as soon as there is room for it, before anybody who is placed. How long it may
pass somebody more urgent is known where its duration is: then it may, unless what it would take is all that the other
still lacks. One of which nothing is known may never give back what it takes: it must not take anything of what the
other needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handout.scheduler.hosts import HostRecord, Need
    from handout.scheduler.runs import Lane
    from handout.scheduler.world import World

__all__ = ["Waiters", "note_waiting", "who_waits"]


class Waiters:
    """Those who wait for one host, alike ones together."""

    __slots__ = ("alike", "seen")

    def __init__(self) -> None:
        #: How many of `World.waiting` have been looked at.
        self.seen = 0
        #: By what they lack there and by what they need: the most urgent one, after its priority.
        self.alike: dict[tuple[frozenset[str], frozenset[str]], tuple[float, Lane]] = {}


def note_waiting(world: World, lane: Lane) -> None:
    """No host had room for a lane's head: it waits for any of them."""
    world.waiting.append((lane.run.priority_of(lane.head()), lane))


def who_waits(world: World, host: HostRecord, need: Need, priority: float, expected_s: float) -> Lane | None:
    """Somebody more urgent for whom a task must not be handed ahead to a host, if there is any.

    Args:
        need: What the task would take.
        priority: The task's.
        expected_s: How long it takes, negative where not known.
    """
    takes = need.names
    for (lacks, needs), (urgency, lane) in _at(world, host).alike.items():
        # Who lacks nothing there waits for its turn alone.
        if urgency > priority and (lacks <= takes or (expected_s < 0.0 and not needs.isdisjoint(takes))):
            return lane
    return None


def _at(world: World, host: HostRecord) -> Waiters:
    """Who waits for a host: found out where somebody asks, as most of the time nobody does."""
    waiters = world.awaited.get(host)
    if waiters is None:
        waiters = world.awaited[host] = Waiters()
    alike = waiters.alike
    for priority, lane in world.waiting[waiters.seen :]:
        for need in lane.choices.get(host, ()):
            key = (_lacks(host, need), need.names)
            if key not in alike or alike[key][0] < priority:
                alike[key] = (priority, lane)
    waiters.seen = len(world.waiting)
    return waiters


def _lacks(host: HostRecord, need: Need) -> frozenset[str]:
    """Of what there is too little on a host now. Devices go by one name, whatever of them is missing."""
    free = host.ledger.free
    short = [name for name, parts in need.plain.items() if parts > free.get(name, 0)]
    if need.devices and not host.ledger.fits(need.devices):
        short.append("gpu")
    return frozenset(short)
