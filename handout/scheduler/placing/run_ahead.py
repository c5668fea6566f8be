"""Hide latency: hand tasks over together with the tasks that make their inputs, and recall tasks for idle hosts.

The followers of a task are the tasks that take its result. A task is handed ahead if it is handed over to a host that
has no room for its cost yet, or that is still making the task's inputs. The backlog of a host is the expected seconds
of its tasks that were handed ahead and have not got room yet. A host has a slot for each of its CPU cores.
"""

from __future__ import annotations

from enum import Enum, auto

from handout.scheduler.handlers.attempts import hand_over, recall
from handout.scheduler.placing.placement import any_ready, is_paused
from handout.scheduler.placing.priority_guard import must_wait
from handout.scheduler.state.hosts import AheadTask, HostRecord
from handout.scheduler.state.runs import Run
from handout.scheduler.state.timers import Wake
from handout.scheduler.state.world import World
from handout.scheduler.task_states import State

__all__ = ["hand_over_followers", "recall_for_idle"]


class _Followers(Enum):
    """The outcome of a try to hand over the followers of a task."""

    #: No follower needs another try.
    DONE = auto()
    #: Some followers are not handed over as long as a more urgent task waits for the host.
    HELD_BACK = auto()
    #: The host's backlog has no room for some follower now, or the run has reached ``max_concurrency``.
    NO_ROOM = auto()


def hand_over_followers(world: World) -> None:
    """Hand WAITING tasks over to the host that makes all of their missing inputs, as far as its backlog has room.

    A host's leaders are the tasks that were handed to it and whose followers may be handed to it, too.
    """
    for host in sorted(world.leading, key=lambda host: host.index):
        if not host.open or host.reserved is not None:
            continue
        held = []
        while host.leaders:
            number, t = host.leaders[0]
            run = world.runs.get(number)
            followers = _Followers.DONE
            if run is not None and _is_with(run, t, host) and run.spec.allocator is not None and not run.aborting:
                followers = _hand_over_followers_of(world, run, t, host)
            if followers is _Followers.NO_ROOM:
                break
            leader = host.next_leader()
            if followers is _Followers.HELD_BACK:
                held.append(leader)  # go on, because the followers of the next leader may be urgent enough
        host.return_leaders(held)
        if not host.leaders:
            world.leading.discard(host)


def _is_with(run: Run, t: int, host: HostRecord) -> bool:
    return run.state[t] == State.HANDED and run.host[t] == host.index and t not in run.cancelling


def _hand_over_followers_of(world: World, run: Run, t: int, host: HostRecord) -> _Followers:
    """Hand over those followers of one task that may be handed over now."""
    limit, result = run.spec.max_concurrency, _Followers.DONE
    for o in run.objects_of(t):
        for c in run.objects.consumers[o]:
            if run.state[c] != State.WAITING or not _may_follow(world, run, c, host):
                continue
            if limit is not None and run.active >= limit:
                return _Followers.NO_ROOM
            expected_s = run.durations.expected_s[run.spec.fn[c]]
            if host.is_too_long(expected_s):
                continue
            demand = world.fleet.feasible(host, run.spec.profiles[run.spec.profile[c]])[0]
            if must_wait(world, host, demand, run.priority_of(c), expected_s):
                result = _Followers.HELD_BACK
                continue
            backlog_s = host.backlog_for(expected_s)
            if backlog_s < 0.0:
                return _Followers.NO_ROOM
            hand_over(world, run, c, host, demand, backlog_s)
    return result


def _may_follow(world: World, run: Run, c: int, host: HostRecord) -> bool:
    """Return True if a waiting task may be handed to a host although its inputs are still being made there."""
    profiles = run.spec.profiles
    profile = profiles[run.spec.profile[c]]
    demands = world.fleet.feasible(host, profile)
    if not profile.idempotent or not demands or demands[0].shared or demands[0].devices:
        return False
    queue = run.queue_of(c)
    key = queue.key
    if (key.pin and key.pin != host.index) or host.index in key.avoid:
        return False
    if world.pausing and is_paused(world, queue, host):
        return False
    if key.group_profiles and not all(world.fleet.feasible(host, profiles[p]) for p in key.group_profiles):
        return False
    return run.missing[c] <= host.handed and _all_made_at(run, c, host)


