"""Timers of the core. The core has no clock: its caller passes the time, and the core says when to call it again."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import Enum, auto

__all__ = ["Timer", "Timers", "Wake"]


class Wake(Enum):
    """The reason for which the core wants to be called at a certain time."""

    #: A task's pause before its next attempt is over.
    BACKOFF = auto()
    #: Agents have had their time to confirm that the tasks of an aborted run have ended.
    ABORT = auto()
    #: The time has come at which a custom allocator wants to be asked again.
    ASK_AGAIN = auto()
    #: A custom allocator has had its time to answer.
    ANSWER_DUE = auto()
    #: Tasks that were handed over before their host had room may have waited there for too long, while another host is
    #: idle.
    RECALL = auto()
    #: The time for which the tasks of a function avoid a host is over. The timer's ``number`` is the host's index.
    PAUSE = auto()
    #: A ready task may have waited for so long that a host must be kept free for it.
    RESERVE = auto()
    #: A running task may be far slower than other tasks of its profile.
    SPECULATE = auto()
    #: A host whose capabilities dropped has had its time to offer them again.
    SHORTAGE = auto()
    #: Tasks that a custom allocator has placed on a lost host have waited for it long enough.
    GIVE_UP = auto()


@dataclass(frozen=True, slots=True)
class Timer:
    """One timer. ``run`` is -1 if the timer concerns no run. ``number`` is the number of a task or of a request, or the
    index of a host.
    """

    wake: Wake
    run: int = -1
    number: int = 0
    attempt: int = 0


class Timers:
    """A heap of timers. A timer fires even if the reason for it is gone by then. Its handler then does nothing."""

    __slots__ = ("_count", "_heap", "_soonest")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0
        #: The timers that `wake` has set. Value: when the next timer for this reason fires. Until then, `wake` sets no
        #: later timer for the same reason.
        self._soonest: dict[Wake, float] = {}

    def set(self, when: float, timer: Timer) -> None:
        """Have ``timer`` fire at ``when`` or soon after."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, timer))

    def wake(self, when: float, wake: Wake) -> None:
        """Have the core called at ``when``, unless `wake` has set a timer for the same reason that fires by then."""
        if self._soonest.get(wake, float("inf")) > when:
            self._soonest[wake] = when
            self.set(when, Timer(wake))

    @property
    def next_s(self) -> float | None:
        """The time at which the first timer fires, or None if no timer is set."""
        return self._heap[0][0] if self._heap else None

    def pending(self) -> list[Timer]:
        """Return the timers that have not fired, in any order. There may be no reason for some of them any more."""
        return [timer for _, _, timer in self._heap]

    def due(self, now: float) -> list[Timer]:
        """Remove and return the timers that must fire by ``now``, in the order of their times."""
        fired = []
        while self._heap and self._heap[0][0] <= now:
            when, _, timer = heapq.heappop(self._heap)
            if timer.run < 0 and self._soonest.get(timer.wake) == when:
                del self._soonest[timer.wake]
            fired.append(timer)
        return fired

    def forget(self, run: int) -> None:
        """Remove the timers of a closed run."""
        self._heap = [entry for entry in self._heap if entry[2].run != run]
        heapq.heapify(self._heap)
