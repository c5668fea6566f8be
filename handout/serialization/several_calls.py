"""Makes several calls in one task. The function is here, because this folder travels to hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

__all__ = ["Layout", "make_calls", "taken_apart"]

#: For each call: the number of its positional arguments, and the names of the others.
Layout = Sequence[tuple[int, tuple[str, ...]]]
#: A function, its positional arguments and its keyword arguments.
Item = tuple[Callable[..., Any], Sequence[Any], "dict[str, Any]"]


def make_calls(prepare: Callable[..., Callable[[], Any]], extra: tuple[Any, ...], layout: Layout, *parts: Any) -> Any:
    """Make several calls, and return what ``prepare`` makes of them.

    The calls come as one flat list of arguments of the task, because only an argument of a task can be an object of its
    own, which each host gets only once.

    Args:
        prepare: Is called with the list of the calls, each as ``(function, args, kwargs)``, and with ``extra``. It
            returns the function that makes the calls.
        extra: Further arguments of ``prepare``.
        layout: The shape of each call.
        *parts: For each call, its function, its positional arguments, and the values of its keyword arguments.
    """
    calls = []
    at = 0
    for count, names in layout:
        stop = at + 1 + count
        calls.append((parts[at], parts[at + 1 : stop], dict(zip(names, parts[stop:]))))
        at = stop + len(names)
    return prepare(calls, *extra)()


def taken_apart(items: Sequence[Item]) -> tuple[Layout, list[Any]]:
    """Return the layout and the parts of some calls, of which `make_calls` makes the same calls again."""
    layout = [(len(args), tuple(kwargs)) for _, args, kwargs in items]
    parts: list[Any] = []
    for function, args, kwargs in items:
        parts += (function, *args, *kwargs.values())
    return layout, parts
