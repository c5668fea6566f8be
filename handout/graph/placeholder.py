"""Finds the placeholders that replace outputs when the arguments of a task travel.

A placeholder tells the worker where the value comes from: an input of the task, a call of an inline
function (a function that the task itself calls to get an argument), a warm value, the ``load`` function of an `Arg`, or
an element of one of these.
"""

from __future__ import annotations

from typing import Any, NoReturn

from handout.errors import GraphError
from handout.graph.arg import Arg
from handout.graph.objects import ObjectNumbers
from handout.graph.output import Input, Output
from handout.graph.warm import Warm
from handout.graph.wiring import Wiring
from handout.serialization.calls import Inline, Loaded, Placeholder, Slot, Taken, Warmed

__all__ = ["Slots"]


class Slots:
    """Finds the placeholder for each output in the arguments of one task, and of the inline functions that it calls."""

    __slots__ = ("_id", "_index", "_inline", "_objects", "_wiring")

    def __init__(self, id: str, inputs: tuple[int, ...], objects: ObjectNumbers, wiring: Wiring) -> None:
        self._id = id
        self._index = {number: index for index, number in enumerate(inputs)}
        self._objects = objects
        self._wiring = wiring
        #: The placeholder of each inline function, by node. All uses of one function share one placeholder. The task
        #: makes a call for each placeholder, so a second placeholder would call the function twice.
        self._inline: dict[int, Inline] = {}

    def __call__(self, ref: Input[Any]) -> Placeholder:
        """Return the placeholder for an output, an `Arg` or a `Warm`.

        Raises:
            GraphError: The output is inside an object, where `Scanner` does not look for outputs.
        """
        if isinstance(ref, Arg):
            dumped = self._wiring.dump_output(ref)
            found = self(ref.producer if dumped is None else dumped)
            if dumped is None and ref.dump is not None:
                found = Loaded(found, ref.dump)
            return found if ref.load is None else Loaded(found, ref.load)
        if isinstance(ref, Warm):
            return self._warmed(ref)
        if not isinstance(ref, Output):
            self._unknown(ref)
        number, path = self._objects.find(ref)
        if number is None:
            inline: Placeholder = self._inline_of(ref)
            return Taken(inline, path) if path else inline
        index = self._index.get(number)
        if index is None:
            self._unknown(ref)
        return Taken(Slot(index), path) if path else Slot(index)

    def _warmed(self, warm: Warm[Any]) -> Warmed:
        node = self._wiring.node_of_warm(warm)
        if node is None:
            self._unknown(warm)
        number, recipe = self._objects.recipe(node)
        if number not in self._index:
            self._unknown(warm)
        slots = [Slot(self._index[input]) for input in (number, *recipe.inputs)]
        return Warmed(recipe.identity, slots[0], tuple(slots[1:]), recipe.nested)

    def _inline_of(self, ref: Output[Any]) -> Inline:
        node = self._wiring.node_of(ref)
        found = self._inline.get(node)
        if found is None:
            fn = self._wiring.fns[node]
            if node not in self._wiring.inline or fn is None:
                self._unknown(ref)
            kwargs = self._wiring.nodes.kwargs.get(node, {})
            found = self._inline[node] = Inline(fn, self._wiring.args[node], kwargs)
        return found

    def _unknown(self, ref: Input[Any]) -> NoReturn:
        raise GraphError(
            f"an argument of function {self._id!r} holds {ref!r} inside an object, where Handout does not look for "
            f"outputs.",
            remedy="Pass the output as an argument of its own, or inside lists, tuples and dicts.",
        )
