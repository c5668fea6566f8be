"""An attempt's life with an agent: handed over, claimed for, and given up in one way or another."""

from __future__ import annotations

from collections.abc import Sequence

from handout.protocol.ledger import Claim
from handout.scheduler.handlers.replicas import bring, make_ready
from handout.scheduler.state.hosts import AheadTask, HostRecord, Lingering, Need
from handout.scheduler.state.runs import KEEP, Run
from handout.scheduler.state.second_attempts import survive, swap
from handout.scheduler.state.world import World
from handout.scheduler.states import State

__all__ = ["abandon", "dismiss", "hand", "promote", "recall", "recall_followers", "settle", "to_frontier", "unhand"]

#: A task's followers are handed over with it only where it has few: else they are better spread over the hosts.
MAX_FOLLOWERS = 2


def hand(
    world: World,
    run: Run,
    t: int,
    host: HostRecord,
    need: Need,
    claim: Claim | None,
    charge: float = 0.0,
    *,
    found: bool = False,
) -> None:
    """Hand a task to a host, with what it has claimed there, or ahead (``claim`` None) for its ``charge``.

    With ``found`` the host has it already, since before this core began.
    """
    index = host.index
    run.state[t] = State.HANDED
    attempt = run.attempt[t] = max(run.attempt[t], run.latest.get(t, 0)) + 1 if run.latest else run.attempt[t] + 1
    run.host[t] = index
    run.active += 1
    host.handed += 1
    if claim is None:
        run.charge[t] = charge
        host.ahead_n += 1
        host.ahead_s += charge
        if not run.missing[t]:
            host.ahead.append(AheadTask(run.number, t, attempt, world.now))
    else:
        run.claims[t] = claim
    if need.variant:
        run.variant[t] = need.variant
    elif run.variant:
        run.variant.pop(t, None)
    if run.groups:
        group = run.spec.group[t]  # type: ignore[index]  # there are groups, so there is the column
        if group >= 0:
            _fix_group(world, run, group, index)
    for o in run.spec.inputs[t]:
        bring(world, run, o, index)
    if found:
        return  # what of its inputs is not known to be there may have been on its way from the earlier controller
    picks = run.picks.get(t) if run.picks else None
    keep = picks is not None or run.uses[t] > 0 or run.flags[t] & KEEP > 0
    world.out.start(index, run.number, t, attempt, claim is None, need.variant, keep)
    if run.consumers[t] or picks is not None:
        _may_be_followed(world, run, t)


def _may_be_followed(world: World, run: Run, t: int) -> None:
    """Have the followers of a handed task looked at."""
    host = world.fleet.at(run.host[t])
    followers = sum(len(run.consumers[o]) for o in run.objects_of(t))
    if host is not None and followers and (followers <= MAX_FOLLOWERS or len(world.fleet.by_name) == 1):
        host.tips.append((run.number, t))
        world.tipped.add(host)


def _fix_group(world: World, run: Run, group: int, index: int) -> None:
    """The first of a group is placed: the others go to the same host."""
    if group in run.group_at:
        return
    run.group_at[group] = index
    for t in run.groups[group]:
        if run.state[t] == State.READY:
            make_ready(world, run, t)


def unhand(world: World, run: Run, t: int, *, linger: bool = False) -> HostRecord | None:
    """A task is with its agent no more: give back what it had claimed. Answers its host while that lives.

    With ``linger`` the agent has not confirmed the end of the attempt: its claims stay until it does (`settle`).
    """
    run.active -= 1
    claim = run.claims[t]
    shared = run.shared.pop(t, None) if run.shared else None
    run.claims[t] = None
    run.begun.discard(t)
    run.recalled.pop(t, None)
    if run.pace is not None:
        run.pace.running.pop(t, None)
    host = world.fleet.at(run.host[t])
    if host is None:
        _release_shared(world, shared)
        return None
    host.handed -= 1
    if claim is None:
        host.ahead_n -= 1
        host.ahead_s = host.ahead_s - run.charge[t] if host.ahead_n else 0.0
    if linger:
        host.lingering[run.number, t, run.attempt[t]] = Lingering(claim, shared, run.objects_of(t))
        return host
    if claim is not None:
        host.ledger.release(claim)
    _release_shared(world, shared)
    world.dirty.add(host)
    return host


