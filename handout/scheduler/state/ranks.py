"""The order of a run's tasks: by priority, then by rank, then by task number. Higher priorities and ranks come first.

The rank of a task is the number of tasks that follow it on the longest path from it to an end of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from handout.errors import InternalError
from handout.scheduler.run_spec import RunSpec
from handout.slices import Slices, is_slice_end

__all__ = ["ranks_of"]


def ranks_of(
    spec: RunSpec,
    missing: Sequence[int],
    consumers: Sequence[Sequence[int]],
    objects_of: Callable[[int], Sequence[int]],
) -> Slices[tuple[list[int], list[int] | None, list[int] | None]]:
    """Return the ranks and the order of the tasks of a run that has not begun.

    Args:
        spec: The description of the run.
        missing: How many inputs of each task must still be made by other tasks of the run, by task number.
        consumers: The tasks that take each object, by object number.
        objects_of: Returns the objects that a task makes.

    Returns:
        Three columns: the rank of each task, the place of each task in the order, and the task at each place. The first
        column is empty if no task follows another. If, in addition, the run has no priorities, the other two columns
        are None, because the order is then that of the task numbers.

    Raises:
        InternalError: The graph has a cycle. A graph with a cycle should never become a run.
    """
    count = len(missing)
    rank: list[int] = []
    if any(missing):
        rank = yield from _critical_path(spec, missing, consumers, objects_of)
    if not rank and spec.priority is None:
        return rank, None, None
    priority = spec.priority or [0.0] * count
    ranks = rank or [0] * count
    # Sorting all tasks would be one long slice. There are far fewer pairs of priority and rank.
    alike: dict[tuple[float, int], list[int]] = {}
    for t in range(count):
        if is_slice_end(t):
            yield
        alike.setdefault((-priority[t], -ranks[t]), []).append(t)
    at: list[int] = []
    for key in sorted(alike):
        at += alike[key]
    order = [0] * count
    for place, t in enumerate(at):
        if is_slice_end(place):
            yield
        order[t] = place
    return rank, order, at


def _critical_path(
    spec: RunSpec,
    missing: Sequence[int],
    consumers: Sequence[Sequence[int]],
    objects_of: Callable[[int], Sequence[int]],
) -> Slices[list[int]]:
    """Return the rank of each task."""
    producer, inputs = spec.producer, spec.inputs
    missing = list(missing)
    topological = [t for t, n in enumerate(missing) if not n]
    for place, t in enumerate(topological):  # the loop appends to the list
        if is_slice_end(place):
            yield
        for o in objects_of(t):
            for c in consumers[o]:
                missing[c] -= 1
                if not missing[c]:
                    topological.append(c)
    if len(topological) < spec.count:
        raise InternalError("the graph of a run has a cycle among its tasks", remedy="Please report this error.")
    rank = [0] * spec.count
    for place, t in enumerate(reversed(topological)):
        if is_slice_end(place):
            yield
        above = rank[t] + 1
        for o in inputs[t]:
            p = producer[o]
            if p >= 0 and rank[p] < above:
                rank[p] = above
    return rank
