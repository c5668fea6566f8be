"""`Stored`: an object that stays on the hosts of a cluster, where later graphs and calls can take it."""

from __future__ import annotations

from os import PathLike
from typing import Any, Final, NoReturn, Protocol, TypeVar, cast

from handout.errors import GraphError
from handout.graph.output import Output
from handout.graph.value_uses import GET
from handout.serialization.calls import Path, path_text

__all__ = ["Home", "Stored", "StoredElement"]

T_co = TypeVar("T_co", covariant=True)

_ON_HOSTS: Final = "its value is on the hosts"


class Home(Protocol):
    """The place of a stored object. It is the origin of the `Stored` and of its elements."""

    #: The id of the object, for messages.
    id: str
    #: The number of the run that keeps the object, and the number of the object in this run.
    place: tuple[int, int]
    #: The size of the object in bytes.
    nbytes: int
    #: True if the object holds code by value, so that its readers need the controller's version of Python.
    holds_code: bool
    #: 16 bytes that no other stored object has.
    identity: bytes
    #: Dotted names of the modules that a reader of the object needs.
    modules: frozenset[str]

    def id_of(self, node: int, /) -> str:
        """Return `id`. The caller gives 0 as the node."""
        ...

    def check(self, driver: Any) -> None:
        """Raise `HandoutError` if a run of the cluster with this driver cannot take the object."""
        ...

    def use(self) -> None:
        """Note that one more open run uses the object."""
        ...

    def unuse(self) -> None:
        """Undo `use`."""
        ...

    async def fetch(self, path: Path, to: str | PathLike[str] | None) -> Any:
        """Return the object, or an element of it; see `Stored.fetch`."""
        ...

    async def drop(self) -> None:
        """Let the object go; see `Stored.drop`."""
        ...


class Stored(Output[T_co]):
    """An object that stays on the hosts of a cluster: what `Cluster.put` has sent, or what ``keep=[...]`` has kept.

    It stands where a ``T`` is wanted, in `Graph.add`, `Graph.map`, `Cluster.call` and executors of the same cluster, as
    an `Output` does in its graph. ``stored[0]``, ``stored["key"]`` and `pick` name an element of it.

    If all hosts that have the object are lost, it comes back: a value that was put is sent again by the controller, and
    a result is made again by the functions that made it. The object is dropped when `drop` is called, when the last
    reference to the `Stored` is gone, and when the cluster is closed. A run that uses the object keeps it until then.

    Example:
        ```python
        async def main() -> None:
            async with handout.Cluster() as cluster:
                table = await cluster.put(list(range(1000)))
                print(await cluster.call(sum, table), await cluster.call(pow, table[3], 2))
        ```
    """

    __slots__ = ("__weakref__",)

    _why = _ON_HOSTS

    def _said(self) -> str:
        return f"stored object {self.id!r}"

    def _value_by(self, remedy: str) -> str:
        return _fetched("await stored.fetch()", remedy)

    @property
    def _home(self) -> Home:
        return cast(Home, self._origin)

    @property
    def nbytes(self) -> int:
        """The size of the object in bytes, in the form in which it travels."""
        return self._home.nbytes

    def _at(self, path: Path) -> Output[Any]:
        return StoredElement(self._origin, self._node, path)

    async def fetch(self, *, to: str | PathLike[str] | None = None) -> T_co:
        """Bring the object here and return it. Each call makes a new value.

        Args:
            to: For an object that is a `File` or bytes: the path of a file that gets the content. The result is then a
                `File` with this path.

        Returns:
            The object.

        Raises:
            HandoutError: The object was dropped, or its cluster was closed.
            HostLostError: The object was lost, and making it again failed.
            GraphError: ``to`` is given, and the object is neither a `File` nor bytes.
        """
        found: T_co = await self._home.fetch((), to)
        return found

    async def drop(self) -> None:
        """Let the object go. Runs that use it keep it until they end. A second call does nothing."""
        await self._home.drop()

    def __reduce__(self) -> NoReturn:
        raise GraphError(
            f"{self!r} is inside an object or a function's closure, where Handout cannot find it.",
            remedy="Pass it as an argument, directly or inside lists, tuples and dicts.",
        )


class StoredElement(Output[T_co]):
    """An element of a stored object."""

    __slots__ = ()

    _why = _ON_HOSTS

    def _said(self) -> str:
        return f"element {self.id!r} of a stored object"

    def _value_by(self, remedy: str) -> str:
        return _fetched(f"(await stored.fetch()){path_text(self._path)}", remedy)

    def _at(self, path: Path) -> Output[Any]:
        return StoredElement(self._origin, self._node, path)


def _fetched(expression: str, remedy: str) -> str:
    """Return a remedy that begins with the expression by which a program gets the value."""
    rest = remedy.removeprefix(GET).strip()
    return f"To use the value in this program, write {expression}. {rest}".strip()
