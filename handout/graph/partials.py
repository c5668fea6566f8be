"""Partial functions whose arguments hold outputs: their arguments become arguments of the call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from handout.graph.scan import Scanner

__all__ = ["Bound", "joined", "unbound", "unwrapped"]

Bound = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]
"""A function, and the positional and the keyword arguments of its calls that come before all others."""

#: Python 3.14 has a mark for a positional argument that is given later.
_PLACEHOLDER: Any = getattr(functools, "Placeholder", None)


def unwrapped(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside partial functions that bind nothing, such as those that `options` makes.

    The caller must have read the options of the function before. The function then has the same identity as in uses
    without options.
    """
    made: Any = fn
    while type(made) is functools.partial and not (made.args or made.keywords or made.__dict__):
        made = made.func
    function: Callable[..., Any] = made
    return function


def unbound(fn: Callable[..., Any]) -> Bound:
    """Return the function inside a partial function, with its arguments, if one of the arguments holds an output.

    An output cannot travel inside a function. Any other callable is returned as it is, without arguments.

    Raises:
        GraphError: An output is inside a set, or the arguments are nested too deeply.
    """
    if type(fn) is functools.partial:
        partial: Any = fn
        if Scanner().references(partial.args, partial.keywords):
            return partial.func, partial.args, partial.keywords
    return fn, (), {}


def joined(bound: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the positional arguments with which a partial function calls its function.

    Args:
        bound: The positional arguments of the partial function.
        args: The positional arguments of the call.
    """
    if _PLACEHOLDER is None or not any(arg is _PLACEHOLDER for arg in bound):
        return bound + args
    rest = iter(args)
    filled = [next(rest, arg) if arg is _PLACEHOLDER else arg for arg in bound]
    return (*filled, *rest)
