"""The built-in allocator that moves the fewest bytes: the default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handout.allocators.contract import builtin
from handout.allocators.ranked import Load, place_by_rank
from handout.allocators.task import Task
from handout.allocators.view import ClusterView

__all__ = ["locality"]


@builtin
async def locality(frontier: Sequence[Task], view: ClusterView, /) -> Mapping[str, str]:
    """Place each task on the host that misses the fewest bytes of its inputs; the number of tasks per core breaks ties.

    Example:
        ```python
        results = await handout.execute(graph, allocator=handout.locality)
        ```
    """
    load = Load(view)
    return place_by_rank(frontier, view, lambda task, host: (view.missing_bytes(task, host), load.of(host)), load.add)
