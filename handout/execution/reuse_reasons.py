"""Says why the results of an earlier run have no result for a task."""

from __future__ import annotations

from handout.execution.earlier_run import EarlierRun
from handout.graph.objects import Pick
from handout.graph.plan import Plan
from handout.scheduler.task_states import Outcome
from handout.slices import Slices, is_slice_end
from handout.submission.run_identities import RunIdentities

__all__ = ["Reasons"]

_UNNOTED = "the results in given= come from handout.evaluate, which notes no identities"


class Reasons:
    """Finds the difference between a task and the task of an earlier run that has the same id.

    Args:
        plan: The graph of the run.
        mine: The identities of its tasks.
        earlier: The earlier run.
        theirs: The identities of that run's tasks, or None if they were not noted.
    """

    def __init__(self, plan: Plan, mine: RunIdentities, earlier: EarlierRun, theirs: RunIdentities | None) -> None:
        self._plan, self._mine, self._earlier, self._theirs = plan, mine, earlier, theirs
        self._by_id: dict[str, int] = {}
        self._by_identity: dict[bytes, int] = {}

    @classmethod
    def of(cls, plan: Plan, mine: RunIdentities, earlier: EarlierRun, theirs: RunIdentities | None) -> Slices[Reasons]:
        """Make the object, and index the tasks of the earlier run."""
        made = cls(plan, mine, earlier, theirs)
        for task, id in enumerate(earlier.plan.ids if theirs is not None else ()):
            if is_slice_end(task):
                yield
            made._by_id[id] = task
            made._by_identity[theirs.tasks[task]] = task  # type: ignore[union-attr]
        return made

    def why(self, task: int) -> str:
        """Return why the earlier run has no result for a task."""
        theirs, mine = self._theirs, self._mine
        if theirs is None:
            return _UNNOTED
        same = self._by_identity.get(mine.tasks[task])
        if same is not None:
            return self._why_missing(same)
        there = self._by_id.get(self._plan.ids[task])
        if there is None:
            return "the earlier run has no such function"
        if mine.function(task) != theirs.function(there):
            return "the function, or a module of yours that it uses, has changed"
        if mine.call(task) != theirs.call(there):
            return "an argument has changed"
        pairs = zip(mine.inputs(task), theirs.inputs(there), strict=False)
        for number, (here, before) in zip(mine.numbers(task), pairs, strict=False):
            if here != before:
                return self._why_input(number)
        return "the earlier run has fewer functions that are equal to this one"

    def _why_missing(self, same: int) -> str:
        outcome = self._earlier.outcomes[same]
        if outcome is Outcome.DONE:
            return "the earlier run did not bring its result back, see outputs="
        if outcome is None:
            return "the earlier run did not end it"
        was = "" if outcome is Outcome.FAILED else "was "
        return f"it {was}{outcome.value} in the earlier run"

    def _why_input(self, number: int) -> str:
        count = len(self._plan)
        extra = None if number < count else self._plan.extras[number - count] if number < self._plan_objects else None
        producer = number if number < count else extra.task if isinstance(extra, Pick) else -1
        if producer < 0:
            return "a value that it takes has changed"
        return f"the result of {self._plan.ids[producer]!r}, which it takes, is not the same"

    @property
    def _plan_objects(self) -> int:
        return len(self._plan) + len(self._plan.extras)
