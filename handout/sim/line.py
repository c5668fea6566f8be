"""The connection between the controller and one agent. While it lasts, each message arrives once and in order.

The real session does the same: it numbers and acknowledges messages, and outlives its connections. If a connection
drops, the layers above the session only see that nothing arrives for a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum

from handout.sim.clock import Clock

__all__ = ["Line", "Way"]

#: The bytes that a stream carries in a second.
_RATE = 0.5e6
#: A stream must not arrive before messages that were sent earlier. If such a message is still on its way, the line
#: waits this many seconds and checks again.
_OVERTAKEN_S = 0.001


class Way(IntEnum):
    """The direction of a message or a stream."""

    TO_HOST = 0
    TO_CONTROLLER = 1


class Line:
    """The connection of one agent.

    Args:
        clock: The virtual clock.
        latency_s: Seconds that a message takes to arrive.
        arriving: Called when a message arrives, with its direction and the function that delivers it. Returns False
            if the message must arrive again, at the end of the present stall; see `stall`.
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
        #: False once the connection is closed for good.
        self.open = True
        #: No message and no stream arrives before this time.
        self.stalled_until = 0.0
        self._queues: tuple[deque[tuple[float, Callable[[], None]]], ...] = (deque(), deque())
        self._streams = 0
        #: For each direction: how many messages were sent, and how many of the sent messages have arrived.
        self._sent, self._arrived = [0, 0], [0, 0]
        #: For each direction: a stream is lost if fewer messages than this number were sent before it.
        self._lost = [0, 0]

    @property
    def idle(self) -> bool:
        """True if no message and no stream is on its way."""
        return not (self._streams or self._queues[0] or self._queues[1])

    def send(self, way: Way, action: Callable[[], None]) -> None:
        """Send a message, which arrives after all messages that were sent before it."""
        if not self.open:
            return
        queue = self._queues[way]
        self._sent[way] += 1
        queue.append((self._clock.now + self.latency_s, action))
        if len(queue) == 1:
            self._clock.at(queue[0][0], lambda: self._deliver(way))

    def stream(self, way: Way, nbytes: int, action: Callable[[], None]) -> None:
        """Send an object as a stream. It arrives after all earlier messages, and does not delay later messages."""
        if self.open:
            self._streams += 1
            mark = self._sent[way]
            self._clock.after(self.latency_s + nbytes / _RATE, lambda: self._delivered(way, mark, action))

    def stall(self, duration_s: float) -> None:
        """Begin a stall: let no message and no stream arrive for ``duration_s`` seconds."""
        self.stalled_until = max(self.stalled_until, self._clock.now + duration_s)

    def close(self) -> None:
        """Close the connection for good. Messages and streams that are on their way never arrive."""
        self.open = False
        for queue in self._queues:
            queue.clear()

    def lose(self, way: Way) -> None:
        """Lose the messages and streams that are on their way in one direction.

        The first of these messages is not lost, because it is already arriving.
        """
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
