"""``handout.options``: options that belong to a function wherever it is added."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, Final, TypeVar, Unpack

from handout.errors import GraphError
from handout.graph.naming import name_of
from handout.graph.options import Options, check_options

__all__ = ["MARKS", "mark_of", "options"]

F = TypeVar("F", bound=Callable[..., Any])

#: Options by the function's identity. Kept beside the functions and not on them: functools.wraps would copy an
#: attribute, a subclass would inherit it, and a pickled function would carry it to hosts that have no Handout.
#: The second element keeps the entry honest: a weak reference that removes it, or the function itself.
MARKS: Final[dict[int, tuple[Mapping[str, Any], object]]] = {}


def options(**options: Unpack[Options]) -> Callable[[F], F]:
    """Give a function options of its own: a decorator that returns the very function, unchanged.

    They are read whenever it is added to a graph; what is said there wins over them, name by name. Nothing else
    gets them: no wrapper around it, no partial of it, no subclass.

    Example:
        ::

            @handout.options(cost={"memory": "2 GB"}, retries=2)
            def load(path: str) -> Table: ...
    """
    own: Mapping[str, Any] = options
    if "id" in own:
        raise GraphError("an id belongs to one use of a function.", remedy="Give id= to graph.add instead.")
    check_options(own, "handout.options")

    def mark(fn: F) -> F:
        if not callable(fn):
            raise GraphError(f"handout.options marks functions, not {fn!r}.", remedy="Write it above a def.")
        merged = {**(mark_of(fn) or {}), **own}
        check_options(merged, f"function {name_of(fn)!r}")
        number = id(fn)
        try:
            keeper: object = weakref.ref(fn, lambda _: _forget(number))
        except TypeError:  # a callable with slots, say: then it lives as long as its mark
            keeper = fn
        MARKS[number] = (merged, keeper)
        return fn

    return mark


def _forget(number: int) -> None:
    MARKS.pop(number, None)


def mark_of(fn: Callable[..., Any]) -> Mapping[str, Any] | None:
    """The options given to a function by `options`; a bound method has those of its function."""
    found = MARKS.get(id(fn))
    if found is None and isinstance(fn, MethodType):
        found = MARKS.get(id(fn.__func__))
    return None if found is None else found[0]
