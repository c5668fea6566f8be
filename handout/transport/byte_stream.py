"""What a link writes to and hears from: one ordered byte stream, wherever it runs."""

from __future__ import annotations

from typing import Protocol

from handout.protocol.frames import Buffer

__all__ = ["Receiver", "Transport"]


class Transport(Protocol):
    """The writing side of a connection to an agent."""

    def write(self, data: Buffer) -> None:
        """Queue bytes; after ``Receiver.paused`` only control should follow."""
        ...

    def close(self) -> None:
        """Close; ``Receiver.lost`` follows once the other side has agreed, or the line is known to be lost."""
        ...


class Receiver(Protocol):
    """The reading side: what a transport calls, always on the event loop."""

    def received(self, data: bytes) -> None:
        """Bytes came."""
        ...

    def paused(self) -> None:
        """The transport's buffer is full."""
        ...

    def resumed(self) -> None:
        """The transport's buffer has room again."""
        ...

    def lost(self, error: Exception | None) -> None:
        """The connection ended; called once."""
        ...
