"""How long a function is expected to take: a moving average of what it took."""

from __future__ import annotations

from handout.scheduler.spec import RunSpec

__all__ = ["UNKNOWN_S", "Estimates"]

#: Stands for a duration that is not known.
UNKNOWN_S = -1.0
#: No work is shorter: keeps a backlog finite.
_SHORTEST_S = 5e-6
#: Weight of a new duration. Downwards is learned faster, because the first call pays for imports.
_UP, _DOWN = 0.2, 0.5


class Estimates:
    """Expected durations of one run's functions, begun with what earlier runs learned under the same names."""

    __slots__ = ("_names", "seconds")

    def __init__(self, spec: RunSpec, remembered: dict[str, float]) -> None:
        profiles = spec.profiles
        self._names: dict[int, str] = {}
        if len(profiles) and spec.count:
            for fn, profile in set(zip(spec.fn, spec.profile, strict=True)):
                self._names[fn] = profiles[profile].fn_name
        #: By function number; `UNKNOWN_S` until one has finished.
        self.seconds = [UNKNOWN_S] * (max(self._names, default=-1) + 1)
        for fn, name in self._names.items():
            if name:
                self.seconds[fn] = remembered.get(name, UNKNOWN_S)

    def learn(self, fn: int, took_s: float) -> None:
        """Take one more duration into account."""
        expected = self.seconds[fn]
        if expected < 0.0:
            expected = took_s
        else:
            expected += (took_s - expected) * (_DOWN if took_s < expected else _UP)
        self.seconds[fn] = expected if expected > _SHORTEST_S else _SHORTEST_S

    def remember(self, remembered: dict[str, float]) -> None:
        """Leave what was learned to later runs."""
        for fn, name in self._names.items():
            if name and self.seconds[fn] >= 0.0:
                remembered[name] = self.seconds[fn]
