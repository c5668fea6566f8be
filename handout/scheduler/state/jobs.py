"""Work of the core that grows with a run, and that is spread over several calls of the core.

Each call of the core takes a limited number of steps, because the controller's event loop can do nothing else
meanwhile. One step ends one task, or drops one object.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from handout.slices import Slices, at_once

__all__ = ["STEPS", "Jobs"]

#: A call of the core takes at most this many steps. With the commands that follow from them, they take about 10 ms.
STEPS: Final = 500


class Jobs:
    """The work that the present call of the core does, and that later calls will do.

    Work that fits into the present call is done at once. The work of a run is done in the order in which it began.

    Args:
        steps: The number of steps that a call of the core takes at most.
    """

    __slots__ = ("_left", "_queues", "_steps")

    def __init__(self, steps: int = STEPS) -> None:
        self._steps = steps
        #: The number of steps that the present call of the core may still take.
        self._left = steps
        #: For each run that has unfinished work: this work, in order.
        self._queues: dict[int, deque[Slices[None]]] = {}

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
        if run in self._queues or not self._advance(work):
            self._queues.setdefault(run, deque()).append(work)

    def go_on(self) -> None:
        """Begin a call of the core: go on with unfinished work."""
        self._left = self._steps
        for run, queue in list(self._queues.items()):
            while queue and self._advance(queue[0]):
                queue.popleft()
            if not queue:
                del self._queues[run]

    def finish(self, run: int) -> None:
        """Do all unfinished work of a run, because the core is about to do something that depends on this work."""
        while queue := self._queues.get(run):
            at_once(queue.popleft())
            if not queue:
                del self._queues[run]

    def forget(self, run: int) -> None:
        """Forget the unfinished work of a run."""
        self._queues.pop(run, None)

    def _advance(self, work: Slices[None]) -> bool:
        """Do work while the present call may take steps. Return True if the work has ended."""
        while self._left:
            try:
                next(work)
            except StopIteration:
                return True
            self._left -= 1
        return False
