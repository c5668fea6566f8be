"""The objects of a run and their numbers: which output is which object."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Any

from handout.errors import GraphError
from handout.graph.given import GivenValue, Replacements
from handout.graph.output import Output, StoredObject
from handout.graph.path import Path, apply_path, path_key, path_text
from handout.graph.wiring import STORED, Wiring
from handout.serialization import exceptions

__all__ = ["Kept", "ObjectNumbers", "Pick", "Value"]


@dataclass(frozen=True, slots=True)
class Pick:
    """An element of a task's result, taken where the result was made."""

    task: int
    path: Path


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A value that the graph itself holds."""

    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """An object that the cluster's hosts hold already."""

    stored: StoredObject


class ObjectNumbers:
    """Numbers for objects: a task's whole result has the task's number, everything else gets the next one."""

    __slots__ = ("_given", "_names", "_numbers", "_task_of", "_tasks", "_wiring", "extras")

    def __init__(self, wiring: Wiring, given: Replacements, task_of: list[int], tasks: int) -> None:
        """Number nothing yet.

        Args:
            wiring: Of the graph.
            given: What replaces outputs.
            task_of: The task of each node; -1 where it has none.
            tasks: How many there are.
        """
        self._wiring = wiring
        self._given = given
        self._task_of = task_of
        self._tasks = tasks
        self.extras: list[Pick | Value | GivenValue | Kept] = []
        #: What each extra is called: the output that first asked for it.
        self._names: list[Output[Any]] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, output: Output[Any]) -> int | None:
        """The number of an output's object, which gets one if it has none; None for an inline function's."""
        node = self._wiring.node_of(output)
        if node != STORED and not output._path and self._task_of[node] >= 0:
            return self._task_of[node]
        key = _key(output, node)
        known = self._numbers.get(key)
        if known is None:
            extra = self._extra(output, node)
            if extra is None:
                return None
            known = self._numbers[key] = self._tasks + len(self.extras)
            self.extras.append(extra)
            self._names.append(output)
        return known

    def _extra(self, output: Output[Any], node: int) -> Pick | Value | GivenValue | Kept | None:
        path = output._path
        if isinstance(output._origin, StoredObject):
            return Kept(output._origin)
        given = self._given.find(node, path)
        if given is not None:
            return given
        if self._wiring.fns[node] is None:
            try:
                return Value(apply_path(self._wiring.args[node][0], path))
            except Exception as error:
                said = f"{type(error).__name__}: {exceptions.message(error)}"
                raise GraphError(
                    f"value {output.id!r} has no element {path_text(path)}: {said}.",
                    remedy="Check the path against the value.",
                ) from error
        task = self._task_of[node]
        return None if task < 0 else Pick(task, path)

    def find(self, output: Output[Any]) -> tuple[int | None, Path]:
        """The object that a reference was compiled to, and the path that is left inside the consumer.

        None for an inline function, and for what no task of this run refers to.
        """
        node = self._wiring.node_of(output)
        if node != STORED and not output._path and self._task_of[node] >= 0:
            return self._task_of[node], ()
        number = self._numbers.get(_key(output, node))
        # Elements of stored objects and of inline results are taken by the consumer: nothing else could.
        left = output._path if number is None or node == STORED else ()
        return number, left

    def locate(self, key: Output[Any] | str, preferred: Collection[int]) -> tuple[int, Path]:
        """See `Plan.locate`."""
        output = self._named(key) if isinstance(key, str) else key
        if not isinstance(output, Output):
            raise GraphError(f"{key!r} is neither an output nor an id.", remedy="Give what graph.add returned.")
        node, path = self._wiring.node_of(output), output._path
        found: tuple[int, Path] | None = None
        for end in range(len(path), -1, -1):
            number = self._existing(node, path[:end])
            if number is not None and (number in preferred or found is None):
                found = number, path[end:]
                if number in preferred:
                    break
        if found is None:
            raise GraphError(
                f"{output!r} is not part of this run.", remedy="Name it in outputs=, or leave outputs= out."
            )
        return found

    def _existing(self, node: int, path: Path) -> int | None:
        if node != STORED and not path and self._task_of[node] >= 0:
            return self._task_of[node]
        return self._numbers.get((node, path_key(path)))

    def _named(self, id: str) -> Output[Any]:
        wiring = self._wiring
        node = wiring.nodes.find(id)
        if node is not None:
            return Output(wiring.nodes, node)
        for dumped in wiring.dumped:
            if wiring.id_of(dumped) == id:
                return Output(wiring, dumped)
        for output in self._names:  # an element, by its full name
            if output.id == id:
                return output
        raise GraphError(f"no function has the id {id!r}.", remedy=wiring.nodes.did_you_mean(id))

    def name_of(self, number: int) -> str:
        """The id of an object that is no task's whole result."""
        return self._names[number - self._tasks].id


def _key(output: Output[Any], node: int) -> Hashable:
    return id(output._origin) if node == STORED else (node, path_key(output._path))
