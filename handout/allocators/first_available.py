"""The built-in allocator that fills one host after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handout.allocators.contract import builtin
from handout.allocators.ranked import place_by_rank
from handout.allocators.task import Task
from handout.allocators.view import ClusterView

__all__ = ["first_available"]


@builtin
async def first_available(frontier: Sequence[Task], view: ClusterView, /) -> Mapping[str, str]:
    """Place each task on the first host of the view that has room for the task.

    Example:
        ```python
        results = await handout.execute(graph, allocator=handout.first_available)
        ```
    """
    order = {name: number for number, name in enumerate(view.hosts)}
    return place_by_rank(frontier, view, lambda task, host: (order[host],))
