"""The built-in allocator that spreads tasks evenly over the CPU cores of all hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handout.allocators.contract import builtin
from handout.allocators.ranked import Load, place_by_rank
from handout.allocators.task import Task
from handout.allocators.view import ClusterView

__all__ = ["load_balanced"]


@builtin
async def load_balanced(frontier: Sequence[Task], view: ClusterView, /) -> Mapping[str, str]:
    """Place each task on the host with the fewest tasks per CPU core, among the hosts with room for the task.

    Example:
        ```python
        results = await handout.execute(graph, allocator=handout.load_balanced)
        ```
    """
    load = Load(view)
    return place_by_rank(frontier, view, lambda task, host: (load.of(host),), load.add)
