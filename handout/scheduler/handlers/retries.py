"""Retries: whether a failed task gets another attempt, and how long it pauses before that attempt."""

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
#: A task fails for good once it has failed this many times through no fault of its own code.
MAX_ENVIRONMENT_FAILURES = 3
#: Kinds of failure that are no fault of the task's own code.
ENVIRONMENT_KINDS = ("input", "disk", "host", "cancelled")
#: Kinds of failure that leave open whether the task took effect.
UNKNOWN_KINDS = ("died", "disk", "host", "cancelled")
#: Kinds of failure where Handout itself ended the task's code in the middle.
_KILLED_KINDS = ("timeout", "memory")
#: What became of an attempt whose end was not observed.
CAUSES = {
    "died": "its worker died",
    "disk": "there was no room for its result",
    "host": "its host gave it up",
    "cancelled": "it was ended there",
}
#: Longest pause before a retry.
MAX_BACKOFF_S = 60.0


def pause_before_retry(run: Run, t: int, event: TaskFailed) -> float | None:
    """Count a failure; return the seconds before the next attempt, or None if there is to be none."""
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
    """Return True if a task that failed with this kind may use its retries.

    A task that is not idempotent may not use them if Handout ended its code in the middle.
    """
    return profile.idempotent or kind not in _KILLED_KINDS


def backoff_over(world: World, timer: Timer) -> None:
    """Let a task run again, because its pause before the next attempt is over."""
    run = world.runs.get(timer.run)
    t = timer.number
    if run is not None and run.state[t] == State.BACKOFF and run.attempt[t] == timer.attempt:
        return_to_frontier(world, run, t)


def outcome_unknown(run: Run, t: int, host: str, how: str) -> OutcomeUnknownError:
    """Return the error of a task that may have run and must not run twice."""
    name = run.name_of(t)
    first = "Free some space there, or give it a disk cost. " if how == CAUSES["disk"] else ""
    return OutcomeUnknownError(
        f"task {name!r} was lost on host {host!r} ({how}) in attempt {run.attempt[t]}; it may have run, and it is "
        "marked idempotent=False, so it is not run again.",
        remedy=f"{first}Find out whether it took effect; mark it idempotent=True, if only for once, to run it again.",
        id=name,
        host=host,
        attempt=run.attempt[t],
    )
