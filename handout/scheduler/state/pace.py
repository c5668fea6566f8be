"""How fast a run's tasks are, against others of the same profile: who is far behind its peers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import ceil, inf

from handout.scheduler.spec import Speculation

__all__ = ["Pace"]

#: The latest durations that count.
_KEPT = 256


class Pace:
    """Durations of one run's tasks, and since when those that run have run.

    Args:
        profile: By task: the number of its profile.
        rule: When a task is slow.
    """

    def __init__(self, profile: Sequence[int], rule: Speculation) -> None:
        self._profile = profile
        self._rule = rule
        #: Tasks that run and may get a second attempt, and since when.
        self.running: dict[int, float] = {}
        self._seconds: dict[int, deque[float]] = {}
        self._limits: dict[int, float] = {}
        #: When somebody may be slow, at the soonest.
        self.look_at = inf

    def began(self, t: int, now: float) -> None:
        """A task is known to run."""
        self.running[t] = now
        self.look_at = min(self.look_at, now + self.limit_s(self._profile[t]))

    def ended(self, t: int, took_s: float, now: float) -> None:
        """A task has finished."""
        profile = self._profile[t]
        seconds = self._seconds.get(profile)
        if seconds is None:
            seconds = self._seconds[profile] = deque(maxlen=_KEPT)
        seconds.append(took_s)
        self._limits.pop(profile, None)
        if len(seconds) == self._rule.peers:
            self.look_at = now  # now there is something to compare with

    def limit_s(self, profile: int) -> float:
        """For how long a task may run before it is slow; infinite while too few have ended."""
        limit_s = self._limits.get(profile)
        if limit_s is None:
            seconds = sorted(self._seconds.get(profile, ()))
            limit_s = inf
            if len(seconds) >= self._rule.peers:
                limit_s = max(self._rule.least_s, self._rule.factor * seconds[ceil(0.95 * len(seconds)) - 1])
            self._limits[profile] = limit_s
        return limit_s

    def slow(self, now: float) -> list[int]:
        """Tasks that are slow, the slowest first; sets when to look again for those that are not."""
        slow, self.look_at = [], inf
        for t, since in self.running.items():
            due = since + self.limit_s(self._profile[t])
            if due <= now:
                slow.append(t)
            else:
                self.look_at = min(self.look_at, due)
        return sorted(slow, key=lambda t: (self.running[t], t))
