"""Finds the outputs inside the arguments of functions."""

from __future__ import annotations

from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any, Final

from handout.errors import GraphError
from handout.graph.output import Input
from handout.serialization.user_objects import brief

__all__ = ["Scanner"]

#: Types whose objects hold no outputs. Types are compared exactly, so that objects of subclasses are scanned.
_LEAVES: Final = frozenset(
    {
        int, float, complex, str, bytes, bytearray, memoryview, bool, NoneType,
        range, slice, type, FunctionType, BuiltinFunctionType,
    }
)  # fmt: skip

#: The scanner remembers what is in containers of at least this length, because many functions may take the same one.
_LONG: Final = 16


class Scanner:
    """Finds references (outputs and `Arg` objects) in arguments, also inside lists, tuples and dicts at any depth.

    Each compilation of a graph makes a new scanner, because the containers that a scanner has seen may change later.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        #: The references in each long container, by the identity of the container. The container is kept alive, so that
        #: no other one gets its identity.
        self._seen: dict[int, tuple[Any, tuple[Input[Any], ...]]] = {}

    def references(self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> tuple[Input[Any], ...]:
        """Return the references in some arguments, in the order in which they appear.

        Raises:
            GraphError: An output is inside a set, or the arguments are nested too deeply.
            Exception: A container of a class of the program raised it.
        """
        found: list[Input[Any]] = []
        try:
            for value in args:
                if type(value) not in _LEAVES:
                    self._look(value, found)
            if kwargs:
                for value in kwargs.values():
                    if type(value) not in _LEAVES:
                        self._look(value, found)
        except RecursionError:
            raise GraphError(
                "an argument is nested too deeply, or holds itself.",
                remedy="Flatten the argument, or write it to a file and pass a handout.File.",
            ) from None
        return tuple(found)

    def _look(self, value: Any, found: list[Input[Any]]) -> None:
        kind = type(value)  # not `isinstance`, which asks the value for its ``__class__``
        if issubclass(kind, Input):
            found.append(value)
        elif issubclass(kind, dict):
            self._look_inside(value, [*value.keys(), *value.values()] if value else [], found)
        elif issubclass(kind, list | tuple):
            self._look_inside(value, value, found)
        elif issubclass(kind, set | frozenset):
            if any(issubclass(type(item), Input) for item in value):
                raise GraphError(
                    f"an output is inside a set: {brief(value)}.",
                    remedy="Put the output into a list, tuple or dict instead.",
                )

    def _look_inside(self, container: Any, items: list[Any] | tuple[Any, ...], found: list[Input[Any]]) -> None:
        if len(items) < _LONG:
            for item in items:
                if type(item) not in _LEAVES:
                    self._look(item, found)
            return
        known = self._seen.get(id(container))
        if known is None:
            # The entry is made before the scan. Otherwise, the scan of a container that holds itself would not end.
            self._seen[id(container)] = container, ()
            inside: list[Input[Any]] = []
            if not set(map(type, items)) <= _LEAVES:
                for item in items:
                    if type(item) not in _LEAVES:
                        self._look(item, inside)
            known = self._seen[id(container)] = container, tuple(inside)
        found.extend(known[1])
