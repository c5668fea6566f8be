"""Makes the `Failure` of a task that the core has ended without a result."""

from __future__ import annotations

from handout.errors import DependencyError
from handout.execution.shell.run_state import RunState
from handout.failures import Failure, of_exception
from handout.scheduler.task_states import Outcome

__all__ = ["failure_of"]


def failure_of(run: RunState, task: int, outcome: Outcome, found: object, cause: int) -> Failure:
    """Return why a task has no result.

    Args:
        run: The run of the task.
        task: The number of the task.
        outcome: How the task ended.
        found: The failure or the exception that the core has got for the task, if there is one.
        cause: The number of the task because of which this one was skipped or cancelled; -1 if there is none.
    """
    ids = run.ids
    if isinstance(found, Failure):
        return found
    if outcome is Outcome.SKIPPED and cause >= 0:
        root = ids[cause]
        chain = [ids[t] for t in run.chain(task, cause)]
        why = run.failures[cause].reason if cause in run.failures else "it failed"
        error = DependencyError(
            f"Task {ids[task]!r} was skipped, because it depends on task {root!r}, which failed: "
            f"{' <- '.join(chain)} ({why}).",
            remedy=f"Fix {root!r} first.",
            id=ids[task],
            caused_by=root,
            chain=tuple(chain),
        )
        failure = of_exception(ids[task], error, kind="skipped", host=None, attempts=0)
        failure.caused_by = root
        return failure
    if isinstance(found, Exception):
        attempt = getattr(found, "attempt", 0) or 1
        history = run.histories.get(task)
        facts = history.last if history is not None and history.last.attempts == attempt else None
        host = run.hosts[task] or None
        return of_exception(ids[task], found, kind="host", host=host, attempts=attempt, facts=facts)
    cancelled = Failure(ids[task], "cancelled", host=run.hosts[task] or None, attempts=0)
    if cause >= 0:
        cancelled.caused_by = ids[cause]
    elif run.failed_order and run.policy.on_failure == "fail_fast":
        cancelled.caused_by = ids[run.failed_order[0]]
    return cancelled
