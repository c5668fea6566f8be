"""Running tasks that may get a second attempt, and which of them are far slower than the others of their profile."""

from __future__ import annotations

from math import inf

from handout.scheduler.run_spec import RunSpec, Speculation
from handout.scheduler.state.durations import Durations

__all__ = ["Stragglers"]


class Stragglers:
    """The running tasks of one run that may get a second attempt, with the time at which each began.

    Args:
        spec: The run.
        rule: When a task is slow.
        durations: What is known of the run's durations.
    """

    __slots__ = ("_durations", "_peers", "_profile", "look_at", "running")

    def __init__(self, spec: RunSpec, rule: Speculation, durations: Durations) -> None:
        self._profile, self._peers, self._durations = spec.profile, rule.peers, durations
        #: Tasks that run and may get a second attempt, and since when.
        self.running: dict[int, float] = {}
        #: The soonest time at which a task may turn out to be slow.
        self.look_at = inf

    def started(self, t: int, now: float) -> None:
        """Note that a task runs."""
        self.running[t] = now
        self.look_at = min(self.look_at, now + self._durations.limit_s(self._profile[t]))

    def stopped(self, t: int) -> None:
        """Note that a task runs no more, or may not get a second attempt any more."""
        self.running.pop(t, None)

    def learned(self, t: int, now: float) -> None:
        """Note that the duration of a task is known. Once enough are known, the core looks for slow tasks."""
        if self._durations.known(self._profile[t]) == self._peers:
            self.look_at = now

    def look_again(self, now: float) -> None:
        """Have the core look for slow tasks again as soon as a host has room."""
        self.look_at = now

    def slow(self, now: float) -> list[int]:
        """Return the slow tasks, the one that has run longest first, and set when to look for others."""
        slow, self.look_at = [], inf
        for t, since in self.running.items():
            due = since + self._durations.limit_s(self._profile[t])
            if due <= now:
                slow.append(t)
            else:
                self.look_at = min(self.look_at, due)
        return sorted(slow, key=lambda t: (self.running[t], t))
