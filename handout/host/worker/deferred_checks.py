"""Checks together what several short tasks have changed in the worker's process.

To check everything takes longer than a short task. So the worker checks each task of a function until one of them has
changed nothing. From then on, it checks several short tasks together, before it reports them. If one of them has
changed something after all, the tasks behind it may have had wrong results. The first of the tasks ran in a process
that was as it must be, so its result counts. The worker returns the other tasks to the agent. Tasks that must not run
twice come one at a time, so each of them is checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable

from handout.host.worker.batch import WorkerTask
from handout.host.worker.lent_state import LentState
from handout.host.worker.objects import WorkerObjects
from handout.host.worker.report import WorkerReport

__all__ = ["DeferredChecks"]


class DeferredChecks:
    """The tasks of one worker that are not checked yet.

    Args:
        lent: What the worker lends to its tasks.
        objects: The objects that the worker writes.
        report: The worker's report, which has the results of the tasks that are not checked.
        take_back: Puts back what tasks have changed.
    """

    def __init__(
        self, lent: LentState, objects: WorkerObjects, report: WorkerReport, take_back: Callable[[], None]
    ) -> None:
        self._lent = lent
        self._objects = objects
        self._report = report
        self._take_back = take_back
        #: The functions whose latest checked task has changed nothing in the worker's process.
        self._harmless: set[int] = set()
        #: The tasks since the last check. They are tasks of harmless functions.
        self._unchecked: list[WorkerTask] = []

    def may_wait(self, task: WorkerTask) -> bool:
        """Return True if a short task may be checked together with the tasks that follow it."""
        return task.fn in self._harmless

    def forget(self, functions: Iterable[int]) -> None:
        """Forget functions that the agent will not name any more."""
        self._harmless.difference_update(functions)

    def note(self, task: WorkerTask, checked: bool, changed: bool) -> bool:
        """Note a task that has ended. Return False if it must run again, because its process may have been changed.

        Args:
            task: The task.
            checked: True if everything was checked after the task.
            changed: True if the check found a change.
        """
        if changed:
            self._harmless.discard(task.fn)
            if self._unchecked:
                # Which of these tasks has made the change is not known, so this task may have run in a changed process.
                self._objects.forget(task.outputs)
                self._report.add_skipped(task.number)
                self._withdraw()
                return False
        elif checked:
            self._harmless.add(task.fn)
        if checked:
            self._unchecked.clear()
        else:
            self._unchecked.append(task)
        return True

    def check(self) -> None:
        """Put back what the tasks since the last check have changed. If there is anything, most of them run again."""
        if not self._unchecked:
            return
        changes = self._lent.changes
        self._take_back()
        if self._lent.changes > changes:
            self._withdraw()
        self._unchecked.clear()

    def check_beside_running_task(self) -> None:
        """Check the tasks since the last check, while another task runs. Nothing is put back."""
        if self._lent.is_unchanged:
            self._unchecked.clear()
        else:
            # The running task or a task before it has changed something. The running task may also need its change.
            # So the first task counts, and those behind it run again. The running task is not the first one.
            first = self._unchecked[:1]
            self._withdraw()
            self._unchecked += first

    def _withdraw(self) -> None:
        """Let the tasks since the last check run again, but not the first of them."""
        self._harmless.difference_update(task.fn for task in self._unchecked)
        suspects = self._unchecked[1:]
        for task in suspects:
            self._objects.forget(task.outputs)
        self._report.withdraw(len(suspects))
        self._unchecked.clear()
