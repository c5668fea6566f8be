"""Virtual time: what is to happen, in order; nothing takes any real time."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from handout.errors import InternalError

__all__ = ["Clock"]

_Entry = tuple[float, int, Callable[[], None]]
#: So much may happen at one instant; beyond it, it goes round in circles.
_MOST_AT_ONCE = 2_000


class Clock:
    """Runs what was asked for at its time; what is due at the same time runs in the order in which it was asked for."""

    __slots__ = ("_at_once", "_count", "_heap", "now")

    def __init__(self) -> None:
        #: Seconds.
        self.now = 0.0
        self._heap: list[_Entry] = []
        self._count = self._at_once = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Run ``action`` at ``when``, or at once where that has passed."""
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, action))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run ``action`` after a while."""
        self.at(self.now + delay_s, action)

    def step(self) -> bool:
        """Go on to what is next; False where nothing is.

        Raises:
            InternalError: Time does not go on, however much happens.
        """
        if not self._heap:
            return False
        when, _, action = heapq.heappop(self._heap)
        self._at_once = self._at_once + 1 if when == self.now else 0
        if self._at_once > _MOST_AT_ONCE:
            raise InternalError(f"R2: it goes round in circles, {_MOST_AT_ONCE} steps at one instant")
        self.now = when
        action()
        return True
