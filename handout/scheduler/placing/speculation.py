"""Begin second attempts: a task that is far slower than other tasks of its `Profile` runs on another host, too.

A second attempt begins only on a host that has room for the task, and only while no ready task waits for a host.
"""

from __future__ import annotations

from math import inf

from handout.scheduler.commands import AnnounceSecondAttempt
from handout.scheduler.handlers.attempts import hand_over
from handout.scheduler.placing.placement import any_ready, claim_on, eligible_hosts
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import ReadyQueue, Run
from handout.scheduler.state.stragglers import Stragglers
from handout.scheduler.state.timers import Wake
from handout.scheduler.state.world import World
from handout.scheduler.task_states import State

__all__ = ["may_have_second", "speculate"]


def may_have_second(run: Run, t: int) -> bool:
    """Return True if a task may get a second attempt: it may run twice and elsewhere, and has not had one before."""
    profile = run.spec.profiles[run.spec.profile[t]]
    grouped = run.spec.group is not None and run.spec.group[t] >= 0
    return profile.idempotent and profile.host is None and not grouped and t not in run.speculated


def speculate(world: World) -> None:
    """Begin second attempts of slow tasks, if some host has room and no ready task waits for a host."""
    for run in world.runs.values():
        stragglers = run.stragglers
        if stragglers is None or not world.may_place(run):
            continue
        if stragglers.look_at <= world.now and _is_room(world):
            slow = stragglers.slow(world.now)
            left = [t for t in slow if not _begin_second(world, run, stragglers, t)]
            if left:
                stragglers.look_again(world.now)
        if world.now < stragglers.look_at < inf:
            world.timers.wake(stragglers.look_at, Wake.SPECULATE)


def _is_room(world: World) -> bool:
    hosts = world.fleet.by_name.values()
    return any(h.open and not h.ahead_n and h.handed < h.slots for h in hosts) and not any_ready(world)


def _begin_second(world: World, run: Run, stragglers: Stragglers, t: int) -> bool:
    """Hand a running task to a second host that can start it now. Return False if there is no such host."""
    limit = run.spec.max_concurrency
    if run.state[t] != State.HANDED or t in run.cancelling or run.claims[t] is None or run.missing[t]:
        return False
    if limit is not None and run.active + len(run.second_attempts) >= limit:
        return False
    first, running_s = run.host[t], world.now - stragglers.running[t]
    queue = run.queue_of(t)
    run.begin_second_attempt(t)
    for host in _others(world, queue, first):
        claimed = claim_on(world, queue, host, world.fleet.feasible(host, run.spec.profiles[queue.key.profile]), t)
        if claimed is not None:
            run.mark_speculated(t)
            stragglers.stopped(t)
            hand_over(world, run, t, host, *claimed)
            name, limit_s = world.fleet.names[first], run.durations.limit_s(run.spec.profile[t])
            attempt = run.attempt[t]
            world.out.add(AnnounceSecondAttempt(run.number, t, host.name, attempt, name, running_s, limit_s))
            return True
    run.continue_with_second(t)
    return False


def _others(world: World, queue: ReadyQueue, first: int) -> list[HostRecord]:
    """Return the hosts other than ``first`` that may get a queue's task, the least loaded host first."""
    hosts = [host for host in eligible_hosts(world, queue) if host.index != first and host.index not in queue.key.avoid]
    return sorted(hosts, key=lambda host: (host.load(), host.index))
