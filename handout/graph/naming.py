"""Readable ids: the n-th use of a function is ``train-n``, the first one ``train``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from handout.errors import GraphError

__all__ = ["FunctionIds", "name_of"]


def name_of(fn: object) -> str:
    """What people call a callable."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None)
    if not isinstance(name, str):
        name = type(fn).__name__
    return "lambda" if name == "<lambda>" else name


class FunctionIds:
    """The ids of a graph's nodes, in their order; generated ones only when somebody asks.

    A million strings cost 60 MB and are seldom looked at while a graph is built. An id depends only on the nodes
    before it, so that asking early or late gives the same.
    """

    __slots__ = ("_bases", "_claimed", "_counts", "_numbers", "ids")

    def __init__(self) -> None:
        #: Ids of the nodes that were named so far: a prefix of the graph's nodes.
        self.ids: list[str] = []
        #: Node by id, for those that the caller chose.
        self._claimed: dict[str, int] = {}
        #: The last number that was given out after each name.
        self._counts: dict[str, int] = {}
        #: Name by the identity of a function; the graph keeps the functions.
        self._bases: dict[int, str] = {}
        #: Node by id for a prefix of ``ids``; made once somebody looks for a generated one.
        self._numbers: dict[str, int] = {}

    def extend(self, fns: list[Callable[..., Any] | None], until: int) -> list[str]:
        """Name the nodes up to (not including) ``until``; ``fns`` has None where a node is a value."""
        ids, bases = self.ids, self._bases
        for node in range(len(ids), until):
            fn = fns[node]
            base = bases.get(id(fn))
            if base is None:
                base = bases[id(fn)] = "value" if fn is None else name_of(fn)
            ids.append(self._generate(base))
        return ids

    def _generate(self, base: str) -> str:
        count = self._counts.get(base, 0)
        while True:
            count += 1
            id_ = base if count == 1 else f"{base}-{count}"
            # Only an id that a caller chose, or a name with a dash in it, can stand in the way.
            if (self._claimed or "-" in base) and self._taken(id_):
                continue
            self._counts[base] = count
            return id_

    def _taken(self, id: str) -> bool:
        """Whether an id was chosen or generated; that much can be told without a table of all ids."""
        if id in self._claimed or id in self._counts:
            return True
        base, _, number = id.rpartition("-")
        return number.isdecimal() and number[0] != "0" and 2 <= int(number) <= self._counts.get(base, 0)

    def claim(self, id: str) -> None:
        """Give the next node an id of the caller's choice; every node before it must be named.

        Raises:
            GraphError: Another node has it.
        """
        if self._taken(id):
            raise GraphError(f"two functions have the id {id!r}.", remedy="Give each id= only once.")
        self._claimed[id] = len(self.ids)
        self.ids.append(id)

    def number_of(self, id: str) -> int | None:
        """The node that has an id, among those that were named."""
        found = self._claimed.get(id)
        if found is None and self._taken(id):
            numbers = self._numbers
            for node in range(len(numbers), len(self.ids)):
                numbers[self.ids[node]] = node
            found = numbers.get(id)
        return found
