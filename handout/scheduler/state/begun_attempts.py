"""The numbers by which users know attempts: they count only attempts that began, or may have begun.

The core numbers every hand-over of a task, so that no report of an agent can be taken for a report of a later one. A
task may be recalled and handed over again many times before it begins. Users would take such numbers for failures.
"""

from __future__ import annotations

from bisect import bisect_left, insort

__all__ = ["BegunAttempts"]


class BegunAttempts:
    """Knows which attempts of a run's tasks never began."""

    __slots__ = ("_earlier", "_unbegun")

    def __init__(self) -> None:
        #: For each task that an earlier controller has handed over: how many of these attempts never began.
        self._earlier: dict[int, int] = {}
        #: For each task with such attempts: their numbers, in ascending order.
        self._unbegun: dict[int, list[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._unbegun or self._earlier)

    def note_unbegun(self, t: int, attempt: int) -> None:
        """Note that an attempt has ended without having begun."""
        insort(self._unbegun.setdefault(t, []), attempt)

    def take_over(self, t: int, attempt: int, shown: int) -> None:
        """Note the number that an earlier controller has shown for an attempt; see `shown`."""
        if 0 < shown < attempt:
            self._earlier[t] = attempt - shown

    def shown(self, t: int, attempt: int) -> int:
        """Return the number by which users know an attempt: 1 more than the number of attempts that began before it."""
        before = self._earlier.get(t, 0) + bisect_left(self._unbegun.get(t, ()), attempt)
        return attempt if not before else max(1, attempt - before)
