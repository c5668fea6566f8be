"""The state of the worker's process that a task may change: the worker lends it to each task, and then takes it back.

The worker checks that the state is as it was, and puts back what tasks have changed, before it reports their results.
It ends if it cannot put something back, so that no other task gets a changed process. `Worker` decides which tasks are
checked together.

The worker keeps what a module changes while Python imports it; see `import_watch`. A later task uses the module without
importing it again, and may rely on what the import did.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from handout.host.worker import lent_parts
from handout.host.worker.descriptors import Descriptors
from handout.host.worker.event_loop import EventLoop
from handout.host.worker.left_threads import LeftThreads
from handout.host.worker.lent_parts import Part


class Checklist:
    """Some parts of the state, and the values that each task must find.

    Args:
        parts: The parts.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._reads = [part.read for part in parts]
        self._expected = [_copy(read()) for read in self._reads]
        #: How to read each part that is checked after a short task too, and its index.
        self._at_once = [(part.read_at_once, index) for index, part in enumerate(parts) if part.read_at_once]
        #: Index of each part that a module may change for good while it is imported.
        self._kept = [index for index, part in enumerate(parts) if part.kept_after_import]
        #: What imports on other threads have set: the index of a part, and its entries. Only the thread that runs the
        #: tasks changes `_expected`, because it may be reading it.
        self._set_beside: list[tuple[int, dict[Any, Any]]] = []

    def has_changed(self) -> bool:
        """Return True if a part may have changed."""
        self._expect_what_was_set_beside()
        try:
            return [read() for read in self._reads] != self._expected
        except Exception:
            return True  # a read has failed, or a value that the task has set does not allow a comparison

    def has_changed_at_once(self) -> bool:
        """Return True if one of the parts may have changed that are checked after a short task too."""
        try:
            for read, index in self._at_once:
                if read() != self._expected[index]:
                    return True
        except Exception:
            return True  # a read has failed
        return False

    def restore(self) -> tuple[int, list[str]]:
        """Put back what has changed. Return how many parts have changed, and the names of those that could not."""
        self._expect_what_was_set_beside()
        changes, lost = 0, []
        for part, value in zip(self._parts, self._expected):
            if _is_equal(part, value):
                continue
            changes += 1
            try:
                part.write(value)
            except Exception:
                pass  # the system has refused, or the task has changed what this code needs
            else:
                if _is_equal(part, value):
                    continue
            lost.append(part.name)
        return changes, lost

    def snapshot(self) -> list[Any]:
        """Return the present values of the parts that an import may change for good. This changes nothing."""
        return [_copy(self._reads[index]()) for index in self._kept]

    def is_as_expected(self, values: Sequence[Any]) -> bool:
        """Return True if a snapshot has the values that each task must find. This changes nothing."""
        expected = self._with_what_was_set_beside()
        try:
            return list(values) == [expected[index] for index in self._kept]
        except Exception:
            return False  # a value that the task has set does not allow a comparison

    def keep_changes_since(self, before: Sequence[Any]) -> None:
        """Expect from now on what an import has changed since the snapshot ``before``."""
        self._expect_what_was_set_beside()  # the import may have changed it again
        for index, old, new in zip(self._kept, before, self.snapshot()):
            self._expected[index] = merged(self._expected[index], old, new)

    def keep_changes_beside(self, before: Sequence[Any]) -> list[str]:
        """Keep what an import on this thread has changed since the snapshot ``before``, while the task went on.

        Return the names of the parts of which the worker cannot tell if the import has changed them. Warning filters do
        not count, because many packages add warning filters when they are imported, and work without them.
        """
        unknown, thread = [], threading.get_ident()
        for index, old, new in zip(self._kept, before, self.snapshot()):
            part = self._parts[index]
            if part.name == lent_parts.WARNING_FILTERS or _equals(old, new):
                continue
            if part.set_by is None or old is None or new is None or not old.keys() <= new.keys():
                unknown.append(part.name)
                continue
            own = [key for key, value in new.items() if old.get(key) != value and part.set_by.get(key) == thread]
            self._set_beside.append((index, {key: new[key] for key in own}))
        return unknown

    def _expect_what_was_set_beside(self) -> None:
        if self._set_beside:
            count = len(self._set_beside)
            self._expected = self._with_what_was_set_beside(count)
            del self._set_beside[:count]

    def _with_what_was_set_beside(self, count: int | None = None) -> list[Any]:
        """Return the expected values with the first entries that imports on other threads have set, or with all."""
        expected = self._expected.copy()
        for index, entries in self._set_beside[:count]:
            expected[index] = {**expected[index], **entries}
        return expected


