"""Handle warm values: which hosts have them, and what becomes of tasks whose warm value a host cannot make."""

from __future__ import annotations

from handout.errors import TaskError
from handout.scheduler.events import ValueCooled, ValueWarmed
from handout.scheduler.handlers.attempts import recall
from handout.scheduler.handlers.cancellation import fail
from handout.scheduler.placing.placement import able_hosts
from handout.scheduler.state.hosts import HostRecord
from handout.scheduler.state.runs import Run
from handout.scheduler.state.world import World
from handout.scheduler.task_states import State

__all__ = ["MAX_WARMINGS", "has_fit_host", "leave_host", "value_cooled", "value_warmed"]

#: If a host could not make a warm value this many times in a run, the tasks of the run that take it go to other hosts.
MAX_WARMINGS = 3


def value_warmed(world: World, event: ValueWarmed) -> None:
    """Note that a host has a warm value, so that further tasks that take it go there."""
    host = world.fleet.by_name.get(event.host)
    if host is None:
        world.stale += 1
    else:
        world.warm.add(event.value, host.index, event.seconds, world.now)


def value_cooled(world: World, event: ValueCooled) -> None:
    """Note that a host does not have a warm value any more."""
    host = world.fleet.by_name.get(event.host)
    if host is None:
        world.stale += 1
    else:
        world.warm.remove(event.value, host.index)


def has_fit_host(world: World, run: Run, t: int) -> bool:
    """Return True if there is a host for a task other than those on which each attempt would fail."""
    return any(host.index not in run.unfit[t] for host in able_hosts(world, run.queue_of(t)))


def leave_host(world: World, run: Run, failed: int, recipe: int, host: HostRecord, failure: object) -> None:
    """Have the tasks that take a warm value leave a host that cannot make it. If there is no other host, they fail.

    Args:
        world: The core's state.
        run: The run.
        failed: The task that has failed last because of the value. It is left out.
        recipe: The object by which the value is made.
        host: The host.
        failure: The failure of this task.
    """
    for t in list(run.objects.consumers[recipe]):
        if t == failed or run.ended(t) or t in run.cancelling:
            continue
        run.avoid_host(t, host.index)
        run.mark_unfit(t, host.index)
        if run.state[t] == State.HANDED:
            if run.host[t] == host.index and t not in run.started:
                recall(world, run, t)
        elif not has_fit_host(world, run, t):
            fail(world, run, t, _unmakeable(world, run, t, host, failure))
        elif run.state[t] == State.READY:
            run.make_ready(t, world.now)


def _unmakeable(world: World, run: Run, t: int, host: HostRecord, failure: object) -> TaskError:
    names = ", ".join(repr(world.fleet.names[index]) for index in run.unfit[t])
    name = run.name_of(t)
    return TaskError(
        f"Task {name!r} takes a warm value that could not be made on any host that can run the task: {names}. "
        f"On {host.name!r} this failed {MAX_WARMINGS} times, the last time with: {str(failure).rstrip('.')}.",
        remedy="Fix the function that makes the value, or what it needs on the hosts.",
        id=name,
        host=host.name,
    )
