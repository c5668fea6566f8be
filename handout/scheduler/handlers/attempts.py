"""The steps of an attempt's life: it is handed over, gets its claim, is recalled or given up, and ends.

A claim is an amount of a host, or of the amounts that all hosts share, that is set aside for one attempt. A task is
handed ahead if it is handed over before it has a claim on its host. An attempt is given up if the core does not wait
for it any more, although the agent has not confirmed that it has ended.

A slow task may have two attempts at the same time. The columns of the run then describe one of them, which is called
the present attempt. `Run.second_attempts` describes the other attempt.
"""

from __future__ import annotations

from collections.abc import Sequence

from handout.protocol.resource_ledger import Claim
from handout.scheduler.handlers.replicas import copy_to
from handout.scheduler.state.hosts import Demand, HostRecord, Lingering, ahead_task
from handout.scheduler.state.object_table import KEEP
from handout.scheduler.state.runs import Run
from handout.scheduler.state.world import World
from handout.scheduler.task_states import State

__all__ = [
    "confirm_end",
    "end_attempt",
    "end_other_attempt",
    "give_up_attempts",
    "hand_over",
    "promote",
    "recall",
    "recall_followers",
    "release_lingering",
    "requeue_group",
    "return_to_frontier",
]

#: The followers of a task are the tasks that take its result. They may be handed to the task's host before the result
#: exists, if there are at most this many followers or only one host. More followers run sooner if they are spread over
#: several hosts.
MAX_FOLLOWERS = 2


def hand_over(
    world: World,
    run: Run,
    t: int,
    host: HostRecord,
    demand: Demand,
    share: Claim | float,
    *,
    found: bool = False,
) -> None:
    """Hand a task over to a host.

    Args:
        world: The core's state.
        run: The task's run.
        t: The task.
        host: The host.
        demand: The variant of the task's cost that the core has chosen.
        share: The task's claim on the host. If the task is handed ahead, it has no claim yet. Then this argument is the
            number of seconds that the task adds to the host's backlog.
        found: True if an earlier controller handed the task to the host, and the host still has it.
    """
    index = host.index
    claim, backlog_s = (share, 0.0) if isinstance(share, Claim) else (None, share)
    attempt = run.begin_attempt(t, index, claim, backlog_s, demand.variant)
    if claim is None:
        host.add_ahead(backlog_s, None if run.missing[t] else ahead_task(run.number, t, attempt, world.now))
    else:
        host.add_running()
    if run.groups:
        group = run.spec.group[t]  # type: ignore[index]  # a run with groups has this column
        if group >= 0:
            _pin_group(world, run, group, index)
    for o in run.spec.inputs[t]:
        copy_to(world, run, o, index)
    if found:
        # The agent has the task already, so nothing but the inputs is sent. The earlier controller may have ended
        # before it had sent all of them.
        return
    objects = run.objects
    elements = objects.elements.get(t) if objects.elements else None
    keep = elements is not None or objects.uses[t] > 0 or objects.flags[t] & KEEP > 0
    world.out.start(index, run.number, t, attempt, claim is None, demand.variant, keep)
    if objects.consumers[t] or elements is not None:
        _may_be_followed(world, run, t)


def _may_be_followed(world: World, run: Run, t: int) -> None:
    """Note that the followers of a handed task may be handed to the task's host; see `MAX_FOLLOWERS`.

    Do nothing if the task has more followers than `MAX_FOLLOWERS` and there is more than one host.
    """
    host = world.fleet.at(run.host[t])
    consumers = run.objects.consumers
    followers = len(consumers[t])
    if run.objects.elements:
        followers = sum(len(consumers[o]) for o in run.objects_of(t))
    if host is not None and followers and (followers <= MAX_FOLLOWERS or len(world.fleet.by_name) == 1):
        host.add_leader(run.number, t)
        world.leading.add(host)


def _pin_group(world: World, run: Run, group: int, index: int) -> None:
    """Pin a group to the host that its first task was handed to, because all tasks of a group must run on one host."""
    if run.pin_group(group, index):
        requeue_group(world, run, group)


def requeue_group(world: World, run: Run, group: int) -> None:
    """Move a group's ready tasks to other queues. Their queues depend on the group's host, which has changed."""
    for t in run.groups[group]:
        if run.state[t] == State.READY:
            run.make_ready(t, world.now)


