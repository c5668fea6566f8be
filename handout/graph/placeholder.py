"""What an output inside the arguments of a task becomes on its way to the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from handout.errors import GraphError
from handout.graph.arg import Arg
from handout.graph.objects import ObjectNumbers
from handout.graph.output import Input, Output
from handout.graph.path import Path
from handout.graph.wiring import Wiring

__all__ = ["Inline", "Loaded", "Placeholder", "Slot", "Slots", "Taken"]


@dataclass(frozen=True, slots=True)
class Slot:
    """One of the task's inputs."""

    #: Index into the task's ``inputs``.
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class Inline:
    """The result of an inline function, called inside the consumer; its arguments may hold outputs again."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a function returns for another placeholder: the ``load`` of an `Arg`."""

    placeholder: Placeholder
    load: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Taken:
    """An element of another placeholder that is taken inside the consumer."""

    placeholder: Placeholder
    path: Path


Placeholder = Slot | Inline | Loaded | Taken


class Slots:
    """Explains the outputs in one task's arguments, those of its inline producers included."""

    __slots__ = ("_id", "_index", "_inline", "_objects", "_wiring")

    def __init__(self, id: str, inputs: tuple[int, ...], objects: ObjectNumbers, wiring: Wiring) -> None:
        self._id = id
        self._index = {number: index for index, number in enumerate(inputs)}
        self._objects = objects
        self._wiring = wiring
        #: One placeholder for each inline function, so that it is called once, however often it is mentioned.
        self._inline: dict[int, Inline] = {}

    def __call__(self, ref: Input[Any]) -> Placeholder:
        """The placeholder of an output, a stored object or an `Arg`."""
        if isinstance(ref, Arg):
            dumped = self._wiring.dump_output(ref)
            found = self(ref.producer if dumped is None else dumped)
            if dumped is None and ref.dump is not None:
                found = Loaded(found, ref.dump)
            return found if ref.load is None else Loaded(found, ref.load)
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

    def _inline_of(self, ref: Output[Any]) -> Inline:
        node = self._wiring.node_of(ref)
        found = self._inline.get(node)
        if found is None:
            fn = self._wiring.fns[node]
            if node not in self._wiring.nodes.inline or fn is None:
                self._unknown(ref)
            kwargs = self._wiring.nodes.kwargs.get(node, {})
            found = self._inline[node] = Inline(fn, self._wiring.args[node], kwargs)
        return found

    def _unknown(self, ref: Input[Any]) -> NoReturn:
        raise GraphError(
            f"an argument of function {self._id!r} holds {ref!r} inside an object, where it is not looked for.",
            remedy="Pass it as an argument of its own, or inside lists, tuples and dicts.",
        )
