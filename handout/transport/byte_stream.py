"""The two sides of a byte stream to an agent. A launcher makes the `Transport`, and a connection is the `Receiver`."""

from __future__ import annotations

from typing import Protocol

from handout.protocol.frames import Buffer

__all__ = ["Receiver", "Transport"]


class Transport(Protocol):
    """The writing side of a byte stream to an agent."""

    def write(self, data: Buffer) -> None:
        """Queue bytes. Between ``Receiver.paused`` and ``Receiver.resumed``, the caller should not write bulk data."""
        ...

    def close(self) -> None:
        """Close the stream. ``Receiver.lost`` is called when the agent has closed its side, or cannot be reached."""
        ...


class Receiver(Protocol):
    """The reading side of a byte stream to an agent. The transport calls these methods on the event loop."""

    def received(self, data: bytes) -> None:
        """Take bytes that came from the agent."""
        ...

    def paused(self) -> None:
        """Note that the transport's buffer is full. The receiver should stop writing."""
        ...

    def resumed(self) -> None:
        """Note that the transport's buffer has room again. The receiver may go on writing."""
        ...

    def lost(self, error: Exception | None) -> None:
        """Note that the stream has ended. The transport calls this method only once.

        Args:
            error: Why the stream ended, or None if the agent closed the stream in an orderly way.
        """
        ...
