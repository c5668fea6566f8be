"""The connection between the controller and one agent: in order and each message once, for as long as it lasts.

So is the real one, whose session numbers and acknowledges messages and outlives its TCP connections: a connection that
drops is, from above, a stretch of time in which nothing arrives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum

from handout.sim.clock import Clock

__all__ = ["Line", "Way"]

#: Bytes that a stream carries in a second.
_RATE = 0.5e6
#: Seconds after which a stream is tried again that has overtaken a message which was sent before it.
_OVERTAKEN_S = 0.001


class Way(IntEnum):
    """A direction."""

    TO_HOST = 0
    TO_CONTROLLER = 1


class Line:
    """One agent's connection.

    Args:
        clock: The time.
        latency_s: How long a message takes.
        arriving: Called as each message arrives, with its direction and what it does; answers False where it is to
            come again once the line is not stalled any more.
    """

    __slots__ = (
        "_arrived",
        "_arriving",
        "_clock",
        "_lost",
        "_queues",
        "_sent",
        "_streams",
        "latency_s",
        "open",
        "stalled_until",
    )

    def __init__(self, clock: Clock, latency_s: float, arriving: Callable[[Way, Callable[[], None]], bool]) -> None:
        self._clock = clock
        self._arriving = arriving
        self.latency_s = latency_s
        #: False once the controller or the agent has given the other up.
        self.open = True
        #: No message arrives before this time.
        self.stalled_until = 0.0
        self._queues: tuple[deque[tuple[float, Callable[[], None]]], ...] = (deque(), deque())
        self._streams = 0
        #: By direction: messages that were sent, and those of them that have arrived.
        self._sent, self._arrived = [0, 0], [0, 0]
        #: By direction: streams that began after fewer messages than these are lost.
        self._lost = [0, 0]

    @property
    def idle(self) -> bool:
        """True if no message and no stream is on its way."""
        return not (self._streams or self._queues[0] or self._queues[1])

    def send(self, way: Way, action: Callable[[], None]) -> None:
        """Have a message arrive, after all that were sent before it."""
        if not self.open:
            return
        queue = self._queues[way]
        self._sent[way] += 1
        queue.append((self._clock.now + self.latency_s, action))
        if len(queue) == 1:
            self._clock.at(queue[0][0], lambda: self._deliver(way))

    def stream(self, way: Way, nbytes: int, action: Callable[[], None]) -> None:
        """Have an object arrive: after the messages that were sent before it, beside those sent since."""
        if self.open:
            self._streams += 1
            mark = self._sent[way]
            self._clock.after(self.latency_s + nbytes / _RATE, lambda: self._delivered(way, mark, action))

    def stall(self, duration_s: float) -> None:
        """Let nothing through for a while."""
        self.stalled_until = max(self.stalled_until, self._clock.now + duration_s)

    def close(self) -> None:
        """What is on its way will never arrive."""
        self.open = False
        for queue in self._queues:
            queue.clear()

    def lose(self, way: Way) -> None:
        """What is on its way in this direction will never arrive; the first of it is arriving already."""
        queue = self._queues[way]
        while len(queue) > 1:
            queue.pop()
        self._lost[way] = self._sent[way] + 1

    def _deliver(self, way: Way) -> None:
        queue = self._queues[way]
        if not queue:
            return
        if self._clock.now < self.stalled_until:
            self._clock.at(self.stalled_until, lambda: self._deliver(way))
            return
        _, action = queue[0]
        taken = self._arriving(way, action)
        if not queue:
            return
        if taken:
            queue.popleft()
            self._arrived[way] += 1
        if queue:
            self._clock.at(max(queue[0][0], self.stalled_until), lambda: self._deliver(way))

    def _delivered(self, way: Way, mark: int, action: Callable[[], None]) -> None:
        if self.open and self._clock.now < self.stalled_until:
            self._clock.at(self.stalled_until, lambda: self._delivered(way, mark, action))
        elif self.open and mark > self._arrived[way] and mark >= self._lost[way]:
            self._clock.after(_OVERTAKEN_S, lambda: self._delivered(way, mark, action))
        else:
            self._streams -= 1
            if self.open and mark >= self._lost[way]:
                action()