def _all_made_at(run: Run, c: int, host: HostRecord) -> bool:
    """Return True if each input of a task exists or is being made on the host.

    This function is called each time that a producer of one of the task's inputs is handed over, and the task may have
    many inputs. So each call begins with the input at which the call before stopped. A call that passes the last input
    checks all inputs again, because the state of earlier inputs may have changed meanwhile.
    """
    producer, replicas, inputs = run.spec.producer, run.objects.replicas, run.spec.inputs[c]
    at = begin = run.inputs_checked.get(c, 0)
    while at < len(inputs) and (replicas[inputs[at]] or _is_with(run, producer[inputs[at]], host)):
        at += 1
    if at == len(inputs):
        if not begin or all(replicas[o] or _is_with(run, producer[o], host) for o in inputs):
            return True
        at = 0
    run.note_inputs_checked(c, at)
    return False


def recall_for_idle(world: World) -> None:
    """Recall tasks that have waited on one host for too long, if another host is idle."""
    donors = [host for host in world.fleet.by_name.values() if host.ahead]
    if not donors or len(world.fleet.by_name) == 1 or any_ready(world):
        return
    idle = [h for h in world.fleet.by_name.values() if h.open and not h.ahead_n and h.handed < h.slots]
    for donor in donors:
        takers = [host for host in idle if host is not donor]
        if takers:
            _recall_from(world, donor, takers)


def _recall_from(world: World, donor: HostRecord, takers: list[HostRecord]) -> None:
    """Recall tasks from the end of the donor's queue, so that they can run on the takers, which are idle hosts.

    A task is movable if it has waited on the donor for long enough and can run on a taker. If the takers have F free
    slots and the donor has D slots, the share F / (F + D) of the movable tasks is recalled, rounded up to a whole task.
    """
    before = world.now - donor.target_s
    waiting = [entry for entry in donor.ahead if _may_be_recalled(world, entry, donor)]
    young = [entry for entry in waiting if entry.since_s > before]
    movable = [entry for entry in waiting if entry.since_s <= before and _fits_any(world, entry, takers)]
    if young and not movable and any(_fits_any(world, entry, takers) for entry in young):
        world.timers.wake(max(young[0].since_s + donor.target_s, world.now + donor.target_s * 0.1), Wake.RECALL)
    if not movable:
        return
    spare = sum(host.slots - host.handed for host in takers)
    count = min(len(movable), max(1, -(-len(movable) * spare // (spare + donor.slots))))
    taken = set(movable[-count:])
    for entry in movable[-count:]:
        recall(world, world.runs[entry.run], entry.task)
    donor.keep_ahead(entry for entry in donor.ahead if entry not in taken)


def _may_be_recalled(world: World, entry: AheadTask, donor: HostRecord) -> bool:
    run, t = world.runs.get(entry.run), entry.task
    if run is None or not _is_with(run, t, donor) or run.attempt[t] != entry.attempt:
        return False
    return run.claims[t] is None and not run.missing[t]


def _fits_any(world: World, entry: AheadTask, takers: list[HostRecord]) -> bool:
    run, t = world.runs[entry.run], entry.task
    if t in run.started or t in run.recalled or run.spec.allocator is None:
        return False
    profiles = run.spec.profiles
    queue = run.queue_of(t)
    key = queue.key
    return any(
        host.index not in key.avoid
        and not is_paused(world, queue, host)
        and (not key.pin or key.pin == host.index)
        and world.fleet.feasible(host, profiles[key.profile])
        for host in takers
    )
