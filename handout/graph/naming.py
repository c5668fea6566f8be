"""Readable ids. The first use of a function named ``train`` gets the id ``train``, and the n-th use gets ``train-n``.

Values get ids in the same way, from the name ``value``. The caller can choose an id instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from handout.errors import GraphError
from handout.serialization.user_objects import is_interruption
from handout.slices import SLICE, Slices

__all__ = ["FunctionIds", "innermost", "name_of"]


def innermost(fn: Any) -> Any:
    """Return the function inside partial functions, such as those that `options` makes; other objects as they are."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def name_of(fn: object) -> str:
    """Return the name of a callable, for ids and messages."""
    fn = innermost(fn)
    try:
        name = getattr(fn, "__name__", None)
    except BaseException as error:  # a callable object of the user may raise anything
        if is_interruption(error):
            raise
        name = None
    if type(name) is not str:
        name = type(fn).__name__
    return "lambda" if name == "<lambda>" else name


class FunctionIds:
    """The ids of the nodes of a graph, in the order of the nodes.

    An id is generated only when that id or the id of a later node is read, because a million ids take 60 MB, and few
    are read while a graph is built. An id depends only on the node's own function and on the nodes before it, so its
    text does not depend on when it is generated.
    """

    __slots__ = ("_bases", "_claimed", "_counts", "_dashed", "_numbers", "ids")

    def __init__(self) -> None:
        #: The ids that exist so far. They always belong to the first nodes of the graph.
        self.ids: list[str] = []
        #: The number of each node whose id the caller chose, by that id.
        self._claimed: dict[str, int] = {}
        #: For each name: the number of the last id that was generated from the name. ``train-2`` has the number 2, and
        #: ``train`` has 1.
        self._counts: dict[str, int] = {}
        #: The name of each function, by the identity of the function. The graph holds the functions, so that no other
        #: object gets the same identity.
        self._bases: dict[int, str] = {}
        #: True if a name that was used so far contains a dash.
        self._dashed = False
        #: An index from id to node number. It covers a first part of ``ids``. If `number_of` looks up a generated id
        #: after this part, it extends the index up to this id.
        self._numbers: dict[str, int] = {}

    def extend(self, fns: list[Callable[..., Any] | None], until: int) -> list[str]:
        """Generate the ids of the nodes before ``until``, and return all ids that exist so far.

        For a value, ``fns`` holds None.
        """
        ids, bases = self.ids, self._bases
        for node in range(len(ids), until):
            fn = fns[node]
            base = bases.get(id(fn))
            if base is None:
                base = bases[id(fn)] = "value" if fn is None else name_of(fn)
            ids.append(self._generate(base))
        return ids

    def extend_in_slices(self, fns: list[Callable[..., Any] | None], until: int) -> Slices[None]:
        """Generate the ids of the nodes before ``until``; see `extend`."""
        while len(self.ids) < until:
            self.extend(fns, min(until, len(self.ids) + SLICE))
            yield

    def _generate(self, base: str) -> str:
        count = self._counts.get(base, 0)
        self._dashed = self._dashed or "-" in base
        while True:
            count += 1
            id_ = base if count == 1 else f"{base}-{count}"
            # Two ids can be equal only if the caller chose one of them, or if a name contains a dash.
            if (self._claimed or self._dashed) and self._taken(id_):
                continue
            self._counts[base] = count
            return id_

    def _taken(self, id: str) -> bool:
        """Return True if a node has this id.

        This needs no table of all ids, because the parts of a generated id tell whether it was generated.
        """
        if id in self._claimed or id in self._counts:
            return True
        base, _, number = id.rpartition("-")
        return number.isdecimal() and number[0] != "0" and 2 <= int(number) <= self._counts.get(base, 0)

    def claim(self, id: str) -> None:
        """Give the next node an id that the caller chose. All earlier nodes must have their ids already.

        Raises:
            GraphError: Another node has the id.
        """
        if self._taken(id):
            raise GraphError(f"two functions have the id {id!r}.", remedy="Give each id= only once.")
        self._claimed[id] = len(self.ids)
        self.ids.append(id)

    def number_of(self, id: str) -> int | None:
        """Return the number of the node that has this id, or None. Only the ids that exist so far are searched."""
        found = self._claimed.get(id)
        if found is None and self._taken(id):
            numbers = self._numbers
            found = numbers.get(id)
            for node in range(len(numbers), len(self.ids)) if found is None else ():
                numbers[self.ids[node]] = node
                if self.ids[node] == id:  # the rest of the index waits, because to make all of it at once takes long
                    return node
        return found
