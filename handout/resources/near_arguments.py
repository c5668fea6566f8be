"""Makes a function name the near argument when the caller misspells one, or takes the name from another tool."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from handout.resources.did_you_mean import suggestion

__all__ = ["names_near_arguments"]

P = ParamSpec("P")
R = TypeVar("R")


def names_near_arguments(
    instead: Mapping[str, str] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for a function or a method that takes no arbitrary keywords.

    Python 3.11 says of an unknown keyword only that it is unexpected.

    Args:
        instead: What to write in place of certain names.
    """
    remedies = instead or {}

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
        owner = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in names:
                    remedy = remedies.get(name) or suggestion(name, names)
                    raise TypeError(f"{owner}() has no argument {name}=. {remedy}")
            return function(*args, **kwargs)

        return checked

    return decorate
