"""Facts of an earlier run of the same tasks: what it committed, and what it cannot answer for."""

from __future__ import annotations

from handout.protocol.ledger import Claim
from handout.scheduler.events import AttemptsFound, AttemptsUnknown, ResultsCommitted
from handout.scheduler.handlers.attempt_reports import outcome_unknown
from handout.scheduler.handlers.attempts import abandon, hand, recall, to_frontier
from handout.scheduler.handlers.cancellation import fail
from handout.scheduler.handlers.recovery import lose_object
from handout.scheduler.handlers.replicas import appear, shed
from handout.scheduler.state.hosts import HostRecord, Lingering, Need
from handout.scheduler.state.runs import Run
from handout.scheduler.state.world import World
from handout.scheduler.states import State

__all__ = ["attempts_found", "attempts_unknown", "results_committed"]


def results_committed(world: World, event: ResultsCommitted) -> None:
    """These tasks have ended well before this run began, and these of their objects are left.

    What is not, and something still needs, is made again from lineage.
    """
    run = world.runs.get(event.run)
    if run is None:
        world.stale += len(event.tasks)
        return
    tasks = [t for t in event.tasks if run.state[t] in (State.WAITING, State.READY)]
    for t in tasks:
        run.state[t] = State.DONE
        run.unended -= 1
        run.reported[t] = 1
    for o, size, name in zip(event.objects, event.nbytes, event.hosts, strict=True):
        host = world.fleet.by_name.get(name)
        if name and host is None:
            continue
        appear(world, run, o, 0 if host is None else host.index, size)
    used = [o for t in tasks for o in run.spec.inputs[t]]
    for o in used:
        run.uses[o] -= 1
    for t in tasks:
        for o in run.objects_of(t):
            if not run.where[o]:
                lose_object(world, run, o)
    # Only now is it known what tasks that have to be repeated take.
    for o in dict.fromkeys((*used, *event.objects)):
        if not run.uses[o]:
            shed(world, run, o)
    if tasks:
        world.out.done(run.number, "", tasks)
    world.ending.add(run)


def attempts_found(world: World, event: AttemptsFound) -> None:
    """A host goes on with attempts: they are handed to it, as far as anybody wants them still."""
    run, host = world.runs.get(event.run), world.fleet.by_name.get(event.host)
    if run is None or host is None:
        world.stale += len(event.tasks)
        return
    for t, attempt in zip(event.tasks, event.attempts, strict=True):
        if run.state[t] == State.HANDED and attempt > run.attempt[t]:
            # Found on two hosts: the earlier controller had seen the end of the attempt before this one.
            abandon(world, run, t)
            to_frontier(world, run, t)
        if run.state[t] not in (State.WAITING, State.READY) or attempt <= run.attempt[t]:
            # Whatever is handed over from here on has a later number.
            run.attempt[t] = max(run.attempt[t], attempt)
            _end(world, run, t, host, attempt)
        else:
            _go_on(world, run, t, host, attempt)


def _end(world: World, run: Run, t: int, host: HostRecord, attempt: int) -> None:
    """Nobody wants an attempt: what it makes all the same must go."""
    host.lingering[run.number, t, attempt] = Lingering(None, None, run.objects_of(t))
    world.out.cancel(host.index, run.number, t, attempt)


def _go_on(world: World, run: Run, t: int, host: HostRecord, attempt: int) -> None:
    """Hand an attempt to the host that has it, ahead of what is free there where nothing (more) is."""
    needs = world.fleet.needs(host, run.spec.profiles[run.spec.profile[t]])
    granted = next(((need, c) for need in needs if (c := _claim(world, run, t, host, need)) is not None), None)
    waits = next((need for need in needs if not need.shared), None)
    run.attempt[t] = attempt - 1
    if granted is not None:
        run.found[t] = attempt
        hand(world, run, t, host, *granted, found=True)
        run.begun.add(t)
    elif waits is not None:
        run.found[t] = attempt
        hand(world, run, t, host, waits, None, found=True)
    else:
        run.attempt[t] = attempt
        _end(world, run, t, host, attempt)
        if not run.spec.profiles[run.spec.profile[t]].idempotent:
            fail(world, run, t, outcome_unknown(run, t, host.name, "the host or what is shared has changed since"))
        return
    if run.missing[t]:
        # Unless it has started, it waits for what may have to be made again, and must not be in the way of that.
        recall(world, run, t)


def _claim(world: World, run: Run, t: int, host: HostRecord, need: Need) -> Claim | None:
    """What an attempt takes of its host, and of the shared amounts."""
    claim = host.ledger.claim(need.host)
    if claim is None or not need.shared:
        return claim
    shared = world.fleet.shared.claim(need.shared)
    if shared is None:
        host.ledger.release(claim)
        return None
    run.shared[t] = shared
    return claim


def attempts_unknown(world: World, event: AttemptsUnknown) -> None:
    """These tasks must not run twice, and an earlier run did not live to see whether they ran."""
    run = world.runs.get(event.run)
    if run is None:
        world.stale += len(event.tasks)
        return
    for t, host, attempt in zip(event.tasks, event.hosts, event.attempts, strict=True):
        if not run.ended(t):
            run.attempt[t] = max(run.attempt[t], attempt)
            fail(world, run, t, outcome_unknown(run, t, host, "an earlier run did not see it end"))
