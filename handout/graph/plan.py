"""`Plan`: a graph that was checked and numbered for one run.

The n tasks have the numbers 0 to n - 1, and each task has a higher number than the tasks whose results it takes. Object
number t is the whole result of task number t. The objects from number n on are elements of results, and values that no
task makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from handout.graph.function_options import TaskOptions
from handout.graph.given_values import GivenValue
from handout.graph.objects import Borrowed, ObjectNumbers, Pick, Value, WarmRecipe
from handout.graph.output import Input, Output
from handout.graph.placeholder import Slots
from handout.graph.wiring import Wiring
from handout.serialization.calls import Path, Placeholder

__all__ = ["Borrowed", "GivenValue", "Pick", "Plan", "Value", "WarmRecipe"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A graph as one run sees it. Functions that are added to the graph later are not in the plan.

    Each sequence from `ids` to `groups` has one entry for each task.
    """

    #: The id that the function of each task has in the graph.
    ids: Sequence[str]
    fns: Sequence[Callable[..., Any]]
    #: The positional arguments as the caller gave them. `slot_of` finds the placeholders for the outputs in them.
    args: Sequence[tuple[Any, ...]]
    kwargs: Sequence[Mapping[str, Any]]
    #: Tasks with equal options share one object.
    options: Sequence[TaskOptions]
    #: Numbers of the objects that the task takes, each once, in the order of its arguments.
    inputs: Sequence[tuple[int, ...]]
    #: The number of the task's group. Tasks of one group run on the same host. -1: the task is in no group.
    groups: Sequence[int]
    #: The objects from number n on, where n is the number of tasks.
    extras: Sequence[Pick | Value | GivenValue | Borrowed | WarmRecipe]
    #: Numbers of the objects that the caller wants, each once.
    outputs: Sequence[int]
    #: Numbers of the objects that stay on their hosts after the run, each once.
    keep: Sequence[int]
    #: Finds the object of an output or an id.
    objects: ObjectNumbers
    wiring: Wiring

    def __len__(self) -> int:
        return len(self.fns)

    @cached_property
    def producers(self) -> list[int]:
        """The task that makes each object, or -1 for a value that no task makes."""
        return [*range(len(self.fns)), *[each.task if isinstance(each, Pick) else -1 for each in self.extras]]

    def slot_of(self, task: int) -> Callable[[Input[Any]], Placeholder]:
        """Return a function that finds the placeholder for an output or `Arg` in a task's arguments; see `Slots`."""
        return Slots(self.ids[task], self.inputs[task], self.objects, self.wiring)

    def slot_in(self, recipe: WarmRecipe) -> Callable[[Input[Any]], Placeholder]:
        """Return a function that finds the placeholder for an output or `Arg` in the arguments of a `Warm`."""
        return Slots(repr(recipe.warm), recipe.inputs, self.objects, self.wiring)

    def locate(self, key: Output[Any] | str) -> tuple[int, Path]:
        """Return the number of the object that contains the value of an output or an id, and the path to the value.

        If several objects contain the value, one that is in `outputs` is preferred, because the controller gets these
        objects. If several are left, the object with the shortest path to the value is returned.

        Raises:
            GraphError: No object of this run contains the value.
        """
        return self.objects.locate(key, self._wanted)

    @cached_property
    def _wanted(self) -> frozenset[int]:
        return frozenset(self.outputs)

    def name_of(self, number: int) -> str:
        """Return the id of an object: the id of its function, followed by the path if the object is an element."""
        if number < len(self.ids):
            return self.ids[number]
        return self.objects.name_of(number)
