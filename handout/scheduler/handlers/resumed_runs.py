"""Take over from an earlier run of the same tasks: committed results, attempts that go on, and unknown outcomes.

A claim is an amount of a host, or of the amounts that all hosts share, that is set aside for one attempt.
"""

from __future__ import annotations

from math import inf

from handout.protocol.resource_ledger import Claim
from handout.scheduler.events import AttemptsFound, AttemptsUnknown, ResultsCommitted
from handout.scheduler.handlers.attempts import give_up_attempts, hand_over, recall, return_to_frontier
from handout.scheduler.handlers.cancellation import fail
from handout.scheduler.handlers.recovery import lose_object
from handout.scheduler.handlers.replicas import add_replica, drop_unused
from handout.scheduler.handlers.retries import outcome_unknown
from handout.scheduler.state.hosts import Demand, HostRecord, Lingering
from handout.scheduler.state.runs import Run
from handout.scheduler.state.world import World
from handout.scheduler.task_states import State
from handout.slices import Slices

__all__ = ["attempts_found", "attempts_unknown", "results_committed"]


def results_committed(world: World, event: ResultsCommitted) -> None:
    """Note the tasks that an earlier run has finished, and the replicas of their objects that still exist.

    Objects that are needed and do not exist any more are made again from lineage.
    """
    run = world.runs.get(event.run)
    if run is None:
        world.stale += len(event.tasks)
    else:
        run.pause()
        world.work_on(run, _note_committed(world, run, event))


def _note_committed(world: World, run: Run, event: ResultsCommitted) -> Slices[None]:
    """Do the work of `results_committed`.

    The core places no task of the run meanwhile. If a host is lost, the core first finishes this work, so that all
    replicas are still where the event says.
    """
    run.note_earlier(True)
    tasks = []
    for t in event.tasks:
        if run.state[t] in (State.WAITING, State.READY):
            run.move(t, State.DONE)
            tasks.append(t)
            run.mark_reported((t,))
        yield
    for o, size, name in zip(event.objects, event.nbytes, event.hosts, strict=True):
        yield
        host = world.fleet.by_name.get(name)
        if name and host is None:
            continue
        add_replica(world, run, o, 0 if host is None else host.index, size)
    touched = dict.fromkeys(event.objects)
    for t in tasks:
        yield
        run.objects.release(run.spec.inputs[t])
        touched.update(dict.fromkeys(run.spec.inputs[t]))
    for t in tasks:
        yield
        for o in run.objects_of(t):
            if not run.objects.replicas[o]:
                lose_object(world, run, o)
    # Objects are dropped only now, because `lose_object` may have tasks repeated that need some of these objects.
    for o in touched:
        yield
        if not run.objects.uses[o]:
            drop_unused(world, run, o)
    for t in tasks:
        yield
        world.out.done(run.number, "", (t,))
    for queue in list(run.queues.values()):
        yield from queue.remove_stale()
    run.note_earlier(False)
    run.unpause()


def attempts_found(world: World, event: AttemptsFound) -> None:
    """Take over the attempts that an earlier controller handed to a host, and end those that are not needed."""
    run, host = world.runs.get(event.run), world.fleet.by_name.get(event.host)
    if run is None or host is None:
        world.stale += len(event.tasks)
        return
    world.jobs.finish(run.number)
    for t, attempt, shown in zip(event.tasks, event.attempts, event.shown or [0] * len(event.tasks), strict=True):
        run.begun.take_over(t, attempt, shown)
        if run.state[t] == State.HANDED and attempt > run.attempt[t]:
            # Two hosts have an attempt of this task, and only the attempt with the higher number counts. The earlier
            # controller began this attempt after it had seen the other one end, or as a second attempt beside the other
            # one.
            give_up_attempts(world, run, t)
            return_to_frontier(world, run, t)
        if run.state[t] not in (State.WAITING, State.READY) or attempt <= run.attempt[t]:
            run.skip_attempts(t, attempt)
            _end(world, run, t, host, attempt)
        else:
            _go_on(world, run, t, host, attempt)


def _end(world: World, run: Run, t: int, host: HostRecord, attempt: int) -> None:
    """End an attempt that is not needed. Note its objects, so that they are dropped if the attempt finishes first."""
    host.add_lingering(run.number, t, attempt, Lingering(None, None, run.objects_of(t)))
    world.out.cancel(host.index, run.number, t, attempt)


def _go_on(world: World, run: Run, t: int, host: HostRecord, attempt: int) -> None:
    """Take over an attempt on the host that has it.

    If there is room for the task's cost, the attempt gets a claim. Otherwise it waits on the host until it can get one.
    If the host does not cover the task's cost, or there is too little of the shared amounts, the attempt is ended
    instead.
    """
    profile = run.spec.profiles[run.spec.profile[t]]
    demands = world.fleet.feasible(host, profile)
    granted = next(((demand, c) for demand in demands if (c := _claim(world, run, t, host, demand)) is not None), None)
    waits = next((demand for demand in demands if not demand.shared), None)
    if granted is not None:
        run.mark_found(t, attempt)
        hand_over(world, run, t, host, *granted, found=True)
        run.mark_started(t, -inf)  # the core does not know when the attempt started
    elif waits is not None:
        run.mark_found(t, attempt)
        hand_over(world, run, t, host, waits, 0.0, found=True)
    else:
        run.skip_attempts(t, attempt)
        _end(world, run, t, host, attempt)
        if not profile.idempotent:
            fail(world, run, t, outcome_unknown(run, t, host.name, "the host or the shared amounts have changed since"))
        return
    if run.missing[t]:
        # A task that has not started would wait for its inputs, and have a claim on room meanwhile. The tasks that make
        # these inputs may need that room, so the task is recalled. A task that has started goes on.
        recall(world, run, t)


def _claim(world: World, run: Run, t: int, host: HostRecord, demand: Demand) -> Claim | None:
    """Claim what an attempt takes of its host and of the shared amounts. Return None if there is not enough."""
    claim = host.ledger.claim(demand.host)
    if claim is None or not demand.shared:
        return claim
    shared = world.fleet.shared.claim(demand.shared)
    if shared is None:
        host.ledger.release(claim)
        return None
    run.grant_shared(t, shared)
    return claim


def attempts_unknown(world: World, event: AttemptsUnknown) -> None:
    """Fail tasks that must not run twice and that an earlier run handed over without seeing them end."""
    run = world.runs.get(event.run)
    if run is None:
        world.stale += len(event.tasks)
    else:
        run.pause()
        world.work_on(run, _fail_unknown(world, run, event))


def _fail_unknown(world: World, run: Run, event: AttemptsUnknown) -> Slices[None]:
    unknown = event.shown or [0] * len(event.tasks)
    for t, host, attempt, shown in zip(event.tasks, event.hosts, event.attempts, unknown, strict=True):
        yield
        if not run.ended(t):
            run.begun.take_over(t, attempt, shown)
            run.skip_attempts(t, attempt)
            fail(world, run, t, outcome_unknown(run, t, host, "an earlier run did not see it end"))
    run.unpause()
