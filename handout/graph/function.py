"""The explicit form: a function with its id, its producers by name, and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, Unpack

from handout.errors import GraphError
from handout.graph.options import Options, check_options

__all__ = ["Function", "function"]

R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)


class Function(Generic[T_co]):
    """A node described by itself; made by `function`, and part of a graph once ``Graph([...])`` has it."""

    __slots__ = ("args", "extra_args", "fn", "id", "kwargs", "options")

    #: Unique in its graph.
    id: str
    fn: Callable[..., Any]
    #: Producers: ids, ``(id, key)`` for one element, or outputs.
    args: tuple[Any, ...]
    #: Plain values that follow them.
    extra_args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    #: As the caller wrote them.
    options: Mapping[str, Any]

    def __init__(
        self,
        id: str,
        fn: Callable[..., T_co],
        *,
        args: Sequence[Any],
        extra_args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        """Use `function`."""
        self.id = id
        self.fn = fn
        self.args = tuple(args)
        self.extra_args = tuple(extra_args)
        self.kwargs = dict(kwargs)
        self.options = dict(options)

    def __repr__(self) -> str:
        return f"Function({self.id!r})"


def function(
    id: str,
    fn: Callable[..., R],
    /,
    *,
    args: Sequence[Any] = (),
    extra_args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Function[R]:
    """Describe one function of a graph.

    Args:
        id: Unique in the graph.
        fn: The function; called with the producers' results, then ``extra_args``.
        args: Its producers by id, ``("load_data", 0)`` for one element of a result; outputs may stand here, too.
        extra_args: Further positional arguments: plain values.
        kwargs: Keyword arguments: plain values or outputs.
        **options: As for ``graph.add``.

    Raises:
        GraphError: Something of this can be seen to be wrong already.
    """
    given: Mapping[str, Any] = options
    owner = f"function {id!r}"
    _check_id(id)
    if "id" in given:
        raise GraphError(f"{owner} is given a second id, {given['id']!r}.", remedy="Leave out id=.")
    if not callable(fn):
        raise GraphError(f"{owner}: {fn!r} is not callable.", remedy="Give the function itself.")
    _check_list(owner, "args", args)
    _check_list(owner, "extra_args", extra_args)
    check_options(given, owner)
    return Function(id, fn, args=args, extra_args=extra_args, kwargs=kwargs or {}, options=given)


def _check_id(id: object) -> None:
    if not isinstance(id, str) or not id:
        raise GraphError(f"{id!r} cannot be an id.", remedy="Give a text that is not empty.")


def _check_list(owner: str, name: str, value: object) -> None:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise GraphError(f"{owner}: {name}={value!r} is not a list.", remedy=f"Write {name}=[{value!r}].")
