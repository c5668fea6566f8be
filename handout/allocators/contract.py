"""The protocol of allocators.

An allocator is an async callable. It takes a frontier, which holds the tasks to place, and a view of the cluster. It
returns placements.
"""

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
            frontier: Tasks whose inputs all exist, the most urgent first. The frontier has at most
                ``max(256, 4 * free slots)`` tasks. A host has one slot for each whole CPU core, and at least one slot.
                Each task that was handed over to the host takes one slot.
            view: The cluster at this moment. At least one host is ready. ``view.draft()`` returns a draft, which keeps
                account of the amounts that placed tasks take.

        Returns:
            A mapping from the id of each placed task to the name of its host. A task that is left out waits. So does a
            task that is placed on a host which is starting, suspected, lost or quarantined. The scheduler shows such a
            task to the allocator again when something has changed that may lead to another answer, for example when the
            host has joined or is given up.

        Raises:
            Exception: Any exception that the allocator raises ends the run with an `AllocatorError`. The exception is
                the cause of that error.
        """
        ...


def builtin(allocator: _Function) -> _Function:
    """Mark a function as a built-in allocator.

    The scheduler never calls a built-in allocator, because the scheduler has code of its own for the rule with the
    function's name. But a custom allocator may call a built-in one for the tasks that it has no rule for.
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
