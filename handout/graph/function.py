"""The explicit form of a graph: a list of functions, each with its id, its options, and the ids of its producers.

The producers of a function are the functions whose results it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, Unpack

from handout.errors import GraphError
from handout.graph.function_options import Options, check_options
from handout.graph.output import is_function
from handout.serialization.user_objects import brief

__all__ = ["Function", "function"]

R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)


class Function(Generic[T_co]):
    """An entry of a graph in the explicit form. `function` makes entries, and ``Graph([...])`` takes a list of them.

    Example:
        ```python
        entry = handout.function("load", load, extra_args=["data.csv"], retries=2)
        graph = handout.Graph([entry])
        assert entry.options == {"retries": 2}
        ```
    """

    __slots__ = ("args", "extra_args", "fn", "id", "kwargs", "options")

    id: str
    """Id of the function, unique in its graph."""
    fn: Callable[..., Any]
    """The Python function that runs on a host."""
    args: tuple[Any, ...]
    """The producers of the function: ids, ``(id, key)`` for an element of a result, or outputs."""
    extra_args: tuple[Any, ...]
    """Further positional arguments. They follow the producers' results."""
    kwargs: Mapping[str, Any]
    """Keyword arguments of the function: values or outputs."""
    options: Mapping[str, Any]
    """Options of the function, as the caller wrote them."""

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
        """Store the fields. This constructor is not public: call `function`, which checks the arguments."""
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
    """Describe one function of a graph in the explicit form, where a function names its producers by their ids.

    Args:
        id: Id of the function, unique in the graph.
        fn: The Python function to run. Its positional arguments are the producers' results, followed by ``extra_args``.
        args: The producers of the function: ids, ``("load_data", 0)`` for an element of a result, or outputs. Default:
            none.
        extra_args: Further positional arguments. They follow the producers' results. Default: none.
        kwargs: Keyword arguments of the function: values or outputs. Default: none.
        **options: Options of the function, as for `Graph.add`.

    Returns:
        An entry for the list that ``Graph([...])``, `execute`, `start` and `run` take.

    Raises:
        GraphError: An argument has the wrong type, or an option is wrong.

    Example:
        ```python
        functions = [
            handout.function("load", load, extra_args=["data.csv"]),
            handout.function("train", train, args=["load"], cost={"memory": "20 MB"}),
        ]
        results = await handout.execute(functions)
        results["train"]
        ```
    """
    given: Mapping[str, Any] = options
    owner = f"function {id!r}"
    _check_id(id)
    if "id" in given:
        raise GraphError(f"{owner} is given a second id, {given['id']!r}.", remedy="Leave out id=.")
    if not is_function(fn):
        raise GraphError(f"{owner}: {brief(fn)} is not callable.", remedy="Give the function itself.")
    _check_list(owner, "args", args)
    _check_list(owner, "extra_args", extra_args)
    check_options(given, owner)
    return Function(id, fn, args=args, extra_args=extra_args, kwargs=kwargs or {}, options=given)


def _check_id(id: object) -> None:
    if not isinstance(id, str) or not id:
        raise GraphError(f"{brief(id)} cannot be an id.", remedy="Give text that is not empty.")


def _check_list(owner: str, name: str, value: object) -> None:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise GraphError(f"{owner}: {name}={brief(value)} is not a list.", remedy=f"Write {name}=[{brief(value)}].")
