"""The protocol of allocators: any async callable from a frontier and a view to placements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from handout.allocators.task import Task
from handout.allocators.view import ClusterView

__all__ = ["Allocator", "builtin", "builtin_name"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Allocator(Protocol):
    """An async callable that says which task goes to which host.

    Example:
        ```python
        async def first_host(frontier, view):
            host = next(iter(view.hosts))
            return {task.id: host for task in frontier}

        results = await handout.execute(graph, allocator=first_host)
        ```
    """

    async def __call__(self, frontier: Sequence[Task], view: ClusterView, /) -> Mapping[str, str]:
        """Choose hosts for tasks.

        Args:
            frontier: Tasks whose inputs all exist, most urgent first. At most ``max(256, 4 * free slots)`` of them.
            view: The cluster at this moment. ``view.draft()`` keeps account of what the placements take.

        Returns:
            Names of hosts by task id. A task that is left out waits, and is offered again when something has changed.

        Raises:
            Exception: Any exception ends the run with an `AllocatorError` that has the exception as its cause.
        """
        ...


def builtin(allocator: _Function) -> _Function:
    """Mark a function as an allocator whose rule the core applies itself, by the function's name.

    The core never calls such a function. A custom allocator may call it, for tasks that it does not want to place by a
    rule of its own.
    """
    allocator.builtin = allocator.__name__  # type: ignore[attr-defined]
    return allocator


def builtin_name(allocator: Allocator | None) -> str | None:
    """Return the name of the core's own rule for an allocator, or None for a custom allocator."""
    if allocator is None:
        return "locality"
    name = getattr(allocator, "builtin", None)
    return name if isinstance(name, str) else None
