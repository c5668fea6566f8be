"""The worker's end of its socket to the agent, for messages from several threads and from signal handlers."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Sequence

from handout.protocol import codec, frames
from handout.protocol.messages import AnyMessage

__all__ = ["AgentSocket"]


class AgentSocket:
    """Sends whole messages, one after another.

    A handler of a signal may send a message while it interrupts the thread that is sending one. The handler's message
    then waits until the interrupted message has been sent.

    Args:
        link: The socket.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        # Reentrant, because the handler of a signal runs in the thread that it interrupts.
        self._lock = threading.RLock()
        self._sending = False
        self._waiting: deque[bytes] = deque()

    def send(self, message: AnyMessage, payload: Sequence[frames.Buffer] = ()) -> None:
        """Send a message.

        When the method returns, the message is in the agent's socket: the agent gets it even if this process ends now.
        This does not hold for the handler of a signal, see above.

        Raises:
            OSError: The agent has ended, or the task has closed the socket.
        """
        data = b"".join(frames.encode_message(0, codec.encode(message), payload))
        with self._lock:
            self._waiting.append(data)
            while self._waiting and not self._sending:
                self._sending = True
                try:
                    while self._waiting:
                        self._link.sendall(self._waiting.popleft())
                finally:
                    self._sending = False