def end_attempt(world: World, run: Run, t: int, *, linger: bool = False) -> HostRecord | None:
    """End a task's present attempt and release the claims of this attempt.

    Args:
        world: The core's state.
        run: The task's run.
        t: The task.
        linger: True if the agent has not confirmed the end of the attempt. Then the claims stay until `confirm_end`.

    Returns:
        The host of the attempt, or None if this host was lost.
    """
    claim, shared = run.end_attempt(t)
    host = world.fleet.at(run.host[t])
    if host is None:
        _release_shared(world, shared)
        return None
    host.remove_attempt(claim, run.backlog_s[t])
    if linger:
        host.add_lingering(run.number, t, run.attempt[t], Lingering(claim, shared, run.objects_of(t)))
        return host
    if claim is not None:
        host.ledger.release(claim)
    _release_shared(world, shared)
    world.dirty.add(host)
    return host


def give_up_attempts(world: World, run: Run, t: int) -> None:
    """Give up all attempts of a task, although their agents have not confirmed that these attempts have ended."""
    _give_up(world, run, t)
    if run.continue_with_second(t):
        _give_up(world, run, t)
    run.cancel_no_more(t)


def end_other_attempt(world: World, run: Run, t: int) -> None:
    """Give up a task's other attempt, because the present attempt has finished."""
    run.swap_attempts(t)
    _give_up(world, run, t)
    run.continue_with_second(t)


def _give_up(world: World, run: Run, t: int) -> None:
    host = end_attempt(world, run, t, linger=True)
    if host is not None and t not in run.cancelling:
        world.out.cancel(host.index, run.number, t, run.attempt[t])


def confirm_end(world: World, host: HostRecord | None, run: int, t: int, attempt: int) -> Sequence[int]:
    """Release the claims of an attempt that the core had given up, because its agent has reported its end.

    Returns:
        The objects that the attempt may have made. Empty if the core had not given up such an attempt.
    """
    left = None if host is None else host.confirm_end(run, t, attempt)
    if host is None or left is None:
        world.stale += 1
        return ()
    if left.claim is not None:
        host.ledger.release(left.claim)
    _release_shared(world, left.shared)
    world.dirty.add(host)
    return left.objects


def release_lingering(world: World, host: HostRecord) -> None:
    """Release the shared amounts that given-up attempts on a lost host still hold."""
    for left in host.lingering.values():
        _release_shared(world, left.shared)


def _release_shared(world: World, claim: Claim | None) -> None:
    if claim is None:
        return
    world.fleet.shared.release(claim)
    # A task that waits for shared amounts may fit on any host now, so the core must try all hosts again.
    world.dirty.update(world.fleet.by_name.values())


def promote(world: World, host: HostRecord) -> None:
    """Grant claims to tasks that were handed ahead, longest wait first. Stop at the first task that does not fit."""
    index = host.index
    count = 0
    for number, t, attempt, _ in host.ahead:
        run = world.runs.get(number)
        if (
            run is not None
            and run.state[t] == State.HANDED
            and run.attempt[t] == attempt
            and run.host[t] == index
            and run.claims[t] is None
            and not run.missing[t]
        ):
            demand = world.fleet.demands(run.spec.profiles[run.spec.profile[t]])[run.variant.get(t, 0)]
            claim = host.ledger.claim(demand.host)
            if claim is None:
                break
            run.set_claim(t, claim)
            host.shorten_backlog(run.backlog_s[t])
        count += 1
    host.remove_ahead(count)


def return_to_frontier(world: World, run: Run, t: int) -> None:
    """Make a task READY again, or WAITING if an input is missing. Its attempts must have ended or been given up."""
    if not run.missing[t]:
        run.make_ready(t, world.now)
        return
    run.move(t, State.WAITING)
    for o in run.spec.inputs[t]:
        producer = run.spec.producer[o]
        if not run.objects.replicas[o] and producer >= 0 and run.state[producer] == State.HANDED:
            # The task may again be handed to the host that is making this input.
            _may_be_followed(world, run, producer)


def recall(world: World, run: Run, t: int) -> None:
    """Recall a task that was handed over, unless it was recalled before or is being cancelled."""
    if run.mark_recalled(t):
        world.out.recall(run.host[t], run.number, t, run.attempt[t])


def recall_followers(world: World, run: Run, t: int) -> None:
    """Recall the followers of a task that wait on the task's host, because its result will not be made there."""
    index = run.host[t]
    for o in run.objects_of(t):
        if run.objects.replicas[o]:
            continue
        for c in run.objects.consumers[o]:
            if run.state[c] == State.HANDED and run.host[c] == index:
                recall(world, run, c)
