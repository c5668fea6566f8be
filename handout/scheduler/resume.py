"""Facts of an earlier run of the same tasks: what it committed, and what it cannot answer for."""

from __future__ import annotations

from handout.scheduler.endings import fail
from handout.scheduler.events import AttemptsUnknown, ResultsCommitted
from handout.scheduler.hosts import HOME
from handout.scheduler.objects import shed, wake
from handout.scheduler.recovery import lose_object
from handout.scheduler.reports import outcome_unknown
from handout.scheduler.runs import OUTPUT
from handout.scheduler.states import State
from handout.scheduler.world import World

__all__ = ["attempts_unknown", "results_committed"]


def results_committed(world: World, event: ResultsCommitted) -> None:
    """These tasks have ended well before this run began, and the controller has these of their objects.

    What it has not, and something still needs, is made again from lineage.
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
    for o, size in zip(event.objects, event.nbytes, strict=True):
        run.where[o] = HOME
        run.nbytes[o] = size
        if run.flags[o] & OUTPUT:
            run.awaited -= 1
        wake(world, run, o, 0)
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


def attempts_unknown(world: World, event: AttemptsUnknown) -> None:
    """These tasks must not run twice, and an earlier run did not live to see whether they ran."""
    run = world.runs.get(event.run)
    if run is None:
        world.stale += len(event.tasks)
        return
    for t, host in zip(event.tasks, event.hosts, strict=True):
        if not run.ended(t):
            fail(world, run, t, outcome_unknown(run, t, host, "the controller was lost"))
