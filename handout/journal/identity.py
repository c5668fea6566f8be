"""Computes the identities of tasks. An identity is a digest by which a run recognizes a task of an earlier run.

Tasks of two runs have the same identity if they have the same function and the same arguments. The process and the time
of a run make no difference. One graph may also have several tasks with the same function and the same arguments. The
identities of such tasks differ, because they also depend on the order of these tasks in the graph.

The identity of a function is made from its code (without file names and line numbers), its constants, annotations,
defaults and closure, and the values of the globals that it names. This holds for the functions of all of the user's own
modules. The identity of a function that can be imported from an installed module is made only from its name and the
module's version (see `code_rules`).

The identity of a task is made from the identity of its function, from its arguments, and from the identities of the
tasks whose results are among the arguments.

No identity depends on the hash seed, on memory addresses or on pickled bytes. Some values, such as open files, cannot
be taken apart into parts that have an identity. Such a value gets a random identity, which matches no other. So a task
with such a value is run anew in each run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from handout.graph.objects import Borrowed, Pick, WarmRecipe
from handout.graph.output import Input, Output
from handout.graph.plan import Plan
from handout.journal.value_digest import new_walk
from handout.journal.value_walk import ValueWalk, digest, plain_text
from handout.serialization.calls import PLAIN_TYPES, Inline, Loaded, Path, Placeholder, Slot, Taken, Warmed
from handout.slices import Slices

__all__ = ["TaskIdentities"]


class TaskIdentities:
    """The identities of a plan's tasks and of the objects that the tasks make or take."""

    def __init__(self, plan: Plan) -> None:
        """Start without identities. `of` computes them."""
        self._plan = plan
        self._functions: dict[int, tuple[bytes, bool]] = {}
        self._values: dict[int, bytes] = {}
        self._sources: dict[str, bytes] = {}
        #: Numbers of the tasks that match no task of an earlier run. The function or an argument of such a task cannot
        #: be taken apart, or the task takes the result of another such task.
        self.unrecognizable: set[int] = set()
        #: Numbers of the objects that are values of the caller and cannot be taken apart.
        self._unknown_values: set[int] = set()
        #: The identity of each task, in the order of the tasks' numbers.
        self.tasks: list[bytes] = []

    @classmethod
    def of(cls, plan: Plan) -> Slices[TaskIdentities]:
        """Compute the identities of a plan's tasks.

        Args:
            plan: The graph, checked and numbered. The arguments in the plan must not change meanwhile.
        """
        identities = cls(plan)
        seen: dict[bytes, int] = {}
        for task in range(len(plan)):
            yield
            made = identities._task(task)
            if identities.unrecognizable or identities._unknown_values:
                identities._inherit_unrecognizable(task)
            earlier = seen.get(made, 0)
            seen[made] = earlier + 1
            identities.tasks.append(digest(made, b"again %d" % earlier) if earlier else made)
        return identities

    def _inherit_unrecognizable(self, task: int) -> None:
        """Mark a task as unrecognizable if an input is an unknown value or comes from an unrecognizable task."""
        count, extras = len(self._plan), self._plan.extras
        for number in self._plan.inputs[task]:
            extra = None if number < count else extras[number - count]
            producer = number if extra is None else extra.task if isinstance(extra, Pick) else -1
            if producer in self.unrecognizable or number in self._unknown_values:
                self.unrecognizable.add(task)

    def part_of(self, number: int) -> str:
        """Return the path of an object as text. The path says which element of its task's result the object is.

        The text is empty if the object is the whole result or a value of the caller.
        """
        count = len(self._plan)
        if number < count:
            return ""
        extra = self._plan.extras[number - count]
        return _path_text(extra.path) if isinstance(extra, Pick) else ""

    def object(self, number: int) -> bytes:
        """Return the identity of an object: a task's result, an element of a result, or a value of the caller."""
        count = len(self._plan)
        if number < count:
            return self.tasks[number]
        known = self._values.get(number)
        if known is None:
            extra = self._plan.extras[number - count]
            if isinstance(extra, Pick):
                known = digest(self.tasks[extra.task], b"element", _path_text(extra.path).encode())
            elif isinstance(extra, Borrowed):  # no journal says what made the object
                known = os.urandom(16)
                self._unknown_values.add(number)
            else:
                if isinstance(extra, WarmRecipe):
                    walk = new_walk(self._promise(self._plan.slot_in(extra), extra.inputs), self._sources)
                    known = walk.whole((extra.warm.make, extra.warm.args, extra.warm.kwargs))
                else:
                    walk = new_walk(None, self._sources)
                    known = walk.whole(extra.value)
                if not walk.is_complete:
                    self._unknown_values.add(number)
            self._values[number] = known
        return known

    def _task(self, task: int) -> bytes:
        """Return a task's identity before the task's place among equal tasks is added to it."""
        plan = self._plan
        fn = plan.fns[task]
        known = self._functions.get(id(fn))  # the plan keeps `fn` alive, so no other function gets this id
        if known is None:
            walk = new_walk(None, self._sources)
            known = self._functions[id(fn)] = walk.whole(fn), walk.is_complete
        called, is_complete = known
        if not is_complete:
            self.unrecognizable.add(task)
        args, kwargs = plan.args[task], plan.kwargs[task]
        text = None if kwargs else self._plain_text(args)
        if text is not None:
            return digest(called, text.encode("utf-8", "surrogatepass"))
        walk = new_walk(self._promise(plan.slot_of(task), plan.inputs[task]), self._sources)
        made = digest(called, walk.whole((args, kwargs)))
        if not walk.is_complete:
            self.unrecognizable.add(task)
        return made

    def _plain_text(self, args: tuple[Any, ...]) -> str | None:
        """Return the arguments as text if each argument is a plain value, such as a number, or a task's whole result.

        Otherwise return None. Most tasks have only such arguments. For these tasks, making the text is faster than
        walking through the arguments with a `ValueWalk`.
        """
        text: list[str] = []
        for arg in args:
            kind = type(arg)
            if kind in PLAIN_TYPES:
                text.append(plain_text(arg))
            elif kind is Output and not arg._path:
                number, path = self._plan.objects.find(arg)
                if number is None or path:
                    return None
                text.append(f"<{self.object(number).hex()}>")
            else:
                return None
        return "\x1f".join(text)

    def _promise(
        self, slot_of: Callable[[Input[Any]], Placeholder], inputs: Sequence[int]
    ) -> Callable[[Any, ValueWalk], bytes]:
        """Return a function that gives the identity of a promise of a value among some arguments.

        A `ValueWalk` gets this function as its argument ``promise``.

        Args:
            slot_of: Returns the placeholder of such a promise.
            inputs: The numbers of the objects that the placeholders name.
        """

        def stands_for(found: Placeholder, walk: ValueWalk) -> bytes:
            match found:
                case Slot(index):
                    return self.object(inputs[index])
                case Inline(fn, args, kwargs):
                    return digest(b"inline", walk.of(fn), walk.of(args), walk.of(kwargs))
                case Loaded(inner, load):
                    return digest(b"loaded", stands_for(inner, walk), walk.of(load))
                case Taken(inner, path):
                    return digest(b"taken", stands_for(inner, walk), _path_text(path).encode())
                case Warmed(recipe=recipe):  # what the recipe takes is a part of its identity
                    return digest(b"warm", self.object(inputs[recipe.index]))

        return lambda promise, walk: stands_for(slot_of(promise), walk)


def _path_text(path: Path) -> str:
    """Return a path as text. Of a key that is no plain value, the text holds the key's identity."""
    steps = [f"({kind!r}, {_key_text(key)})" for kind, key in path]
    return f"({', '.join(steps)}{',' if len(steps) == 1 else ''})"


def _key_text(key: Any) -> str:
    if type(key) in PLAIN_TYPES:
        return plain_text(key)
    if type(key) is slice:
        return f"slice({', '.join(map(_key_text, (key.start, key.stop, key.step)))})"
    return new_walk().whole(key).hex()