class LentState:
    """Knows the state that each task must find, and puts it back.

    Args:
        link: Descriptor of the socket to the agent.
    """

    def __init__(self, link: int) -> None:
        self.descriptors = Descriptors(link)
        self.threads = LeftThreads()
        self._each_task = Checklist(lent_parts.after_each_task(self.descriptors))
        self._each_batch = Checklist(lent_parts.after_each_batch(self.descriptors))
        self._event_loop = EventLoop()
        #: The thread that runs the tasks.
        self._thread = threading.get_ident()
        #: The threads on which `keep_changes` is active.
        self._importing: set[int] = set()
        #: Values of the context variables that an import has set in the context of the running task.
        self._variables: dict[contextvars.ContextVar[Any], Any] = {}
        #: How often the worker has put back a part.
        self.changes = 0
        #: Names of the parts that could not be put back. If there are any, the worker must end.
        self.lost: list[str] = []

    def restore(self) -> bool:
        """Put back what has changed. Return True if everything is as it was, and False if the worker must end."""
        self._event_loop.restore()
        if self._each_task.has_changed():
            self._restore(self._each_task)
        return not self.lost

    @property
    def is_unchanged(self) -> bool:
        """True if a task that runs now has found everything as it was. Reading this changes nothing.

        The folder and timers are left out, because they are checked after each task or have no effect on results.
        """
        return self.descriptors.are_the_same and self._each_task.is_as_expected(self._each_task.snapshot())

    def restore_quickly(self) -> bool:
        """Check only the parts through which the next task could do lasting harm. Return the same as `restore`."""
        self._event_loop.restore()
        if self._each_task.has_changed_at_once():
            self._restore(self._each_task)
        return not self.lost

    def restore_idle(self) -> bool:
        """Also put back what is checked only before the worker waits for tasks. Return the same as `restore`.

        These parts matter only in the long run, or change only how fast a task runs.
        """
        if self._each_batch.has_changed():
            self._restore(self._each_batch)
        return not self.lost

    def _restore(self, checklist: Checklist) -> None:
        changes, lost = checklist.restore()
        self.changes += changes
        self.lost += lost

    @property
    def importing(self) -> bool:
        """True while `keep_changes` is active on this thread."""
        return threading.get_ident() in self._importing

    @contextmanager
    def keep_changes(self) -> Iterator[None]:
        """Keep what the code of this context changes: later tasks must find it. This code is an import.

        If another thread than that of the task imports, the worker keeps the environment variables that this thread
        has set. It cannot tell other changes of the import from what the task changes meanwhile. So if anything else
        but the warning filters changes, the worker must end. The next worker imports the module again.
        """
        thread = threading.get_ident()
        self._importing.add(thread)
        before = self._each_task.snapshot(), self._each_batch.snapshot()
        event_loop, variables, threads = (
            self._event_loop.snapshot(),
            contextvars.copy_context(),
            self.threads.snapshot(),
        )
        try:
            yield
        finally:
            self._importing.discard(thread)
            if thread == self._thread:
                self._keep_changes_since(before, variables)
                self.threads.keep_since(threads)
                self._event_loop.keep_changes_since(event_loop)
            else:
                self.lost += self._each_task.keep_changes_beside(before[0])
                self.lost += self._each_batch.keep_changes_beside(before[1])

    def _keep_changes_since(self, before: tuple[Sequence[Any], Sequence[Any]], variables: contextvars.Context) -> None:
        self._each_task.keep_changes_since(before[0])
        self._each_batch.keep_changes_since(before[1])
        for variable, value in contextvars.copy_context().items():
            if variables.get(variable, self) is not value:
                self._variables[variable] = value

    def set_imported_variables(self) -> None:
        """Set the context variables that imports have set. Each task runs in a copy of the context of the caller."""
        while self._variables:
            variable, value = self._variables.popitem()
            variable.set(value)


def _is_equal(part: Part, value: Any) -> bool:
    try:
        return bool(part.read() == value)
    except Exception:
        return False  # for example, the folder was removed, or a value that the task has set raises when it is compared


def _equals(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:
        return False  # a value that the task has set does not allow a comparison


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, (dict, list)) else value


def merged(expected: Any, before: Any, after: Any) -> Any:
    """Return the state that later tasks must find, after an import.

    Args:
        expected: The state that they had to find until now.
        before: The state before the import. It differs from ``expected`` by what the running function has changed.
        after: The state after the import.
    """
    if before == after:
        return expected
    if before == expected:
        return after
    if isinstance(after, dict):
        changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        kept = {key: value for key, value in expected.items() if key not in changed}
        return {**kept, **{key: after[key] for key in changed if key in after}}
    if isinstance(after, list):
        first = list(takewhile(lambda entry: entry not in before, after))
        last = [entry for entry in after[len(first) :] if entry not in before]
        return [*first, *(entry for entry in expected if entry in after or entry not in before), *last]
    if isinstance(after, tuple) and len(after) == len(before):
        return tuple(merged(*entries) for entries in zip(expected, before, after))
    return after
