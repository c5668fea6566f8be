"""Handle open runs: tasks are added to them while they go on, and the end of one task changes nothing for the others.

The core announces the end of an open run's task once the controller has the result, and not when the task is DONE.
Otherwise, a result that is lost on the way would have to be withdrawn after it was announced.
"""

from __future__ import annotations

from handout.scheduler.events import TasksAdded
from handout.scheduler.handlers.borrowing import borrow_all
from handout.scheduler.handlers.cancellation import abort, fail
from handout.scheduler.state.run_growth import add_tasks
from handout.scheduler.state.runs import Run
from handout.scheduler.state.world import World
from handout.scheduler.task_states import Outcome, State

__all__ = ["fail_run", "tasks_added"]


def tasks_added(world: World, event: TasksAdded) -> None:
    """Add tasks to an open run. They are READY."""
    run = world.runs.get(event.run)
    if run is None or run.over or run.aborting:
        world.stale += 1
        return
    add_tasks(run, event, world.remembered, world.now)
    if event.borrowed:
        borrow_all(world, run, event.borrowed)
    profiles = {run.spec.profiles[p] for p in event.profiles}
    hosts = world.fleet.by_name.values()
    # Most tasks are like earlier ones that some host can run. Only the others need a check of the whole run.
    world.recheck = world.recheck or not all(any(world.fleet.feasible(host, p) for host in hosts) for p in profiles)


def fail_run(world: World, run: Run, error: Exception) -> None:
    """End a run with an error. Of a lasting run, only the tasks fail that are not handed over; see `Run.is_lasting`."""
    if not run.is_lasting:
        abort(world, run, Outcome.FAILED, error)
        return
    run.requests.close()
    for t in range(run.task_count):
        if not run.ended(t) and run.state[t] != State.HANDED:
            fail(world, run, t, error)
