"""The built-in allocators, written as anybody would write one.

Given to a run they are not called: the core knows them by name and runs the same rule without leaving its own
data. They can be called from an allocator of your own, for the tasks that it does not care about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from handout.allocators.draft import Draft
from handout.allocators.task import Task
from handout.allocators.view import ClusterView

__all__ = ["first_available", "load_balanced", "locality"]

_Rank = Callable[[Task, str], tuple[float, ...]]


async def first_available(frontier: Sequence[Task], view: ClusterView, /) -> Mapping[str, str]:
    """The first host, in the inventory's order, that has room."""
    order = {name: number for number, name in enumerate(view.hosts)}
    return _place(frontier, view, lambda task, host: (order[host],))


async def load_balanced(frontier: Sequence[Task], view: ClusterView, /) -> Mapping[str, str]:
    """The host with the fewest tasks a core."""
    load = _Load(view)
    return _place(frontier, view, lambda task, host: (load(host),), load.add)


async def locality(frontier: Sequence[Task], view: ClusterView, /) -> Mapping[str, str]:
    """The host that needs the fewest bytes brought to it, then the one with the fewest tasks a core."""
    load = _Load(view)
    return _place(frontier, view, lambda task, host: (view.missing_bytes(task, host), load(host)), load.add)


class _Load:
    """Tasks a core, counting those that are being placed."""

    def __init__(self, view: ClusterView) -> None:
        self._tasks = {name: float(host.running) for name, host in view.hosts.items()}
        self._cores = {name: max(1.0, float(host.total.amounts.get("cpu", 1))) for name, host in view.hosts.items()}

    def __call__(self, host: str) -> float:
        return self._tasks[host] / self._cores[host]

    def add(self, host: str) -> None:
        self._tasks[host] += 1.0


def _place(
    frontier: Sequence[Task], view: ClusterView, rank: _Rank, placed: Callable[[str], None] = lambda host: None
) -> Draft:
    """Each task on the host of the least rank that has room; where it has failed only if there is no other."""
    draft = view.draft()
    for task in frontier:
        fitting = [host for host in view.hosts if draft.fits(task, host)]
        if fitting:
            host = min(fitting, key=lambda host: (host in task.not_on, *rank(task, host)))
            draft.place(task, host)
            placed(host)
    return draft


for _allocator in (first_available, load_balanced, locality):
    # The name under which the core has the same rule.
    _allocator.builtin = _allocator.__name__  # type: ignore[attr-defined]
