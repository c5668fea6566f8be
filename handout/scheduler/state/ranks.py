"""In which order ready tasks go: by priority, then by how many tasks still follow, then by number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handout.errors import InternalError

if TYPE_CHECKING:
    from handout.scheduler.state.runs import Run

__all__ = ["ranks_of"]


def ranks_of(run: Run) -> tuple[list[int], list[int] | None, list[int] | None]:
    """Rank the tasks of a run.

    Returns: Ranks by task (empty where no task has a follower); each task's place in the order; the task at
        each place. The latter two are None where the order is that of the numbers.
    Raises:
        InternalError: The graph has a cycle, which compiling it should have refused.
    """
    spec = run.spec
    count = spec.count
    rank = _critical_path(run) if any(run.missing) else []
    if not rank and spec.priority is None:
        return rank, None, None
    priority = spec.priority or [0.0] * count
    ranks = rank or [0] * count
    at = sorted(range(count), key=lambda t: (-priority[t], -ranks[t], t))
    order = [0] * count
    for place, t in enumerate(at):
        order[t] = place
    return rank, order, at


def _critical_path(run: Run) -> list[int]:
    """The longest way, in tasks, from each task to an end."""
    producer, inputs, consumers = run.spec.producer, run.spec.inputs, run.consumers
    missing = list(run.missing)
    topological = [t for t, n in enumerate(missing) if not n]
    for t in topological:
        for o in run.objects_of(t):
            for c in consumers[o]:
                missing[c] -= 1
                if not missing[c]:
                    topological.append(c)
    if len(topological) < run.spec.count:
        raise InternalError(f"run {run.number} has a cycle among its tasks", remedy="Please report it.")
    rank = [0] * run.spec.count
    for t in reversed(topological):
        above = rank[t] + 1
        for o in inputs[t]:
            p = producer[o]
            if p >= 0 and rank[p] < above:
                rank[p] = above
    return rank
