"""The protocol of allocators: async callables that take a frontier and a view, and return placements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from handout.allocators.task import Task
from handout.allocators.view import ClusterView

__all__ = ["Allocator", "builtin", "builtin_name"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Allocator(Protocol):
    """An async callable that chooses a host for each task.

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
            frontier: Tasks whose inputs all exist, most urgent first. There are at most ``max(256, 4 * free slots)``
                of them. Each whole core of a host is a slot.
            view: The cluster at this moment. ``view.draft()`` keeps account of the amounts that placed tasks take.

        Returns:
            The name of the chosen host, by task id. A task that is left out waits. The core shows such a task to the
            allocator again when something has changed.

        Raises:
            Exception: Any exception that the allocator raises ends the run with an `AllocatorError`. The exception is
                the cause of that error.
        """
        ...


def builtin(allocator: _Function) -> _Function:
    """Mark a function as a built-in allocator.

    The core never calls a built-in allocator. The core has the same rule under the function's name, and applies that
    rule itself. A custom allocator may call a built-in one, to place the tasks for which it has no rule of its own.
    """
    allocator.builtin = allocator.__name__  # type: ignore[attr-defined]
    return allocator


def builtin_name(allocator: Allocator | None) -> str | None:
    """Return the name of a built-in allocator, or None for a custom allocator.

    If ``allocator`` is None, return the name of the default allocator, ``locality``.
    """
    if allocator is None:
        return "locality"
    name = getattr(allocator, "builtin", None)
    return name if isinstance(name, str) else None
