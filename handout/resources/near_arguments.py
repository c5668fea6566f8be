"""Makes a constructor name the near argument when the caller misspells one, or takes the name from another tool."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import ParamSpec

from handout.resources.did_you_mean import suggestion

__all__ = ["names_near_arguments"]

P = ParamSpec("P")


def names_near_arguments(
    instead: Mapping[str, str] | None = None,
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Return a decorator for an ``__init__`` that takes no arbitrary keywords.

    Python 3.11 says of an unknown keyword only that it is unexpected.

    Args:
        instead: What to write in place of certain names.
    """
    remedies = instead or {}

    def decorate(init: Callable[P, None]) -> Callable[P, None]:
        names = [name for name in inspect.signature(init).parameters if name != "self"]
        owner = init.__qualname__.partition(".")[0]

        @functools.wraps(init)
        def checked(*args: P.args, **kwargs: P.kwargs) -> None:
            for name in kwargs:
                if name not in names:
                    remedy = remedies.get(name) or suggestion(name, names)
                    raise TypeError(f"{owner}() has no argument {name}=. {remedy}")
            init(*args, **kwargs)

        return checked

    return decorate
