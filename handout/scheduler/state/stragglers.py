"""Finds the running tasks that are far slower than other tasks of their profile, and so may get a second attempt.

Tasks of one profile are alike: they have, for example, the same function and the same cost; see `Profile`. The second
attempt of a task runs at the same time as the first.
"""

from __future__ import annotations

from math import inf

from handout.scheduler.run_spec import RunSpec, Speculation
from handout.scheduler.state.durations import Durations

__all__ = ["Stragglers"]


class Stragglers:
    """The running tasks of one run that may get a second attempt, with the time at which each task began to run.

    Args:
        spec: The description of the run.
        rule: Says when a task is slow.
        durations: The durations of the run's tasks, as far as they are known.
    """

    __slots__ = ("_durations", "_peers", "_profile", "look_at", "running")

    def __init__(self, spec: RunSpec, rule: Speculation, durations: Durations) -> None:
        self._profile, self._peers, self._durations = spec.profile, rule.peers, durations
        #: The running tasks that may get a second attempt. Value: the time at which the task began to run.
        self.running: dict[int, float] = {}
        #: The time at which the core looks for slow tasks next; infinite if it need not look for now.
        self.look_at = inf

    def started(self, t: int, now: float) -> None:
        """Note that a task has begun to run."""
        self.running[t] = now
        self.look_at = min(self.look_at, now + self._durations.limit_s(self._profile[t]))

    def stopped(self, t: int) -> None:
        """Note that a task does not run any more, or may not get a second attempt any more."""
        self.running.pop(t, None)

    def learned(self, t: int, now: float) -> None:
        """Note that a task has finished. The core looks for slow tasks once enough tasks of a profile have finished."""
        if self._durations.known(self._profile[t]) == self._peers:
            self.look_at = now

    def look_again(self, now: float) -> None:
        """Have the core look for slow tasks again, as soon as a host has room for a second attempt."""
        self.look_at = now

    def slow(self, now: float) -> list[int]:
        """Return the slow tasks, the longest-running task first.

        Also set ``look_at`` to the time at which the next task becomes slow.
        """
        slow, self.look_at = [], inf
        for t, since in self.running.items():
            due = since + self._durations.limit_s(self._profile[t])
            if due <= now:
                slow.append(t)
            else:
                self.look_at = min(self.look_at, due)
        return sorted(slow, key=lambda t: (self.running[t], t))
