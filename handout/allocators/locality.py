"""The default allocator, which is built in. It places each task where the fewest bytes must be copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handout.allocators.contract import builtin
from handout.allocators.ranked import Load, place_by_rank
from handout.allocators.task import Task
from handout.allocators.view import ClusterView

__all__ = ["locality"]


@builtin
async def locality(frontier: Sequence[Task], view: ClusterView, /) -> Mapping[str, str]:
    """Place each task on the host that lacks the fewest bytes of the task's inputs, and has its warm values.

    Only hosts with room for the task are considered. If several of these hosts lack equally many bytes, the task goes
    to the host with the fewest tasks per CPU core.

    Example:
        ```python
        results = await handout.execute(graph, allocator=handout.locality)
        ```
    """
    load = Load(view)

    def rank(task: Task, host: str) -> tuple[float, ...]:
        warming_s = sum(one.warming_s for one in task.inputs if host not in one.hosts)
        return warming_s, view.missing_bytes(task, host), load.of(host)

    return place_by_rank(frontier, view, rank, load.add)
