"""How long the tasks of a run take: the expected duration of a function, and the limit above which a task is slow.

Tasks of one profile are alike: they have, for example, the same function and the same cost; see `Profile`.
"""

from __future__ import annotations

from collections import deque
from math import ceil, inf

from handout.scheduler.run_spec import RunSpec
from handout.slices import Slices, is_slice_end

__all__ = ["UNKNOWN_S", "Durations"]

#: This value stands for a duration that is not known.
UNKNOWN_S = -1.0
#: The shortest expected duration. The core limits how many seconds of work may wait on a host. Without a shortest
#: duration, tasks of 0 s would not count for this limit.
_SHORTEST_S = 5e-6
#: The weight of a new duration in the average: `_UP` if the new duration is above the average, `_DOWN` if it is below.
#: The average falls faster than it rises, because a first call also imports modules and takes longer than later calls.
_UP, _DOWN = 0.2, 0.5
#: For each profile, only this many of the latest durations are kept.
_KEPT = 256


class Durations:
    """Durations of one run's tasks.

    Each function has a moving average. It begins with the average that earlier runs have learned for a function of the
    same name. If the run may attempt slow tasks a second time, the latest durations of each profile are also kept,
    because an average alone does not tell how far a slow task is from the others.

    Args:
        spec: The specification of the run.
        names: The name of each function, by function number.
    """

    __slots__ = ("_fn", "_latest", "_limits", "_names", "_profile", "_speculation", "expected_s")

    def __init__(self, spec: RunSpec, names: dict[int, str]) -> None:
        self._fn, self._profile, self._speculation = spec.fn, spec.profile, spec.speculation
        self._names = names
        #: The expected duration of each function in seconds, by function number. It is `UNKNOWN_S` as long as neither
        #: this run nor an earlier one is known to have finished a call of the function.
        self.expected_s = [UNKNOWN_S] * (max(self._names, default=-1) + 1)
        #: The latest durations of each profile in seconds, by profile number.
        self._latest: dict[int, deque[float]] = {}
        #: The results of `limit_s` for the present durations, by profile number.
        self._limits: dict[int, float] = {}

    @classmethod
    def of(cls, spec: RunSpec) -> Slices[Durations]:
        """Make the durations of a run that has not begun."""
        names: dict[int, str] = {}
        for t, fn in enumerate(spec.fn):
            if is_slice_end(t):
                yield
            if fn not in names:
                names[fn] = spec.profiles[spec.profile[t]].fn_name
        return cls(spec, names)

    def add(self, fn: int, name: str, remembered: dict[str, float]) -> None:
        """Add a function of an open run. Do nothing if the run has it already.

        Args:
            fn: The number of the function. If it is new, it follows the largest known one.
            name: The name of the function.
            remembered: Expected seconds by function name, from earlier runs.
        """
        if fn == len(self.expected_s):
            self._names[fn] = name
            self.expected_s.append(remembered.get(name, UNKNOWN_S))

    def recall(self, remembered: dict[str, float]) -> None:
        """Take over the expected durations from earlier runs: seconds by function name."""
        for fn, name in self._names.items():
            if name:
                self.expected_s[fn] = remembered.get(name, UNKNOWN_S)

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
        """Write the expected durations of functions into ``remembered``, for later runs."""
        for fn, name in self._names.items():
            if name and self.expected_s[fn] >= 0.0:
                remembered[name] = self.expected_s[fn]

    def known(self, profile: int) -> int:
        """Return how many durations of a profile are kept at present."""
        return len(self._latest.get(profile, ()))

    def limit_s(self, profile: int) -> float:
        """Return the seconds after which a running task of a profile counts as slow.

        The result is infinite while too few tasks of the profile have finished.
        """
        limit_s = self._limits.get(profile)
        if limit_s is None:
            limit_s = inf
            rule, seconds = self._speculation, sorted(self._latest.get(profile, ()))
            if rule is not None and len(seconds) >= rule.peers:
                limit_s = max(rule.least_s, rule.factor * seconds[ceil(0.95 * len(seconds)) - 1])
            self._limits[profile] = limit_s
        return limit_s
