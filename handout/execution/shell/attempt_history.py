"""Collects how the attempts of a task failed, for the error with which the task ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from handout.failures import Failure
from handout.scheduler.handlers.retries import ENVIRONMENT_KINDS, MAX_DEATHS, MAX_ENVIRONMENT_FAILURES

__all__ = ["AttemptHistory"]


@dataclass(slots=True)
class AttemptHistory:
    """The failed attempts of one task so far."""

    #: The latest failure.
    last: Failure
    #: The host of each failure, in order.
    hosts: list[str] = field(default_factory=list)
    #: Number of failures because the worker died.
    deaths: int = 0
    #: Number of failures that neither the task's code nor the death of a worker caused.
    troubles: int = 0
    #: Number of failures that count against the task's ``retries``.
    tries: int = 0

    def note(self, failure: Failure, retries: int) -> None:
        """Add a failure. Write the largest possible number of attempts, the deaths and the hosts into this failure."""
        self.last = failure
        self.hosts.append(failure.host or "")
        if failure.kind == "died":
            self.deaths += 1
            left = MAX_DEATHS - self.deaths
        elif failure.kind in ENVIRONMENT_KINDS:
            self.troubles += 1
            left = MAX_ENVIRONMENT_FAILURES - self.troubles
        else:
            self.tries += 1
            left = retries + 1 - self.tries
        failure.most_attempts = failure.attempts + max(0, left)
        failure.report["deaths"] = self.deaths
        failure.hosts = tuple(dict.fromkeys(self.hosts))
