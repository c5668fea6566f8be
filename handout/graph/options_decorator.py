"""`handout.options`: options that a function has wherever it is added."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Mapping
from types import CodeType, FrameType, MethodType
from typing import Any, Final, TypeVar, Unpack

from handout.errors import GraphError
from handout.graph.function_options import Options, check_options
from handout.graph.naming import name_of
from handout.graph.output import is_function
from handout.serialization.user_objects import brief

__all__ = ["MARKS", "mark_of", "options"]

F = TypeVar("F", bound=Callable[..., Any])

#: Options of functions, by the identity of the function. They are not stored in an attribute of the function, because
#: functools.wraps would copy the attribute, a subclass of a decorated class would inherit it, and a pickled function
#: would carry it to hosts without Handout. Each entry also holds the function itself, or a weak reference that removes
#: the entry when the function is deleted. So no other object is ever found under the identity of a deleted function.
MARKS: Final[dict[int, tuple[Mapping[str, Any], object]]] = {}

#: Names of code that is neither the body of a ``def`` nor of a class.
_EXPRESSIONS: Final = frozenset({"<lambda>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})


def options(**options: Unpack[Options]) -> Callable[[F], F]:
    """Make a decorator that gives a function options of its own.

    Above a ``def`` or a class, the decorator returns the function itself, which has the options from then on. Anywhere
    else, the function keeps the options that it has: ``options(retries=2)(f)`` returns a ``functools.partial`` of ``f``
    with these options beside those of ``f``, and other uses of ``f`` do not change. So one use of a function gets its
    options where keyword arguments go to the function: in `Cluster.call`, `Warm` and ``Cluster.executor().submit``.

    The options hold whenever the function is added to a graph. If `Graph.add` gets an option of the same name, that
    option wins. A ``functools.partial`` of the function has the options too, because `Graph.map` takes values that all
    calls share in this form. Wrappers of the function do not have the options, nor do subclasses of a decorated class.

    Args:
        **options: Options of the function, as for `Graph.add`, without ``id``.

    Raises:
        GraphError: An option is wrong, or the decorated object is not callable.

    Example:
        ```python
        @handout.options(cost={"memory": "2 GB"}, retries=2)
        def load(path: str) -> list[float]:
            with open(path) as file:
                return [float(line) for line in file]

        patient = handout.options(timeout_s=600)(load)  # `load` itself has no time limit
        ```
    """
    own: Mapping[str, Any] = options
    if "id" in own:
        raise GraphError(
            "handout.options cannot take id=, because an id belongs to one use of a function.",
            remedy="Give id= to graph.add instead.",
        )
    check_options(own, "handout.options")

    def mark(fn: F) -> F:
        if not is_function(fn):
            raise GraphError(
                f"handout.options is a decorator for functions, and {brief(fn)} is not a function.",
                remedy="Write @handout.options(...) above a def.",
            )
        merged = {**(mark_of(fn) or {}), **own}
        check_options(merged, f"function {name_of(fn)!r}")
        if not _decorates(sys._getframe(1)):
            made: Any = functools.partial(fn)
            # Without a ``__dict__``, which is made when it is first read, a partial function of this one would hold
            # `fn` in its place, and would not have these options.
            _ = made.__dict__
            fn = made
        number = id(fn)
        try:
            keeper: object = weakref.ref(fn, lambda _: _forget(number))
        except TypeError:  # a callable with slots takes no weak references, so the entry holds the callable itself
            keeper = fn
        MARKS[number] = (merged, keeper)
        return fn

    return mark


def _decorates(caller: FrameType) -> bool:
    """Return True if the caller is at the decorators of a ``def`` or of a class.

    The compiler makes the body of a ``def`` or a class a constant of the code around it, and counts the lines of the
    decorators to the body. The code around the body runs no other calls on these lines.
    """
    at = caller.f_lineno
    bodies = [
        each
        for each in caller.f_code.co_consts
        if isinstance(each, CodeType) and each.co_name not in _EXPRESSIONS and each.co_firstlineno <= at
    ]
    if not bodies:
        return False
    nearest = max(bodies, key=lambda each: each.co_firstlineno)
    return at <= max(line or 0 for _, _, line in nearest.co_lines())


def _forget(number: int) -> None:
    MARKS.pop(number, None)


def mark_of(fn: Callable[..., Any]) -> Mapping[str, Any] | None:
    """Return the options that `options` gave to a function, or None.

    A bound method has the options of its function. A partial function has the options of the function inside, unless
    `options` gave it options of its own.
    """
    found = MARKS.get(id(fn))
    if found is None and isinstance(fn, MethodType):
        found = MARKS.get(id(fn.__func__))
    if found is None and type(fn) is functools.partial:
        inner: Any = fn
        return mark_of(inner.func)
    return None if found is None else found[0]
