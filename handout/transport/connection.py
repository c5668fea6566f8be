"""One connection to an agent, from its first byte to its end.

A connection writes bytes and knows when the transport is full. It does not know what the bytes mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from handout.protocol.frames import Buffer
from handout.transport.byte_stream import Transport

__all__ = ["Connection", "ConnectionListener"]

#: Bytes of one write. A larger buffer would take longer to allocate than to fill.
_WRITE = 64 << 10


class ConnectionListener(Protocol):
    """Gets the events of a connection, even after a newer connection has replaced it."""

    def received(self, connection: Connection, data: bytes) -> None:
        """Take bytes that came."""
        ...

    def resumed(self) -> None:
        """Write again, because the connection has room."""
        ...

    def lost(self, connection: Connection) -> None:
        """Note that the connection has ended. The connection calls this once."""
        ...


class Connection:
    """The receiver of one transport, and the way to write to it.

    Args:
        listener: Gets the events of the connection.
    """

    def __init__(self, listener: ConnectionListener) -> None:
        self._listener = listener
        #: The link sets this later, because the launcher needs this receiver before it can make the transport.
        self.transport: Transport | None = None
        #: True while the transport's buffer is full.
        self.is_paused = False
        #: The fields of the agent's hello. If the connection ends before the hello comes, this future raises
        #: ConnectionResetError.
        self.hello: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()
        #: Why the connection ended. None if it is open, or if the agent closed it in an orderly way.
        self.error: Exception | None = None

    def write(self, segments: Sequence[Buffer]) -> None:
        """Queue bytes.

        Raises:
            OSError: The connection is closed.
        """
        assert self.transport is not None
        for data in _writes(segments):
            self.transport.write(data)

    def close(self) -> None:
        """End the connection at once, even if the agent does not notice."""
        # The transport may never report the end, because on a dead line it waits for an answer. So report it here.
        self.lost(ConnectionAbortedError("the controller closed the connection"))
        if self.transport is not None:
            self.transport.close()

    # ---- as a receiver -----------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        self._listener.received(self, data)

    def paused(self) -> None:
        """See `Receiver`."""
        self.is_paused = True

    def resumed(self) -> None:
        """See `Receiver`."""
        self.is_paused = False
        self._listener.resumed()

    def lost(self, error: Exception | None) -> None:
        """See `Receiver`. Any call after the first one does nothing."""
        if self.closed.is_set():
            return
        self.error = error
        self.closed.set()
        if not self.hello.done():
            self.hello.set_exception(ConnectionResetError(str(error or "closed")))
            self.hello.exception()  # reads the exception, because asyncio would log an exception that is never read
        self._listener.lost(self)


def _writes(segments: Sequence[Buffer]) -> Iterator[Buffer]:
    """Join small segments and cut large ones, so that each write has `_WRITE` bytes. Copy only what is joined."""
    small: list[Buffer] = []
    size = 0
    for segment in segments:
        view = memoryview(segment)
        while size + len(view) >= _WRITE:
            first, view = view[: _WRITE - size], view[_WRITE - size :]
            yield b"".join([*small, first]) if small else first
            small, size = [], 0
        if len(view):
            small.append(view)
            size += len(view)
    if small:
        yield b"".join(small)
