"""The built-in allocator that spreads tasks evenly over the cores of all hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handout.allocators.contract import builtin
from handout.allocators.ranked import Load, place_by_rank
from handout.allocators.task import Task
from handout.allocators.view import ClusterView

__all__ = ["load_balanced"]


@builtin
async def load_balanced(frontier: Sequence[Task], view: ClusterView, /) -> Mapping[str, str]:
    """Place each task on the least loaded host that has room for it. The load is the number of tasks per core.

    Example:
        ```python
        results = await handout.execute(graph, allocator=handout.load_balanced)
        ```
    """
    load = Load(view)
    return place_by_rank(frontier, view, lambda task, host: (load.of(host),), load.add)
