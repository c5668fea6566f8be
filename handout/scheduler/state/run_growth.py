"""Adds tasks and values to an open run; see `RunSpec.is_open`."""

from __future__ import annotations

from typing import Any, cast

from handout.errors import InternalError
from handout.scheduler.events import TasksAdded
from handout.scheduler.state.runs import Run

__all__ = ["add_tasks"]


def add_tasks(run: Run, event: TasksAdded, remembered: dict[str, float], now: float) -> range:
    """Append the tasks of an event to the columns of an open run, and return their numbers.

    A task is ready unless it takes an object that another run keeps.

    Args:
        run: The run.
        event: The new tasks.
        remembered: Expected seconds by function name, from earlier runs.
        now: The present time in seconds.

    Raises:
        InternalError: The run is not open, or it has no numbers left for these tasks.
    """
    spec = run.spec
    first = run.task_count
    new = range(first, first + len(event.profiles))
    if not spec.is_open or new.stop > spec.count:
        raise InternalError(
            f"run {run.number} has {first} tasks and can have {spec.count if spec.is_open else first}, but gets "
            f"{len(new)} more.",
            remedy="Please report this error.",
        )
    # The specification of an open run has lists as columns; see `RunSpec.open`.
    columns = cast(Any, spec)
    columns.profiles.extend(event.new_profiles)
    columns.profile.extend(event.profiles)
    columns.fn.extend(event.fns)
    columns.inputs.extend(event.inputs)
    columns.ids.extend(event.ids)
    columns.labels.extend(event.labels)
    columns.producer.extend([-1] * len(event.nbytes))
    columns.nbytes.extend(event.nbytes)
    columns.borrowed.update(event.borrowed)
    columns.warm.update(event.warm)
    run.objects.add_values(event.nbytes)
    for o in event.borrowed:
        run.objects.set_mirrored(o, (), -1)
    run.add_profiles(now)
    for t, fn in zip(new, event.fns, strict=True):
        run.durations.add(fn, spec.profiles[spec.profile[t]].fn_name, remembered)
    run.add_tasks(len(new))
    for t in new:
        if not run.set_missing(t, run.objects.add_task(t, spec.inputs[t])):
            run.make_ready(t, now)
    return new
