"""Pause a function on a host that has no room for the function's results or arguments.

While a function is paused on a host, its tasks avoid this host. Without the pause, the next task of the function would
probably fail there, too. Such attempts fail quickly, so the host would soon be free for more tasks, and would get most
of the function's tasks. A pause ends after a while, because there may be room again. The pause is only a preference: if
no other host can run a task, the task goes to the host on which its function is paused.
"""

from __future__ import annotations

from handout.scheduler.commands import AnnouncePause
from handout.scheduler.handlers.attempts import recall
from handout.scheduler.placing.placement import eligible_hosts
from handout.scheduler.run_spec import Profile
from handout.scheduler.state.hosts import AheadTask, HostRecord, Pause
from handout.scheduler.state.runs import Run
from handout.scheduler.state.timers import Timer, Wake
from handout.scheduler.state.world import World
from handout.scheduler.task_states import State

__all__ = ["FIRST_PAUSE_S", "LONGEST_PAUSE_S", "count_freed", "found_no_room", "pause_over"]

#: Length of the first pause of a function on a host, in seconds. Each further pause is twice as long as the last.
FIRST_PAUSE_S = 10.0
#: Length of the longest pause, in seconds. If the last pause ended longer ago than this, the next pause has the length
#: `FIRST_PAUSE_S` again.
LONGEST_PAUSE_S = 640.0


def found_no_room(world: World, run: Run, t: int, host: HostRecord, need: int) -> None:
    """Pause the function of a task on a host that had no room for ``need`` bytes; ``need`` is 0 if not known."""
    profile = run.spec.profiles[run.spec.profile[t]]
    before = host.pauses.get(profile)
    if before is not None and before.until > world.now:
        # The function is paused on this host already. The attempt was under way when the pause began, or no other host
        # could run the task. So this failure does not make the pause longer.
        host.pause(profile, Pause(before.until, before.length_s, max(before.need, need), before.freed))
        return
    length_s = FIRST_PAUSE_S
    if before is not None and world.now < before.until + LONGEST_PAUSE_S:
        length_s = min(2.0 * before.length_s, LONGEST_PAUSE_S)
    host.pause(profile, Pause(world.now + length_s, length_s, need))
    world.pausing.add(host)
    world.fleet.note_change()
    # Several pauses may end at once on different hosts, so each has a timer of its own.
    world.timers.set(world.now + length_s, Timer(Wake.PAUSE, number=host.index))
    _recall_waiting(world, host, profile, but=(run, t))
    world.out.add(AnnouncePause(run.number, t, host.name, length_s, need))


def _recall_waiting(world: World, host: HostRecord, profile: Profile, *, but: tuple[Run, int]) -> None:
    """Recall the tasks of a paused function that wait for a claim on the host and can run elsewhere.

    The task ``but`` is not recalled, because its attempt has just ended.
    """
    kept = []
    for entry in host.ahead:
        run = world.runs.get(entry.run)
        if run is not None and (run, entry.task) != but and _may_leave(world, run, entry, host, profile):
            recall(world, run, entry.task)
        else:
            kept.append(entry)
    host.keep_ahead(kept)


def _may_leave(world: World, run: Run, entry: AheadTask, host: HostRecord, profile: Profile) -> bool:
    t = entry.task
    return (
        run.spec.profiles[run.spec.profile[t]] is profile
        and run.spec.allocator is not None
        and run.state[t] == State.HANDED
        and (run.host[t], run.attempt[t]) == (host.index, entry.attempt)
        and run.claims[t] is None
        and host not in eligible_hosts(world, run.queue_of(t))
    )


def count_freed(world: World) -> None:
    """End a pause early, once enough objects were dropped on the host to make room for one task per slot.

    Only objects that were dropped since the pause began count. A host has a slot for each of its CPU cores.
    """
    for host in list(world.pausing):
        freed = sum(_freed(world, run, o) for run, o in world.out.drops(host.index))
        if not freed:
            continue
        for profile, pause in list(host.pauses.items()):
            pause.freed += freed
            if pause.until > world.now and _fits(pause, host):
                host.end_pause(profile)
                _reopen(world, host)


def _fits(pause: Pause, host: HostRecord) -> bool:
    """Return True if the dropped objects have made room for one task per slot, as far as the core can know.

    If the need is not known, any dropped object is enough.
    """
    return pause.freed >= pause.need * host.slots


def _freed(world: World, number: int, o: int) -> float:
    """Return how many bytes the drop of an object frees.

    The number is infinite if the object's run is closed, because then all objects of the run are dropped.
    """
    run = world.runs.get(number)
    return float("inf") if run is None else max(run.objects.nbytes[o], 0)


def pause_over(world: World, timer: Timer) -> None:
    """Have tasks tried on a host again, because the time of a pause there is over."""
    host = world.fleet.at(timer.number)
    if host is not None:
        _reopen(world, host)
    else:
        world.note_change()  # an allocator that placed nothing may have waited for this, see `_check_hope`


def _reopen(world: World, host: HostRecord) -> None:
    """Have tasks tried on a host again, because a pause there has ended."""
    if not any(pause.until > world.now for pause in host.pauses.values()):
        world.pausing.discard(host)
    world.fleet.note_change()
    world.dirty.add(host)
    world.note_change()
