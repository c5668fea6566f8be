"""The loop that the built-in allocators share.

For each task, the loop ranks the hosts that have room for the task, and chooses the host with the lowest rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from handout.allocators.draft import Draft
from handout.allocators.task import Task
from handout.allocators.view import ClusterView

__all__ = ["Load", "Rank", "place_by_rank"]

#: A function that returns the rank of a host for a task. The host with the lowest rank gets the task.
Rank = Callable[[Task, str], tuple[float, ...]]


class Load:
    """The number of tasks per CPU core, for each host.

    At first, the number includes only the tasks that are running on the host. `add` counts each task that the allocator
    places on the host.
    """

    def __init__(self, view: ClusterView) -> None:
        self._tasks = {name: float(host.running) for name, host in view.hosts.items()}
        self._cores = {name: max(1.0, float(host.total.amounts.get("cpu", 1))) for name, host in view.hosts.items()}

    def of(self, host: str) -> float:
        """Return the number of tasks per CPU core of one host."""
        return self._tasks[host] / self._cores[host]

    def add(self, host: str) -> None:
        """Count one more task on a host."""
        self._tasks[host] += 1.0


def place_by_rank(
    frontier: Sequence[Task], view: ClusterView, rank: Rank, placed: Callable[[str], None] = lambda host: None
) -> Draft:
    """Place each task on the host that has the lowest rank among the hosts with room for the task.

    A host in a task's ``not_on`` gets the task only if no other host has room. A task for which no host has room is
    left out. After each placement, the function calls ``placed`` with the name of the host.
    """
    draft = view.draft()
    for task in frontier:
        fitting = [host for host in view.hosts if draft.fits(task, host)]
        if fitting:
            host = min(fitting, key=lambda host: (host in task.not_on, *rank(task, host)))
            draft.place(task, host)
            placed(host)
    return draft
