"""Stragglers: a task far slower than its peers gets a second attempt on another host, where one is free."""

from __future__ import annotations

from math import inf

from handout.scheduler.commands import AnnounceSecond
from handout.scheduler.handlers.attempts import hand
from handout.scheduler.placing.placement import candidates, claim_on, ready_anywhere
from handout.scheduler.state.pace import Pace
from handout.scheduler.state.runs import Run
from handout.scheduler.state.second_attempts import set_aside, survive
from handout.scheduler.state.timers import Wake
from handout.scheduler.state.world import World
from handout.scheduler.states import State

__all__ = ["may_have_second", "speculate"]


def may_have_second(run: Run, t: int) -> bool:
    """Whether a task may be attempted twice at once: it is safe to repeat, free to go elsewhere, and never was."""
    profile = run.spec.profiles[run.spec.profile[t]]
    grouped = run.spec.group is not None and run.spec.group[t] >= 0
    return profile.idempotent and profile.host is None and not grouped and t not in run.speculated


def speculate(world: World) -> None:
    """Start second attempts of what is slow, as long as nothing else waits for the room that they take."""
    for run in world.runs.values():
        pace = run.pace
        if pace is None or run.over or run.aborting:
            continue
        if pace.look_at <= world.now and _is_room(world):
            late = [t for t in pace.slow(world.now) if not _start_second(world, run, pace, t)]
            if late:
                pace.look_at = world.now  # whoever gets free next may take them
        if world.now < pace.look_at < inf:
            world.timers.wake(pace.look_at, Wake.SPECULATE)


def _is_room(world: World) -> bool:
    hosts = world.fleet.by_name.values()
    return any(h.open and not h.ahead_n and h.handed < h.slots for h in hosts) and not ready_anywhere(world)


def _start_second(world: World, run: Run, pace: Pace, t: int) -> bool:
    """Hand a running task to a second host that can begin with it now; answers whether there is one."""
    limit = run.spec.max_concurrency
    if run.state[t] != State.HANDED or t in run.cancelling or run.claims[t] is None or run.missing[t]:
        return False
    if limit is not None and run.active + len(run.twins) >= limit:
        return False
    first, running_s = run.host[t], world.now - pace.running[t]
    lane = run.lane_of(t)
    choices = sorted(candidates(world, lane).items(), key=lambda choice: (choice[0].load(), choice[0].index))
    set_aside(run, t)
    for host, needs in choices:
        if host.index == first or host.index in lane.key.avoid:
            continue
        claimed = claim_on(world, lane, host, needs, t)
        if claimed is not None:
            run.speculated.add(t)
            del pace.running[t]
            hand(world, run, t, host, *claimed)
            name = world.fleet.names[first]
            limit_s = pace.limit_s(run.spec.profile[t])
            world.out.add(AnnounceSecond(run.number, t, host.name, run.attempt[t], name, running_s, limit_s))
            return True
    survive(run, t)
    return False
