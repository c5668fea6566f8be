"""How often a host was lost, and for how long it is left alone after that. Knows no clock: it is told the time."""

from __future__ import annotations

from collections import deque
from math import inf

from handout.transport.timings import Timings

__all__ = ["MAX_LOSSES", "Backoff"]

#: Losses within ``Timings.unstable_s`` that put a host into quarantine.
MAX_LOSSES = 3
#: Pauses double up to so many times the first one.
_LONGEST_PAUSE = 128
_LONGEST_QUARANTINE = 64


class Backoff:
    """One host's record.

    A host that was lost is started again after a pause that doubles. After `MAX_LOSSES` within
    ``timings.unstable_s`` it is in quarantine, and so it is after each further loss, for twice as long each time,
    until it has stayed for ``timings.unstable_s``.

    Args:
        timings: ``restart_s``, ``quarantine_s`` and ``unstable_s`` count.
    """

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._joined_at = inf
        self._tries = 0
        self._quarantines = 0
        self._losses: deque[float] = deque(maxlen=MAX_LOSSES)

    @property
    def losses(self) -> int:
        """Latest losses that count, at most `MAX_LOSSES`."""
        return len(self._losses)

    @property
    def quarantined(self) -> bool:
        """Whether the last loss led to quarantine."""
        return self._quarantines > 0

    @property
    def hopeless(self) -> bool:
        """Whether it was lost so often that nobody is to wait for it."""
        return _doubled(self._quarantines, _LONGEST_QUARANTINE) == _LONGEST_QUARANTINE

    def joined(self, now: float) -> None:
        """It is there."""
        self._joined_at = now

    def missed(self) -> float:
        """It could not be reached: seconds to wait before the next try."""
        return self._next_pause()

    def lost(self, now: float) -> float:
        """It was there and is gone: seconds to leave it alone."""
        window_s = self._timings.unstable_s
        if now - self._joined_at > window_s:
            self._tries = self._quarantines = 0
        self._losses.append(now)
        while self._losses[0] < now - window_s:
            self._losses.popleft()
        if not self._quarantines and len(self._losses) < MAX_LOSSES:
            return self._next_pause()
        self._quarantines += 1
        return self._timings.quarantine_s * _doubled(self._quarantines, _LONGEST_QUARANTINE)

    def _next_pause(self) -> float:
        self._tries += 1
        return self._timings.restart_s * _doubled(self._tries, _LONGEST_PAUSE)


def _doubled(times: int, most: int) -> float:
    """1 the first time, and twice as much each further time."""
    return min(2.0 ** min(times - 1, 60), most)
