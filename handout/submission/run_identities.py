"""The identities of a run's tasks. An identity is a digest by which a later run of this process recognizes a task.

Two tasks have the same identity if the hosts get the same bytes for both: the same function with the same sources of
the user's own modules, the same arguments, and the results of tasks with the same identities. One graph may have
several tasks that are equal in this way. Their identities differ, because the place among these tasks is a part of
them.

A journal has other identities (see `journal.identity`), because it recognizes tasks of other processes, in which the
bytes of equal objects may differ. Where two objects are equal but their bytes are not, the identities here differ, and
the later run does not use the result of the earlier one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from handout.graph.objects import Borrowed, Pick
from handout.graph.plan import Plan
from handout.serialization.calls import Path
from handout.slices import Slices, is_slice_end
from handout.submission.arguments import EncodedRun
from handout.submission.function_identity import SIZE, digest, path_digest

__all__ = ["RunIdentities", "element_identity"]


class RunIdentities:
    """The identities of a run's tasks, and the parts of which they are made.

    Args:
        plan: The graph of the run.
        encoded: The bytes of the run.
    """

    def __init__(self, plan: Plan, encoded: EncodedRun) -> None:
        self._plan, self._encoded, self._digests = plan, encoded, encoded.digests
        #: The identity of each task. `compute` makes them.
        self.tasks: list[bytes] = []
        #: The identities of values, and of elements of results.
        self._objects: dict[int, bytes] = {}

    def function(self, task: int) -> bytes:
        """Return the digest of a task's function."""
        return self._digests.functions[self._encoded.fn[task]]

    def call(self, task: int) -> bytes:
        """Return the digest of a task's arguments, in which its inputs have only their places."""
        return self._digests.call(task)

    def numbers(self, task: int) -> Sequence[int]:
        """Return the numbers of the objects that a task takes."""
        return self._encoded.inputs[task]

    def inputs(self, task: int) -> list[bytes]:
        """Return the identities of the objects that a task takes."""
        return [self.object(number) for number in self._encoded.inputs[task]]

    def object(self, number: int) -> bytes:
        """Return the identity of an object. The task that makes it must have its identity already."""
        return self.tasks[number] if number < len(self._plan) else self._objects[number]

    def _element(self, number: int) -> bytes:
        known = self._objects.get(number)
        if known is None:
            extra = self._plan.extras[number - len(self._plan)]
            if isinstance(extra, Borrowed):
                known = extra.home.identity
            else:
                assert isinstance(extra, Pick)
                known = element_identity(self.tasks[extra.task], extra.path)
            self._objects[number] = known
        return known

    def compute(self) -> Slices[None]:
        """Compute all identities."""
        count, digests, tasks = len(self._plan), self._digests, self.tasks
        for number, value in digests.values.items():
            self._objects[number] = yield from value.made()
        seen: dict[bytes, int] = {}
        for task, inputs in enumerate(self._encoded.inputs):
            if is_slice_end(task):
                yield
            made = hashlib.sha256(self.function(task))
            made.update(digests.call(task))
            for number in inputs:
                if number < count:
                    made.update(tasks[number])
                else:
                    made.update(self._objects.get(number) or self._element(number))
            found = made.digest()[:SIZE]
            earlier = seen.get(found, 0)
            seen[found] = earlier + 1
            tasks.append(digest(found, b"again %d" % earlier) if earlier else found)
        for number, extra in enumerate(self._plan.extras, count):
            if is_slice_end(number):
                yield
            if isinstance(extra, Pick):
                self._element(number)


def element_identity(task: bytes, path: Path) -> bytes:
    """Return the identity of an element of the result of a task that has this identity."""
    return digest(task, path_digest(path))
