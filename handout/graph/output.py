"""What stands for a value that does not exist yet: outputs, picks of them, and stored objects.

Knows nothing of graphs beyond who its origin is: the origin names it, everything else is arithmetic on paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NoReturn,
    Protocol,
    TypeVar,
    cast,
    overload,
)

from handout.errors import GraphError
from handout.graph.path import Path, path_key, path_text, record_path

__all__ = ["Input", "NotAValueError", "Output", "Shelf", "Stored", "StoredObject", "later"]

A = TypeVar("A")
K = TypeVar("K")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)


class NotAValueError(GraphError, TypeError):
    """An output was used as if it were the value that it stands for."""


class Origin(Protocol):
    """Where an output comes from: a graph, or an object that a cluster keeps."""

    def id_of(self, node: int, /) -> str:
        """The id of one of its functions."""
        ...


class Input(Generic[T_co]):
    """Whatever may stand where a ``T`` is wanted: an `Output`, a `Stored` or an `Arg`."""

    __slots__ = ()

    def __hash__(self) -> int:
        """By identity, unless a subclass knows better."""
        return object.__hash__(self)


class Output(Input[T_co]):
    """A function's result, or an element of it, in a graph.

    Not the value: it does not exist before a run. ``out[0]``, ``out["key"]`` and `pick` name a part of it, which
    is taken where the result was made, so that only that part travels. Two outputs are equal when they name the
    same part of the same function of the same graph.
    """

    # A graph of a million functions holds a million of these: no dictionary, no weak references.
    __slots__ = ("_node", "_origin", "_path")

    _origin: Origin
    _node: int
    _path: Path

    def __init__(self, origin: Origin, node: int, path: Path = ()) -> None:
        """Made by `Graph`; a caller has no reason to."""
        self._origin = origin
        self._node = node
        self._path = path

    @property
    def id(self) -> str:
        """The id of the function, followed by the path to the element where this is one."""
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
        """One element of the result."""
        if isinstance(key, Input):
            raise NotAValueError(
                f"output {self.id!r} cannot be indexed by another output, whose value is not known yet.",
                remedy="Add a function that takes both and indexes.",
            )
        return Output(self._origin, self._node, (*self._path, ("item", key)))

    def pick(self, path: Callable[[T_co], U], /) -> Output[U]:
        """Name an element of the result by its path, typed: ``out.pick(lambda m: m.weights["a"][0])``.

        The callable is run here, once, on a recorder; no code travels.

        Raises:
            GraphError: The callable did something else than follow attributes and items.
        """
        return Output(self._origin, self._node, self._path + record_path(path, self.id))

    if TYPE_CHECKING:
        # Checkers refuse `for x in out` and `x in out` by these; the methods below explain at run time.
        __iter__: None
        __contains__: None
    else:

        def __iter__(self) -> NoReturn:
            self._not_a_value("iterated over", "For one task an element, run the first graph and map over its result.")

        def __contains__(self, item: object) -> NoReturn:
            self._not_a_value("searched", "Search in a function that takes the output.")

    def __bool__(self) -> NoReturn:
        self._not_a_value("asked for its truth", "Decide in a function that takes the output.")

    def _not_a_value(self, what: str, remedy: str) -> NoReturn:
        raise NotAValueError(
            f"output {self.id!r} cannot be {what}: its value exists only once the graph runs.", remedy=remedy
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Output):
            return NotImplemented
        return (
            self._origin is other._origin
            and self._node == other._node
            and (self._path == other._path or path_key(self._path) == path_key(other._path))
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
            f"output {self.id!r} is used where Handout cannot see it: inside an object or a function's closure.",
            remedy="Pass it as an argument, directly or inside lists, tuples and dicts.",
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"


class Shelf(Protocol):
    """Where stored objects are kept: a cluster, seen from here."""

    async def fetch(self, key: int, path: Path, to: str | None) -> Any:
        """Bring an object, or the element at ``path``, to this process or into the file ``to``."""
        ...

    async def drop(self, key: int) -> None:
        """Forget an object on every host."""
        ...


class StoredObject:
    """What a `Stored` and its elements share: which object, and on whose shelf."""

    __slots__ = ("id", "key", "nbytes", "shelf")

    def __init__(self, shelf: Shelf, key: int, id: str, nbytes: int) -> None:
        self.shelf: Shelf = shelf
        self.key: int = key
        self.id: str = id
        self.nbytes: int = nbytes

    def id_of(self, node: int, /) -> str:
        """The id of the function that made it, or the one given when it was put."""
        return self.id


class Stored(Output[T_co]):
    """An object that outlives its run, on the hosts of one cluster. May stand wherever an output may.

    Not a copy: the bytes stay where they were made until `fetch`, a function that takes it, or `drop`.
    """

    __slots__ = ()

    def __init__(self, stored: StoredObject) -> None:
        """Made by a cluster; a caller has no reason to."""
        super().__init__(stored, 0)

    @property
    def _stored(self) -> StoredObject:
        return cast(StoredObject, self._origin)

    @property
    def nbytes(self) -> int:
        """Size of the serialized object."""
        return self._stored.nbytes

    async def fetch(self, *, to: str | PathLike[str] | None = None) -> T_co:
        """Bring the value here; with ``to``, into that file, without holding it in memory."""
        stored = self._stored
        value = await stored.shelf.fetch(stored.key, (), None if to is None else fspath(to))
        return cast(T_co, value)

    async def drop(self) -> None:
        """Forget it on every host; graphs that name it fail from now on."""
        await self._stored.shelf.drop(self._stored.key)


def later(promised: Input[A], /) -> A:
    """The output itself, typed as the value that it stands for.

    For places where checkers would refuse an output: inside containers, for keyword arguments, in ``cluster.call``.
    """
    return cast(A, promised)
