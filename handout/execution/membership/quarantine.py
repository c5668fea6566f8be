"""Computes the pauses between tries to start a host's agent, and the quarantines after repeated losses of the host.

This module reads no clock. Callers pass the current time in seconds.
"""

from __future__ import annotations

from collections import deque
from math import inf

from handout.transport.timings import Timings

__all__ = ["MAX_LOSSES", "LossHistory"]

#: A host that is lost this many times within ``Timings.unstable_s`` seconds is put into quarantine.
MAX_LOSSES = 3
#: Each pause is twice as long as the previous pause, up to this multiple of the first pause.
_LONGEST_PAUSE = 128
#: Each quarantine is twice as long as the previous quarantine, up to this multiple of the first quarantine.
_LONGEST_QUARANTINE = 64


class LossHistory:
    """One host's losses, and the pause before the next try.

    The pause doubles after each loss and each failed try. After `MAX_LOSSES` losses within ``timings.unstable_s``
    seconds, a quarantine takes the place of the pause. Each further loss leads to a quarantine that is twice as long as
    the previous one. If the host stays connected for longer than ``timings.unstable_s`` seconds, earlier losses and
    tries no longer count.

    Args:
        timings: Gives ``unstable_s``, ``restart_s`` (the first pause) and ``quarantine_s`` (the first quarantine).
    """

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._joined_at = inf
        self._tries = 0
        self._quarantines = 0
        self._losses: deque[float] = deque()

    @property
    def losses(self) -> int:
        """Number of losses in the ``unstable_s`` seconds that end with the last loss."""
        return len(self._losses)

    @property
    def quarantined(self) -> bool:
        """True if the last loss led to a quarantine."""
        return self._quarantines > 0

    @property
    def hopeless(self) -> bool:
        """True if the quarantine has its greatest length. Tasks should then not wait for the host."""
        return _doubled(self._quarantines, _LONGEST_QUARANTINE) == _LONGEST_QUARANTINE

    def joined(self, now: float) -> None:
        """Record that the host has joined."""
        self._joined_at = now

    def missed(self) -> float:
        """Record that a try failed. Return the seconds to wait before the next try."""
        return self._next_pause()

    def lost(self, now: float) -> float:
        """Record that a joined host was lost. Return the seconds to wait before the next try."""
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
    """Return 2 to the power of ``times - 1``, but at most ``most``."""
    return min(2.0 ** min(times - 1, 60), most)
