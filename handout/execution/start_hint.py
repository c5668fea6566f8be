"""Tells the user once that a program starts its hosts anew for each run, and that a `Cluster` would keep them."""

from __future__ import annotations

import logging
import time

__all__ = ["STARTS", "Start", "Starts"]

logger = logging.getLogger("handout")

#: The hint is given at this start. A program that runs a graph two or three times has not much to gain.
_TELL_AT = 5


class Starts:
    """Counts the runs that start hosts of their own, one run after the other.

    Runs that overlap do not count, because a program that waits for several runs at once has not written a loop.
    """

    def __init__(self) -> None:
        self._open = 0
        self._count = 0
        self._seconds = 0.0
        #: True once the hint was given, so that it is given only once in a process.
        self.told = False

    def begin(self) -> Start:
        """Note that a run begins to start its hosts. The caller must call `Start.end` later."""
        self._open += 1
        return Start(self, counts=self._open == 1)

    def note(self, seconds: float) -> None:
        """Count a start that took so many seconds, and give the hint if it is time."""
        self._count += 1
        self._seconds += seconds
        if self._count >= _TELL_AT and not self.told:
            self.told = True
            logger.warning(
                "This program has started its hosts %d times, once for each run, which took %.1f s in all. A Cluster "
                "starts them once and keeps them between runs: `with handout.Cluster(inventory) as cluster:`, and in "
                "this block `cluster.run(graph)` for each graph. In a coroutine: `async with` and `await "
                "cluster.execute(graph)`. This hint is given only once.",
                self._count,
                self._seconds,
            )

    def close(self) -> None:
        """Note that a run has left its hosts."""
        self._open -= 1


class Start:
    """The start of the hosts of one run.

    Args:
        starts: The object that counts.
        counts: False if another run with hosts of its own went on when this one began.
    """

    def __init__(self, starts: Starts, *, counts: bool) -> None:
        self._starts = starts
        self._counts = counts
        self._began_at = time.monotonic()
        self._has_ended = False

    def succeed(self) -> None:
        """Note that the hosts can be used."""
        if self._counts:
            self._starts.note(time.monotonic() - self._began_at)

    def end(self) -> None:
        """Note that the run has left its hosts. A second call does nothing."""
        if not self._has_ended:
            self._has_ended = True
            self._starts.close()


#: The count of this process.
STARTS = Starts()
