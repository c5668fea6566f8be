"""Replicas: where objects are, who waits for them, what must be copied, and what may be dropped."""

from __future__ import annotations

from handout.scheduler.state.hosts import HOME, AheadTask
from handout.scheduler.state.runs import KEEP, OUTPUT, Run
from handout.scheduler.state.world import World
from handout.scheduler.states import State

__all__ = ["appear", "bring", "make_ready", "release_inputs", "shed", "wake", "want"]

_WAITING, _READY, _HANDED, _DONE = State.WAITING, State.READY, State.HANDED, State.DONE


def appear(world: World, run: Run, o: int, index: int, size: int = -1) -> None:
    """A host (0: the controller) has an object now."""
    where = run.where[o]
    if index in where:
        return
    run.where[o] = tuple(sorted((*where, index)))
    if size >= 0:
        run.nbytes[o] = size
    if index == 0 and run.flags[o] & OUTPUT:
        run.awaited -= 1
        world.ending.add(run)
    if not where:
        wake(world, run, o, index)
    elif not run.uses[o]:
        shed(world, run, o)


def wake(world: World, run: Run, o: int, index: int) -> None:
    """An object that nobody had exists now, on ``index``: tell those that wait for it."""
    state, missing = run.state, run.missing
    for c in run.consumers[o]:
        s = state[c]
        if s >= _DONE:
            continue
        missing[c] -= 1
        if s == _HANDED:
            at = run.host[c]
            if at != index:
                # It had been handed to where the object was to be made, and the object was made elsewhere.
                bring(world, run, o, at)
            if not missing[c] and run.claims[c] is None:
                host = world.fleet.at(at)
                if host is not None:
                    host.ahead.append(AheadTask(run.number, c, run.attempt[c], world.now))
                    world.dirty.add(host)
        elif s == _WAITING and not missing[c]:
            make_ready(world, run, c)
    if run.flags[o] & OUTPUT and index:
        bring(world, run, o, 0)


def make_ready(world: World, run: Run, t: int) -> None:
    """All inputs of a task exist, and it is with no agent: put it in the frontier."""
    run.state[t] = _READY
    run.stirred = True
    lane = run.lane_of(t)
    if run.lane[t] is lane:
        return  # an entry from an earlier time is still there
    if not lane.heap:
        lane.since = world.now
        lane.blocked = False
    run.lane[t] = lane
    lane.push(t if run.order is None else run.order[t])


def bring(world: World, run: Run, o: int, index: int) -> None:
    """See to it that an object gets to a host (0: the controller), where there is a replica to copy."""
    where = run.where[o]
    if not where or index in where or (o, index) in run.flying:
        return
    source = where[0]
    if source and len(where) > 1:
        # The controller relays, so a copy that it has is nearest; else spread the load over those that have one.
        source = where[(index + o) % len(where)]
    run.flying[o, index] = source
    world.out.copy(index, run.number, o, source)


def want(world: World, run: Run, o: int) -> None:
    """The caller wants an object that was not among the outputs, if it exists or will."""
    producer = run.spec.producer[o]
    if run.flags[o] & OUTPUT or 0 in run.where[o] or (not run.where[o] and run.state[producer] >= _DONE):
        return
    run.flags[o] |= OUTPUT
    run.awaited += 1
    bring(world, run, o, 0)


def release_inputs(world: World, run: Run, t: int) -> None:
    """A task has ended: it uses its inputs no more."""
    uses = run.uses
    for o in run.spec.inputs[t]:
        uses[o] -= 1
        if not uses[o]:
            shed(world, run, o)


def shed(world: World, run: Run, o: int) -> None:
    """Free the replicas of an object that no task will use, as far as nobody else wants it."""
    flags = run.flags[o]
    if flags & KEEP:
        return
    where = run.where[o]
    if not where:
        return
    stay: tuple[int, ...] = ()
    if where[0] == 0 and (flags & OUTPUT or run.spec.producer[o] < 0):
        # What the caller gets, or what only the controller can supply again.
        stay = HOME
    elif flags & OUTPUT:
        return  # on its way to the controller
    if where == stay:
        return
    run.where[o] = stay
    out, number = world.out, run.number
    for index in where[1:] if stay else where:
        out.drop(index, number, o)
