"""`Plan`: a validated graph as columns of numbers, ready to run.

Tasks are numbered 0..n-1, producers before their consumers. The whole result of task t is object t. Objects from
number n on are elements of results and values that the caller supplies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from handout.graph.function_options import TaskOptions
from handout.graph.given_values import GivenValue
from handout.graph.objects import ObjectNumbers, Pick, Value
from handout.graph.output import Input, Output
from handout.graph.placeholder import Slots
from handout.graph.wiring import Wiring
from handout.serialization.calls import Path, Placeholder

__all__ = ["GivenValue", "Pick", "Plan", "Value"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A graph as one run sees it. Functions that are added to the graph later are not in it.

    The columns up to `groups` have one entry a task.
    """

    #: The user's ids.
    ids: Sequence[str]
    fns: Sequence[Callable[..., Any]]
    #: The arguments as the caller gave them. `slot_of` gives the placeholder of each output in them.
    args: Sequence[tuple[Any, ...]]
    kwargs: Sequence[Mapping[str, Any]]
    #: Interned: tasks with equal options share one object.
    options: Sequence[TaskOptions]
    #: Numbers of the objects that the task takes, each once, in the order of its arguments.
    inputs: Sequence[tuple[int, ...]]
    #: Tasks with the same number run on the same host. -1: the task may run anywhere.
    groups: Sequence[int]
    #: One entry for each object from number n on.
    extras: Sequence[Pick | Value | GivenValue]
    #: Numbers of the objects that the caller wants, each once.
    outputs: Sequence[int]
    #: Finds the object of an output or an id.
    objects: ObjectNumbers
    wiring: Wiring

    def __len__(self) -> int:
        return len(self.fns)

    @cached_property
    def producers(self) -> list[int]:
        """By object: the task that makes it, or -1 for a value of the caller."""
        return [*range(len(self.fns)), *[each.task if isinstance(each, Pick) else -1 for each in self.extras]]

    def slot_of(self, task: int) -> Callable[[Input[Any]], Placeholder]:
        """Return a function that gives the placeholder of an output or `Arg` in a task's arguments; see `Slots`."""
        return Slots(self.ids[task], self.inputs[task], self.objects, self.wiring)

    def locate(self, key: Output[Any] | str) -> tuple[int, Path]:
        """Return the object that holds what a caller's key names, and the path from the object to it.

        An object in `outputs` comes before others, because the controller has it. Among several objects, the one with
        the shortest path comes first.

        Raises:
            GraphError: The key names no object of this run.
        """
        return self.objects.locate(key, self._wanted)

    @cached_property
    def _wanted(self) -> frozenset[int]:
        return frozenset(self.outputs)

    def name_of(self, number: int) -> str:
        """Return the id of an object: that of its function, followed by the path if it is an element."""
        if number < len(self.ids):
            return self.ids[number]
        return self.objects.name_of(number)
