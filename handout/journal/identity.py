"""What a task *is*: the same function of the same arguments has one identity, in every process and on every day.

A function's identity is that of its code without names of files and numbers of lines, its constants, annotations,
defaults, closure and the globals that it names, followed into the user's own modules; what is installed counts by
name and version (see `walk`). A task's adds its arguments and the identities of the tasks that make them. Equal tasks
of one graph are told apart by their order. None of it depends on the hash seed, on addresses or on pickled bytes, and
what has no identity that is sure matches nothing: it is run anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from handout.graph import placeholder
from handout.graph.objects import Kept, Pick
from handout.graph.output import Output
from handout.graph.path import Path
from handout.graph.plan import Plan
from handout.journal.value_digest import DIGEST_SIZE, Walk, digest
from handout.serialization.calls import PLAIN_TYPES

__all__ = ["DIGEST_SIZE", "TaskIdentities", "identity_of"]


def identity_of(value: Any) -> bytes:
    """The identity of a value or a function by itself."""
    return Walk().whole(value)


class TaskIdentities:
    """The identities of a plan's tasks and of the objects that they make.

    Args:
        plan: A validated graph. Its arguments must not change before this is made.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._functions: dict[int, tuple[bytes, bool]] = {}
        self._values: dict[int, bytes] = {}
        self._sources: dict[str, bytes] = {}
        #: Tasks that are never recognized: they, or what they take, cannot be taken apart.
        self.unrecognizable: set[int] = set()
        self._unsure_values: set[int] = set()
        #: By task.
        self.tasks: list[bytes] = []
        seen: dict[bytes, int] = {}
        for task in range(len(plan)):
            made = self._task(task)
            if self.unrecognizable or self._unsure_values:
                self._note_unsure(task)
            earlier = seen.get(made, 0)
            seen[made] = earlier + 1
            self.tasks.append(digest(made, b"again %d" % earlier) if earlier else made)

    def _note_unsure(self, task: int) -> None:
        """What takes something that is never recognized is not recognized either."""
        count, extras = len(self._plan), self._plan.extras
        for number in self._plan.inputs[task]:
            extra = None if number < count else extras[number - count]
            producer = number if extra is None else extra.task if isinstance(extra, Pick) else -1
            if producer in self.unrecognizable or number in self._unsure_values:
                self.unrecognizable.add(task)

    def part_of(self, number: int) -> str:
        """Which part of its task's result an object is: empty for the whole, else the path to the element."""
        count = len(self._plan)
        if number < count:
            return ""
        extra = self._plan.extras[number - count]
        return _path_text(extra.path) if isinstance(extra, Pick) else ""

    def object(self, number: int) -> bytes:
        """The identity of an object: a task's result, an element of one, or a value of the caller's."""
        count = len(self._plan)
        if number < count:
            return self.tasks[number]
        known = self._values.get(number)
        if known is None:
            extra = self._plan.extras[number - count]
            if isinstance(extra, Pick):
                known = digest(self.tasks[extra.task], b"element", _path_text(extra.path).encode())
            elif isinstance(extra, Kept):
                known = digest(b"kept", repr((extra.stored.id, extra.stored.key)).encode())
            else:
                walk = Walk(None, self._sources)
                known = walk.whole(extra.value)
                if not walk.sure:
                    self._unsure_values.add(number)
            self._values[number] = known
        return known

    def _task(self, task: int) -> bytes:
        plan = self._plan
        fn = plan.fns[task]
        known = self._functions.get(id(fn))  # the plan keeps it alive
        if known is None:
            walk = Walk(None, self._sources)
            known = self._functions[id(fn)] = walk.whole(fn), walk.sure
        called, sure = known
        if not sure:
            self.unrecognizable.add(task)
        args, kwargs = plan.args[task], plan.kwargs[task]
        if not kwargs:
            text: list[str] = []
            for arg in args:
                kind = type(arg)
                if kind in PLAIN_TYPES:
                    text.append(repr(arg))
                elif kind is Output and not arg._path:
                    number, path = plan.objects.find(arg)
                    if number is None or path:
                        break
                    text.append(f"<{self.object(number).hex()}>")
                else:
                    break
            else:
                return digest(called, "\x1f".join(text).encode("utf-8", "surrogatepass"))
        walk = Walk(self._promise(task), self._sources)
        made = digest(called, walk.whole((args, kwargs)))
        if not walk.sure:
            self.unrecognizable.add(task)
        return made

    def _promise(self, task: int) -> Callable[[Any, Walk], bytes]:
        slot_of, inputs = self._plan.slot_of(task), self._plan.inputs[task]

        def stands_for(found: placeholder.Placeholder, walk: Walk) -> bytes:
            match found:
                case placeholder.Slot(index):
                    return self.object(inputs[index])
                case placeholder.Inline(fn, args, kwargs):
                    return digest(b"inline", walk.of(fn), walk.of(args), walk.of(kwargs))
                case placeholder.Loaded(inner, load):
                    return digest(b"loaded", stands_for(inner, walk), walk.of(load))
                case placeholder.Taken(inner, path):
                    return digest(b"taken", stands_for(inner, walk), _path_text(path).encode())

        return lambda promise, walk: stands_for(slot_of(promise), walk)


def _path_text(path: Path) -> str:
    return repr(tuple(path))
