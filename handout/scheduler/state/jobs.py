"""Work of the core that grows with a run, and that is spread over several calls of the core.

Each call of the core takes a limited number of steps, because the controller's event loop can do nothing else
meanwhile. A step ends one task, notes or drops one replica, or passes over 256 tasks or objects.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Final

from handout.slices import Slices

__all__ = ["STEPS", "Jobs"]

#: A call of the core takes at most this many steps. With the commands that follow from them, they take about 10 ms.
STEPS: Final = 500


class Jobs:
    """The work that the present call of the core does, and that later calls will do.

    Work that fits into the present call is done at once. The work of a run is done in the order in which it began. Runs
    take turns, so that no run waits for the work of another one.

    Args:
        steps: The number of steps that a call of the core takes at most.
    """

    __slots__ = ("_active", "_left", "_queues", "_steps")

    def __init__(self, steps: int = STEPS) -> None:
        self._steps = steps
        #: The number of steps that the present call of the core may still take. It is negative if `finish` took more.
        self._left = steps
        #: For each run that has unfinished work: this work, in order.
        self._queues: dict[int, deque[Slices[None]]] = {}
        #: The run whose work is being done now, or None.
        self._active: int | None = None

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __contains__(self, run: int) -> bool:
        """Return True if a run has unfinished work."""
        return run in self._queues

    def begin(self, run: int, work: Slices[None]) -> None:
        """Do work of a run, after the earlier work of this run. If the call of the core has no steps left, do it later.

        Args:
            run: Number of the run.
            work: Yields after each step.
        """
        if run in self._queues or not self._advance(run, work, self._left):
            self._queues.setdefault(run, deque()).append(work)

    def go_on(self) -> None:
        """Begin a call of the core: go on with unfinished work."""
        self._left = self._steps
        while self._queues and self._left > 0:
            share = max(1, self._left // len(self._queues))
            for run in list(self._queues):
                self._go_on_with(run, min(share, self._left))

    def _go_on_with(self, run: int, steps: int) -> None:
        queue, stop = self._queues[run], self._left - steps
        while queue and self._advance(run, queue[0], self._left - stop):
            queue.popleft()
        if not queue:
            del self._queues[run]

    def finish(self, run: int) -> None:
        """Do all unfinished work of a run, because the core is about to do something that depends on this work.

        Work of the run that calls this method itself goes on afterwards, because its earlier work is done.
        """
        if self._active == run:
            return
        while queue := self._queues.get(run):
            self._advance(run, queue.popleft(), sys.maxsize)
            if not queue:
                del self._queues[run]

    def forget(self, run: int) -> None:
        """Forget the unfinished work of a run."""
        self._queues.pop(run, None)

    def _advance(self, run: int, work: Slices[None], steps: int) -> bool:
        """Take up to ``steps`` steps of a run's work. Return True if the work has ended."""
        outer, self._active = self._active, run
        try:
            for _ in range(steps):
                next(work)
                self._left -= 1
        except StopIteration:
            return True
        finally:
            self._active = outer
        return False
