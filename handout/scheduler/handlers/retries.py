"""Decide if a failed task gets another attempt, and how long it waits before that attempt."""

from __future__ import annotations

from handout.errors import OutcomeUnknownError
from handout.scheduler.events import TaskFailed
from handout.scheduler.handlers.attempts import return_to_frontier
from handout.scheduler.run_spec import Profile
from handout.scheduler.state.runs import FailureCount, Run
from handout.scheduler.state.timers import Timer
from handout.scheduler.state.world import World
from handout.scheduler.task_states import State

__all__ = [
    "CAUSES",
    "ENVIRONMENT_KINDS",
    "MAX_DEATHS",
    "MAX_ENVIRONMENT_FAILURES",
    "UNKNOWN_KINDS",
    "backoff_over",
    "may_repeat",
    "outcome_unknown",
    "pause_before_retry",
]

#: A task fails for good once its worker has died this many times while it ran the task.
MAX_DEATHS = 3
#: A task fails for good once it has had this many failures that its own code did not cause.
MAX_ENVIRONMENT_FAILURES = 3
#: Kinds of failure that the task's own code did not cause.
ENVIRONMENT_KINDS = ("input", "disk", "host", "cancelled")
#: Kinds of failure after which the core does not know if the task took effect.
UNKNOWN_KINDS = ("died", "disk", "host", "cancelled")
#: Kinds of failure in which Handout itself killed the running task.
_KILLED_KINDS = ("timeout", "memory")
#: For each of the `UNKNOWN_KINDS`: how the attempt was lost, as the message of `OutcomeUnknownError` says it.
CAUSES = {
    "died": "its worker died",
    "disk": "there was no room for its result",
    "host": "its host gave it up",
    "cancelled": "it was ended there",
}
#: Longest pause before a retry, in seconds.
MAX_BACKOFF_S = 60.0


def pause_before_retry(run: Run, t: int, event: TaskFailed) -> float | None:
    """Count a failure of a task. Return the seconds to wait before its next attempt, or None if there is none."""
    if event.kind == "died":
        return 0.0 if run.count(FailureCount.WORKER_DIED, t) < MAX_DEATHS else None
    if event.kind in ENVIRONMENT_KINDS:
        return 0.0 if run.count(FailureCount.ENVIRONMENT, t) < MAX_ENVIRONMENT_FAILURES else None
    profile = run.spec.profiles[run.spec.profile[t]]
    tries = run.count(FailureCount.OWN_CODE, t)
    if not (event.retryable and tries <= profile.retries and may_repeat(profile, event.kind)):
        return None
    return min(profile.backoff_s * 2.0 ** min(tries - 1, 60), MAX_BACKOFF_S)


def may_repeat(profile: Profile, kind: str) -> bool:
    """Return True if a task may be retried after a failure of this kind.

    A task that is not idempotent may not be retried if Handout killed it while it ran.
    """
    return profile.idempotent or kind not in _KILLED_KINDS


def backoff_over(world: World, timer: Timer) -> None:
    """Return a task to the frontier, because its pause before the next attempt is over."""
    run = world.runs.get(timer.run)
    t = timer.number
    if run is None:
        return
    run.requests.note_change()  # an allocator that placed nothing may have waited for this, see `_check_hope`
    if run.state[t] == State.BACKOFF and run.attempt[t] == timer.attempt:
        return_to_frontier(world, run, t)


def result_lost(run: Run, t: int, host: str) -> OutcomeUnknownError:
    """Return the error of a finished task whose result is lost, and that must not run twice.

    The host is the one that had the result. It is empty if the controller had it.
    """
    name = run.name_of(t)
    return OutcomeUnknownError(
        f"the result of task {name!r} was lost {f'on host {host!r}' if host else 'at the controller'}. The task has "
        "run, and it is marked idempotent=False, so it is not run again.",
        remedy="To run it again, mark it idempotent=True, at least for one run.",
        id=name,
        host=host or None,
        attempt=run.shown_attempt(t),
    )


def outcome_unknown(run: Run, t: int, host: str, how: str) -> OutcomeUnknownError:
    """Return the error of a task that may have run and must not run twice."""
    name = run.name_of(t)
    first = "Free some space on that host, or give the task a disk cost. " if how == CAUSES["disk"] else ""
    return OutcomeUnknownError(
        f"task {name!r} was lost on host {host!r} ({how}) in attempt {run.shown_attempt(t)}; it may have run, and "
        "it is marked idempotent=False, so it is not run again.",
        remedy=f"{first}Find out if the task took effect. To run it again, mark it idempotent=True, at least for one "
        "run.",
        id=name,
        host=host,
        attempt=run.shown_attempt(t),
    )
