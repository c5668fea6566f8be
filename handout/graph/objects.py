"""Numbers the objects of a run, and finds the object that an output names."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from handout.errors import GraphError
from handout.graph.given_values import GivenValue, Replacements
from handout.graph.output import Output
from handout.graph.path import path_key
from handout.graph.stored import Home
from handout.graph.warm import Warm
from handout.graph.wiring import Wiring
from handout.serialization import exceptions
from handout.serialization.calls import Path, apply_path, path_text
from handout.serialization.user_objects import brief, is_interruption, short_name

__all__ = ["Borrowed", "ObjectNumbers", "Pick", "Value", "WarmRecipe"]


@dataclass(frozen=True, slots=True)
class Pick:
    """An element of a task's result. The host that made the result takes the element out of the result."""

    task: int
    path: Path


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A value that was added with `Graph.value`, or an element of such a value."""

    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class Borrowed:
    """An object that is stored on hosts of the cluster."""

    home: Home


@dataclass(slots=True, eq=False)
class WarmRecipe:
    """The function and the arguments of a `Warm`, by which workers make its value."""

    warm: Warm[Any]
    #: Numbers of the objects that the arguments refer to, each once. Other recipes come first.
    inputs: tuple[int, ...]
    #: How many of them are recipes.
    nested: int
    #: See `Warmed`. Empty until the recipe is encoded.
    identity: bytes = b""


class ObjectNumbers:
    """Numbers the objects of a run.

    The whole result of a task has the number of the task. Each other object gets the next free number.
    """

    __slots__ = ("_given", "_names", "_numbers", "_rest", "_task_of", "_tasks", "_wiring", "extras")

    def __init__(self, wiring: Wiring, given: Replacements, task_of: list[int], tasks: int) -> None:
        """Start without objects.

        Args:
            wiring: The edges of the graph.
            given: The values that replace outputs in this run.
            task_of: The task of each node, or -1 for a node without a task.
            tasks: Number of tasks.
        """
        self._wiring = wiring
        self._given = given
        self._task_of = task_of
        self._tasks = tasks
        self.extras: list[Pick | Value | GivenValue | Borrowed | WarmRecipe] = []
        #: For each entry of ``extras``: the first output that named the object.
        self._names: list[Output[Any]] = []
        self._numbers: dict[Hashable, int] = {}
        #: For outputs that a stored object replaces: the path from the stored object to the value of the output.
        self._rest: dict[Hashable, Path] = {}

    def number(self, output: Output[Any]) -> int | None:
        """Return the number of the object that an output names. An object that has no number yet gets one.

        None: the output names the result of an inline function, or an element of such a result.
        """
        node = self._wiring.node_of(output)
        if not output._path and self._task_of[node] >= 0:
            return self._task_of[node]
        key = (node, path_key(output._path))
        known = self._numbers.get(key)
        if known is None:
            stored = self._given.stored(node, output._path)
            if stored is not None:
                return self._borrow(output, key, *stored)
            extra = self._extra(output, node)
            if extra is None:
                return None
            known = self._numbers[key] = self._tasks + len(self.extras)
            self.extras.append(extra)
            self._names.append(output)
        return known

    def _borrow(self, output: Output[Any], key: Hashable, stored: Output[Any], path: Path) -> int:
        """Return the number of the stored object that replaces an output.

        The task that takes the output follows the path, because no task of this run makes the object.
        """
        home = cast(Home, stored._origin)
        number = self._numbers.get(id(home))
        if number is None:
            number = self._numbers[id(home)] = self._tasks + len(self.extras)
            self.extras.append(Borrowed(home))
            self._names.append(output)
        self._numbers[key] = number
        self._rest[key] = stored._path + path
        return number

    def _extra(self, output: Output[Any], node: int) -> Pick | Value | GivenValue | Borrowed | None:
        path = output._path
        given = self._given.find(node, path)
        if given is not None:
            return given
        home = self._wiring.homes.get(node)
        if home is not None:
            return Borrowed(home)
        if self._wiring.fns[node] is None:
            try:
                return Value(apply_path(self._wiring.args[node][0], path))
            except BaseException as error:  # the look-up is user code, and may raise anything
                if is_interruption(error):
                    raise
                said = f"{short_name(error)}: {exceptions.message(error)}"
                raise GraphError(
                    f"value {output.id!r} has no element {path_text(path)}: {said}.",
                    remedy="Name an element that the value has.",
                ) from error
        task = self._task_of[node]
        return None if task < 0 else Pick(task, path)

    def add_recipe(self, node: int, inputs: Sequence[int]) -> int:
        """Give a number to the recipe of a `Warm`, and return it.

        Args:
            node: The node of the `Warm`.
            inputs: Numbers of the objects that its arguments refer to.
        """
        number = self._numbers["recipe", node] = self._tasks + len(self.extras)
        nested = [each for each in inputs if self._is_recipe(each)]
        others = [each for each in inputs if not self._is_recipe(each)]
        self.extras.append(WarmRecipe(self._wiring.warm[node], (*nested, *others), len(nested)))
        self._names.append(Output(self._wiring, node))
        return number

    def _is_recipe(self, number: int) -> bool:
        return number >= self._tasks and isinstance(self.extras[number - self._tasks], WarmRecipe)

    def recipe(self, node: int) -> tuple[int, WarmRecipe]:
        """Return the recipe of a `Warm` that a task takes, and its number."""
        number = self._numbers["recipe", node]
        recipe = self.extras[number - self._tasks]
        assert isinstance(recipe, WarmRecipe)
        return number, recipe

    def is_made(self, number: int) -> bool:
        """Return True if a task of the run makes an object."""
        return number < self._tasks or isinstance(self.extras[number - self._tasks], Pick)

    def find(self, output: Output[Any]) -> tuple[int | None, Path]:
        """Return the number of the object that an output names, and the path from this object to the output's value.

        The output of an inline function names no object. Its number is None, and its path leads from the function's
        result to the value. The number is also None for an output that no task of this run takes.
        """
        node = self._wiring.node_of(output)
        if not output._path and self._task_of[node] >= 0:
            return self._task_of[node], ()
        key = (node, path_key(output._path))
        number = self._numbers.get(key)
        if self._rest and key in self._rest:
            return number, self._rest[key]
        # The result of an inline function exists only inside the task that takes it, so this task follows the path.
        return number, output._path if number is None else ()

    def locate(self, key: Output[Any] | str, preferred: Collection[int]) -> tuple[int, Path]:
        """Return the object and the path that `Plan.locate` returns. Objects in ``preferred`` come first."""
        output = self._named(key) if isinstance(key, str) else key
        if not isinstance(output, Output):
            each = " These are several: give them one by one." if isinstance(key, list | tuple) else ""
            raise GraphError(
                f"{brief(key)} is neither an output nor an id.",
                remedy=f"Give an output that graph.add returned, or an id.{each}",
            )
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
                f"{output!r} is not part of this run.", remedy="Add it to outputs=[...], or leave outputs= out."
            )
        return found

    def _existing(self, node: int, path: Path) -> int | None:
        if not path and self._task_of[node] >= 0:
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
        for output in self._names:  # the id of an element, such as "split[0]"
            if output.id == id:
                return output
        raise GraphError(f"no function has the id {id!r}.", remedy=wiring.nodes.did_you_mean(id))

    def name_of(self, number: int) -> str:
        """Return the id of an object that is not the whole result of a task."""
        return self._names[number - self._tasks].id
