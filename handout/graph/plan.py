"""`Plan`: a validated graph as columns of numbers, ready for whoever runs it.

Tasks are numbered 0..n-1 so that producers come before their consumers. Objects are numbered, too: the whole result
of task t is object t; elements of results, and what the caller supplies, have the numbers from n on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from handout.graph.given import GivenValue
from handout.graph.objects import Kept, ObjectNumbers, Pick, Value
from handout.graph.options import TaskOptions
from handout.graph.output import Input, Output
from handout.graph.path import Path
from handout.graph.placeholder import Placeholder, Slots
from handout.graph.wiring import Wiring

__all__ = ["GivenValue", "Kept", "Pick", "Plan", "Value"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run's view of a graph. Later changes of the graph do not show here."""

    #: One entry a task.
    ids: Sequence[str]
    fns: Sequence[Callable[..., Any]]
    #: As the caller gave them: with outputs in them, which `slot_of` explains.
    args: Sequence[tuple[Any, ...]]
    kwargs: Sequence[Mapping[str, Any]]
    #: Interned: equal options are the same object.
    options: Sequence[TaskOptions]
    #: The objects that a task needs, each once, in the order in which its arguments mention them.
    inputs: Sequence[tuple[int, ...]]
    #: Tasks of one number run on one host; -1: alone.
    groups: Sequence[int]
    #: Objects n, n+1, ...
    extras: Sequence[Pick | Value | GivenValue | Kept]
    #: Objects that the caller wants, in the order of the keys; each once.
    outputs: Sequence[int]
    #: Objects that stay on the hosts.
    keep: Sequence[int]
    #: How outputs and ids are found again.
    objects: ObjectNumbers
    wiring: Wiring

    def __len__(self) -> int:
        return len(self.fns)

    @cached_property
    def producers(self) -> list[int]:
        """The task that makes each object; -1 where it is supplied, or kept by the cluster."""
        return [*range(len(self.fns)), *[each.task if isinstance(each, Pick) else -1 for each in self.extras]]

    def slot_of(self, task: int) -> Callable[[Input[Any]], Placeholder]:
        """What the outputs inside a task's arguments stand for.

        The answer takes an output, a stored object or an `Arg`, and gives a placeholder.

        Raises:
            GraphError: (by the answer) It stands where compiling did not find it: inside an object.
        """
        return Slots(self.ids[task], self.inputs[task], self.objects, self.wiring)

    def locate(self, key: Output[Any] | str) -> tuple[int, Path]:
        """The object in which a caller's key is to be found, and the path from there to it.

        Prefers objects that the caller wanted, because these are at hand, and among them the nearest.

        Raises:
            GraphError: The key names nothing of this run.
        """
        return self.objects.locate(key, self._wanted)

    @cached_property
    def _wanted(self) -> frozenset[int]:
        return frozenset(self.outputs)

    def name_of(self, number: int) -> str:
        """The id of an object: of its function, with the path to the element where it is one."""
        if number < len(self.ids):
            return self.ids[number]
        return self.objects.name_of(number)
