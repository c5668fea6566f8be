"""The two sides of a byte stream to an agent: a launcher provides one, a connection uses the other."""

from __future__ import annotations

from typing import Protocol

from handout.protocol.frames import Buffer

__all__ = ["Receiver", "Transport"]


class Transport(Protocol):
    """The writing side of a byte stream to an agent."""

    def write(self, data: Buffer) -> None:
        """Queue bytes. After ``Receiver.paused`` the caller should write control messages only."""
        ...

    def close(self) -> None:
        """Close the stream. ``Receiver.lost`` follows once the agent has closed its side, or the line is lost."""
        ...


class Receiver(Protocol):
    """The reading side. The transport calls these methods on the event loop."""

    def received(self, data: bytes) -> None:
        """Take bytes that came from the agent."""
        ...

    def paused(self) -> None:
        """Stop writing: the transport's buffer is full."""
        ...

    def resumed(self) -> None:
        """Write again: the transport's buffer has room."""
        ...

    def lost(self, error: Exception | None) -> None:
        """Note that the stream ended; called once.

        Args:
            error: Why it ended; None if the agent closed it in order.
        """
        ...
