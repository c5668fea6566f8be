"""How long the tasks of a run take: the expected duration of a function, and the limit above which a task is slow."""

from __future__ import annotations

from collections import deque
from math import ceil, inf

from handout.scheduler.run_spec import RunSpec

__all__ = ["UNKNOWN_S", "Durations"]

#: Stands for a duration that is not known.
UNKNOWN_S = -1.0
#: Least expected duration. With an expected duration of 0, a backlog of some seconds could hold any number of tasks.
_SHORTEST_S = 5e-6
#: Weights of a new duration that is above the average and of one that is below it. The average falls faster than it
#: rises, because the first call pays for imports.
_UP, _DOWN = 0.2, 0.5
#: How many of the latest durations of a profile are kept.
_KEPT = 256


class Durations:
    """Durations of one run's tasks.

    A function has a moving average, which begins with what earlier runs learned under the same name. If the run may
    attempt slow tasks a second time, the latest durations of each profile are kept one by one, because an average does
    not tell how far a slow task is from the others.

    Args:
        spec: The run.
        remembered: Expected seconds by function name, from earlier runs.
    """

    __slots__ = ("_fn", "_latest", "_limits", "_names", "_profile", "_speculation", "expected_s")

    def __init__(self, spec: RunSpec, remembered: dict[str, float]) -> None:
        self._fn, self._profile, self._speculation = spec.fn, spec.profile, spec.speculation
        self._names: dict[int, str] = {}
        if spec.count:
            for fn, profile in set(zip(spec.fn, spec.profile, strict=True)):
                self._names[fn] = spec.profiles[profile].fn_name
        #: By function number; `UNKNOWN_S` until one call has finished.
        self.expected_s = [UNKNOWN_S] * (max(self._names, default=-1) + 1)
        for fn, name in self._names.items():
            if name:
                self.expected_s[fn] = remembered.get(name, UNKNOWN_S)
        self._latest: dict[int, deque[float]] = {}
        self._limits: dict[int, float] = {}

    def learn(self, t: int, took_s: float) -> None:
        """Take the duration of a finished task into account."""
        fn = self._fn[t]
        expected_s = self.expected_s[fn]
        if expected_s < 0.0:
            expected_s = took_s
        else:
            expected_s += (took_s - expected_s) * (_DOWN if took_s < expected_s else _UP)
        self.expected_s[fn] = expected_s if expected_s > _SHORTEST_S else _SHORTEST_S
        if self._speculation is not None:
            profile = self._profile[t]
            self._latest.setdefault(profile, deque(maxlen=_KEPT)).append(took_s)
            self._limits.pop(profile, None)

    def remember(self, remembered: dict[str, float]) -> None:
        """Leave what was learned about functions to later runs."""
        for fn, name in self._names.items():
            if name and self.expected_s[fn] >= 0.0:
                remembered[name] = self.expected_s[fn]

    def known(self, profile: int) -> int:
        """Return how many durations of a profile are kept at present."""
        return len(self._latest.get(profile, ()))

    def limit_s(self, profile: int) -> float:
        """Return the seconds after which a running task of a profile is slow; infinite while too few have finished."""
        limit_s = self._limits.get(profile)
        if limit_s is None:
            limit_s = inf
            rule, seconds = self._speculation, sorted(self._latest.get(profile, ()))
            if rule is not None and len(seconds) >= rule.peers:
                limit_s = max(rule.least_s, rule.factor * seconds[ceil(0.95 * len(seconds)) - 1])
            self._limits[profile] = limit_s
        return limit_s