def abandon(world: World, run: Run, t: int) -> None:
    """Give up on a task's attempts before their agents have confirmed their end."""
    _give_up(world, run, t)
    if survive(run, t):
        _give_up(world, run, t)
    run.cancelling.discard(t)


def dismiss(world: World, run: Run, t: int) -> None:
    """Of two live attempts the present one has finished: the other is ended."""
    swap(run, t)
    _give_up(world, run, t)
    survive(run, t)


def _give_up(world: World, run: Run, t: int) -> None:
    host = unhand(world, run, t, linger=True)
    if host is not None and t not in run.cancelling:
        world.out.cancel(host.index, run.number, t, run.attempt[t])


def settle(world: World, host: HostRecord | None, run: int, t: int, attempt: int) -> Sequence[int]:
    """An event is about an attempt that is not the present one: it may be the end of one that was given up.

    Answers the objects that such an attempt would have made.
    """
    left = None if host is None else host.lingering.pop((run, t, attempt), None)
    if host is None or left is None:
        world.stale += 1
        return ()
    if left.claim is not None:
        host.ledger.release(left.claim)
    _release_shared(world, left.shared)
    world.dirty.add(host)
    return left.objects


def release_lingering(world: World, host: HostRecord) -> None:
    """A host is lost, and with it all that was still claimed for attempts that the core had given up."""
    for left in host.lingering.values():
        _release_shared(world, left.shared)
    host.lingering.clear()


def _release_shared(world: World, claim: Claim | None) -> None:
    if claim is None:
        return
    world.fleet.shared.release(claim)
    # Whoever waits for shared amounts may fit on any host now, also on one where nothing else has changed.
    world.dirty.update(world.fleet.by_name.values())


def promote(world: World, host: HostRecord) -> None:
    """Let tasks that were handed ahead claim what has become free, first come first."""
    queue = host.ahead
    index = host.index
    while queue:
        number, t, attempt, _ = queue[0]
        run = world.runs.get(number)
        if (
            run is not None
            and run.state[t] == State.HANDED
            and run.attempt[t] == attempt
            and run.host[t] == index
            and run.claims[t] is None
            and not run.missing[t]
        ):
            profile = run.spec.profiles[run.spec.profile[t]]
            need = world.fleet.all_needs(profile)[run.variant.get(t, 0)]
            claim = host.ledger.claim(need.host)
            if claim is None:
                return
            run.claims[t] = claim
            host.ahead_n -= 1
            host.ahead_s = host.ahead_s - run.charge[t] if host.ahead_n else 0.0
        queue.popleft()


def to_frontier(world: World, run: Run, t: int) -> None:
    """A task that is with no agent any more is to be run again."""
    if not run.missing[t]:
        make_ready(world, run, t)
        return
    run.state[t] = State.WAITING
    for o in run.spec.inputs[t]:
        producer = run.spec.producer[o]
        if not run.where[o] and producer >= 0 and run.state[producer] == State.HANDED:
            # It may follow its producer again, where that is now.
            _may_be_followed(world, run, producer)


def recall(world: World, run: Run, t: int) -> None:
    """Ask for a handed task back unless that has been asked."""
    attempt = run.attempt[t]
    if run.recalled.get(t) != attempt and t not in run.cancelling:
        run.recalled[t] = attempt
        world.out.recall(run.host[t], run.number, t, attempt)


def recall_followers(world: World, run: Run, t: int) -> None:
    """A task will not make its result where its followers wait for it: they are to be placed anew."""
    index = run.host[t]
    for o in run.objects_of(t):
        if run.where[o]:
            continue
        for c in run.consumers[o]:
            if run.state[c] == State.HANDED and run.host[c] == index:
                recall(world, run, c)
