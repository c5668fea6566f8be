"""Makes the state of a run before the run begins, and frees its memory after the run, both in slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handout.scheduler.run_spec import RunSpec
from handout.scheduler.state.durations import Durations
from handout.scheduler.state.object_table import ObjectTable
from handout.scheduler.state.ranks import ranks_of
from handout.scheduler.state.runs import Run
from handout.scheduler.task_states import State
from handout.slices import Slices, empty, is_slice_end

__all__ = ["empty_run", "prepare_run"]


def prepare_run(number: int, spec: RunSpec) -> Slices[Run]:
    """Make the state of a run that has not begun. The tasks without missing inputs are READY.

    Raises:
        InternalError: The graph has a cycle. A graph with a cycle should never become a run.
    """
    objects = yield from ObjectTable.of(spec)
    run = Run(number, spec, objects, (yield from Durations.of(spec)))
    count = run.task_count
    run.attempt, run.host = [0] * count, [0] * count
    yield
    run.claims, run.backlog_s, run.queue = [None] * count, [0.0] * count, [None] * count
    yield
    run.missing = yield from objects.missing_inputs(count)
    yield from _fill_groups(run)
    run.rank, run.order, run.task_at = yield from ranks_of(spec, run.missing, objects.consumers, run.objects_of)
    for o in spec.borrowed:
        run.lacks(o)  # until the run that keeps the object is known
    yield from _fill_frontier(run)
    return run


def _fill_groups(run: Run) -> Slices[None]:
    profile = run.spec.profile
    for t, group in enumerate(run.spec.group or ()):
        if is_slice_end(t):
            yield
        if group >= 0:
            run.groups.setdefault(group, []).append(t)
    for seen, (group, members) in enumerate(run.groups.items()):
        if is_slice_end(seen):
            yield
        run.group_profiles[group] = frozenset(profile[t] for t in members)


def _fill_frontier(run: Run) -> Slices[None]:
    """Put the tasks without missing inputs into the frontier, in the run's order, so that each heap is sorted."""
    missing = run.missing
    for place, t in enumerate(range(len(missing)) if run.task_at is None else run.task_at):
        if is_slice_end(place):
            yield
        if not missing[t]:
            run.move(t, State.READY)
            queue = run.queue[t] = run.queue_of(t)
            queue.heap.append(place)


def empty_run(run: Run) -> Slices[None]:
    """Free the memory of the columns of a closed run."""
    objects = run.objects
    columns: Sequence[list[Any]] = (
        *(run.attempt, run.host, run.missing, run.claims, run.backlog_s, run.queue),
        *(run.rank, run.order or [], run.task_at or []),
        *(objects.nbytes, objects.replicas, objects.consumers, objects.uses),
    )
    for each in columns:
        yield from empty(each)
