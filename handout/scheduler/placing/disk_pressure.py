"""Hosts without room for what a function makes or takes: its tasks prefer others there for a while.

An attempt that ends for want of room says nothing of the host's next hour, but much of its next second: what is
placed there now ends in the same way, and because it ends soon the host asks for more. So its function is paused
there. The pause is a preference: where nothing else can run a task, it goes there all the same.
"""

from __future__ import annotations

from handout.scheduler.commands import AnnouncePause
from handout.scheduler.handlers.attempts import recall
from handout.scheduler.placing.placement import candidates
from handout.scheduler.spec import Profile
from handout.scheduler.state.hosts import HostRecord, Pause
from handout.scheduler.state.runs import Run
from handout.scheduler.state.timers import Timer, Wake
from handout.scheduler.state.world import World
from handout.scheduler.states import State

__all__ = ["FIRST_PAUSE_S", "LONGEST_PAUSE_S", "count_freed", "found_no_room", "pause_over"]

#: The first pause of a function on a host; each further one is twice as long.
FIRST_PAUSE_S = 10.0
#: The longest one. Who had room for so long after a pause has a clean record.
LONGEST_PAUSE_S = 640.0


def found_no_room(world: World, run: Run, t: int, host: HostRecord, need: int) -> None:
    """An attempt ended because so many bytes (0: not known) found no room on its host."""
    profile = run.spec.profiles[run.spec.profile[t]]
    before = host.pauses.get(profile)
    if before is not None and before.until > world.now:
        before.need = max(before.need, need)  # it was under way when the pause began
        return
    length_s = FIRST_PAUSE_S
    if before is not None and world.now < before.until + LONGEST_PAUSE_S:
        length_s = min(2.0 * before.length_s, LONGEST_PAUSE_S)
    host.pauses[profile] = Pause(world.now + length_s, length_s, need)
    world.pausing.add(host)
    world.fleet.version += 1
    # More than one may end at once, and none of them stands for the others.
    world.timers.set(world.now + length_s, Timer(Wake.PAUSE, number=host.index))
    _take_back(world, host, profile, but=(run, t))
    world.out.add(AnnouncePause(run.number, t, host.name, length_s, need))


def _take_back(world: World, host: HostRecord, profile: Profile, *, but: tuple[Run, int]) -> None:
    """What waits for a claim on a host goes elsewhere, where there is an elsewhere; one of them has ended just now."""
    kept = []
    for entry in host.ahead:
        t, attempt = entry.task, entry.attempt
        run = world.runs.get(entry.run)
        if (
            run is not None
            and (run, t) != but
            and run.spec.profiles[run.spec.profile[t]] is profile
            and run.spec.allocator is not None
            and run.state[t] == State.HANDED
            and (run.host[t], run.attempt[t]) == (host.index, attempt)
            and run.claims[t] is None
            and host not in candidates(world, run.lane_of(t))
        ):
            recall(world, run, t)
        else:
            kept.append(entry)
    host.ahead.clear()
    host.ahead.extend(kept)


def count_freed(world: World) -> None:
    """End pauses early where as much was dropped since as all that may start there at once would need."""
    for host in list(world.pausing):
        freed = sum(_freed(world, run, o) for run, o in world.out.drops(host.index))
        if not freed:
            continue
        for pause in host.pauses.values():
            pause.freed += freed
        fit = [p for p, pause in host.pauses.items() if pause.until > world.now and _fits(pause, host)]
        for profile in fit:
            del host.pauses[profile]
        if fit:
            _see_to(world, host)


def _fits(pause: Pause, host: HostRecord) -> bool:
    """Whether there is room again, as far as the core can know it: for one task a slot."""
    return pause.freed >= pause.need * host.slots


def _freed(world: World, number: int, o: int) -> float:
    """Bytes of an object that is dropped. With a run that is closed goes all that it had anywhere."""
    run = world.runs.get(number)
    return float("inf") if run is None else max(run.nbytes[o], 0)


def pause_over(world: World, timer: Timer) -> None:
    """A pause has had its time, unless it ended before that."""
    host = world.fleet.at(timer.number)
    if host is not None:
        _see_to(world, host)


def _see_to(world: World, host: HostRecord) -> None:
    """A host may be open to a function again: who waits for others may have it."""
    if not any(pause.until > world.now for pause in host.pauses.values()):
        world.pausing.discard(host)
    world.fleet.version += 1
    world.dirty.add(host)
    for run in world.runs.values():
        run.stirred = True
