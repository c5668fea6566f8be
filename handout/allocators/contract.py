"""What an allocator is: any async callable from a frontier and a view to placements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from handout.allocators.task import Task
from handout.allocators.view import ClusterView

__all__ = ["Allocator", "builtin_name"]


class Allocator(Protocol):
    """Says which task goes to which host."""

    async def __call__(self, frontier: Sequence[Task], view: ClusterView, /) -> Mapping[str, str]:
        """Map ids of tasks to names of hosts; tasks that are left out wait.

        Args:
            frontier: Tasks that could run now, most urgent first.
            view: The cluster as it is now; ``view.draft()`` does the arithmetic.
        """
        ...


def builtin_name(allocator: Allocator | None) -> str | None:
    """The name under which the core runs a built-in allocator itself; None for any other one."""
    if allocator is None:
        return "locality"
    name = getattr(allocator, "builtin", None)
    return name if isinstance(name, str) else None
