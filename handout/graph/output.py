"""Outputs: promises of values that do not exist yet.

An output holds the number of a node (a function or a value), the object that numbered the node (the output's origin),
and the path to an element of the node's result. The path is empty if the output is the whole result. The origin is
usually the `Nodes` of a graph. But if an `Arg` has a ``dump`` function, the origin of this function's output is the
`Wiring` of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    NoReturn,
    Protocol,
    TypeVar,
    cast,
    overload,
)

from handout.errors import GraphError, NotAValueError
from handout.graph.path import own_key, path_key, record_path
from handout.graph.value_uses import GET, Use, refuse_uses
from handout.resources.did_you_mean import nearest_name
from handout.serialization.calls import Path, path_text

__all__ = ["Input", "Origin", "Output", "is_function", "later"]

A = TypeVar("A")
K = TypeVar("K")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)


class Origin(Protocol):
    """The object that an output belongs to. It knows the ids of the nodes."""

    def id_of(self, node: int, /) -> str:
        """Return the id of a node."""
        ...


class Input(Generic[T_co]):
    """An `Output`, an `Arg` or a `Warm`. `Graph.add` takes an ``Input[T]`` where the function takes a ``T``.

    Example:
        ```python
        def add_training(graph: handout.Graph, table: handout.Input[list[float]]) -> handout.Output[dict[str, float]]:
            return graph.add(train, table, retries=2)

        model = add_training(graph, data)
        ```
    """

    __slots__ = ()

    def __hash__(self) -> int:
        """Return a hash of the identity. `Output` replaces this method, because equal outputs need equal hashes."""
        return object.__hash__(self)

    if not TYPE_CHECKING:  # otherwise type checkers would accept every attribute

        def __getattr__(self, name: str) -> NoReturn:
            # Libraries ask objects for names with underscores, and expect the error that Python raises. The class has
            # the name if an attribute was not set yet, so that the text below could not be made.
            if name.startswith("_") or hasattr(type(self), name):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            raise NoSuchAttributeError(
                f"{self._said()} has no attribute {name!r}, because {self._why}.",
                remedy=self._instead_of(name),
            )

    #: Why the program cannot use the value, as the end of a sentence.
    _why: ClassVar[str] = "its value exists only once the graph runs"

    def _said(self) -> str:
        """Return the name of the promise, for messages."""
        return repr(self)

    def _instead_of(self, name: str) -> str:
        """Return the remedy for a use of an attribute that promises do not have."""
        near = nearest_name(name, [each for each in dir(type(self)) if not each.startswith("_")])
        known = f"Did you mean {near!r}? " if near else ""
        own = f"For this attribute of the value, write out.pick(lambda r: r.{name}). To call a method of the value, "
        own += f"write graph.add(lambda r: r.{name}(...), out)."
        return self._value_by(f"{GET} {own}" if name in _GETTERS else known + own)

    def _value_by(self, remedy: str) -> str:
        """Return a remedy for a use of the value, with the way in which the program gets this value."""
        return remedy


class NoSuchAttributeError(NotAValueError, AttributeError):
    """A program asked a promise for an attribute of the value. `hasattr` and `getattr` with a default expect this."""


#: Methods by which other libraries give the value of a promise.
_GETTERS: Final = frozenset({"compute", "fetch", "get", "result", "results", "wait"})


def _refuse(promise: Input[Any], use: Use) -> NoReturn:
    raise NotAValueError(
        f"{promise._said()} cannot be {use.what}, because {promise._why}.",
        remedy=promise._value_by(use.remedy),
    )


for _name, _method in refuse_uses(_refuse).items():
    setattr(Input, _name, _method)


class Output(Input[T_co]):
    """A promise of a function's result, or of an element of it.

    An output is not the value: the value exists only once the graph runs. ``out[0]``, ``out["key"]`` and `pick` name an
    element. The host that made the result takes the element out of it, so that only the element travels. Two outputs of
    one graph are equal if they name the result of the same function, or the same element of this result.

    Example:
        ```python
        parts = graph.add(split, data)    # returns a tuple of two
        model = graph.add(train, parts[0])
        results = await handout.execute(graph)
        results[model]
        ```
    """

    # Memory: a graph of a million functions has a million outputs, so outputs have no __dict__ and no __weakref__.
    __slots__ = ("_node", "_origin", "_path")

    _origin: Origin
    _node: int
    _path: Path

    def _said(self) -> str:
        return f"output {self.id!r}"

    def __init__(self, origin: Origin, node: int, path: Path = ()) -> None:
        """Make the output of a node. This constructor is not public: a `Graph` makes the outputs."""
        self._origin = origin
        self._node = node
        self._path = path

    @property
    def id(self) -> str:
        """The id of the function. If the output names an element, the path to the element follows: ``split[0]``."""
        return self._origin.id_of(self._node) + path_text(self._path)

    @overload
    def __getitem__(self: Output[tuple[A, *tuple[Any, ...]]], key: Literal[0], /) -> Output[A]: ...
    @overload
    def __getitem__(self: Output[tuple[Any, A, *tuple[Any, ...]]], key: Literal[1], /) -> Output[A]: ...
    @overload
    def __getitem__(self: Output[tuple[Any, Any, A, *tuple[Any, ...]]], key: Literal[2], /) -> Output[A]: ...
    @overload
    def __getitem__(self: Output[Sequence[A]], key: int, /) -> Output[A]: ...
    @overload
    def __getitem__(self: Output[Mapping[K, A]], key: K, /) -> Output[A]: ...
    @overload
    def __getitem__(self, key: Any, /) -> Output[Any]: ...
    def __getitem__(self, key: Any, /) -> Output[Any]:
        """Name an element of the result by its index or key.

        Raises:
            GraphError: The key is itself an output or an `Arg`, so its value is not known yet.
        """
        if isinstance(key, Input):
            raise NotAValueError(
                f"output {self.id!r} cannot be indexed by another output, whose value is not known yet.",
                remedy="Add a function that takes both outputs and returns the element.",
            )
        return self._at((*self._path, ("item", own_key(key))))

    def _at(self, path: Path) -> Output[Any]:
        """Return the output that names the element at a path."""
        return Output(self._origin, self._node, path)

    def pick(self, path: Callable[[T_co], U], /) -> Output[U]:
        """Name an element of the result by a path of attributes and items. Type checkers infer the element's type.

        Args:
            path: A callable that follows the path and returns the element. `pick` calls it once, before `pick` returns,
                with an object that records the path. The callable itself does not travel.

        Raises:
            GraphError: The argument is not callable, or the callable did anything other than follow attributes and
                items.

        Example:
            ```python
            first = model.pick(lambda m: m.weights["a"][0])
            ```
        """
        return self._at(self._path + record_path(path, self.id))

    if TYPE_CHECKING:
        # None makes type checkers refuse `for x in out` and `x in out`. At run time, the methods of `Input` refuse.
        __iter__: None
        __contains__: None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Output):
            return NotImplemented
        return (
            self._origin is other._origin
            and self._node == other._node
            and (self._path is other._path or path_key(self._path) == path_key(other._path))
        )

    def __hash__(self) -> int:
        if self._path:
            return hash((id(self._origin), self._node, path_key(self._path)))
        return hash((id(self._origin), self._node))

    def __copy__(self) -> Output[T_co]:
        return self

    def __deepcopy__(self, memo: object) -> Output[T_co]:
        return self

    def __reduce__(self) -> NoReturn:
        raise GraphError(
            f"output {self.id!r} is inside an object or a function's closure, where Handout cannot find it.",
            remedy="Pass the output as an argument, directly or inside lists, tuples and dicts.",
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"


def later(promised: Input[A], /) -> A:
    """Return the output itself. For type checkers, it has the type of the value that it promises.

    Use `later` where a type checker would refuse an output: inside a list, tuple or dict, or as a keyword argument.

    Args:
        promised: An `Output`, an `Arg` or a `Warm`.

    Returns:
        The same object.

    Example:
        ```python
        graph.add(render, {"first": handout.later(data), "second": 3})
        ```
    """
    return cast(A, promised)


def is_function(value: object) -> bool:
    """Return True for a callable. A promise is no function, although a call of it raises an error of its own."""
    return callable(value) and not issubclass(type(value), Input)
