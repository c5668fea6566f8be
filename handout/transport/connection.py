"""One connection to an agent, from its first byte to its end.

A connection writes bytes to a transport, and knows when the transport's buffer is full. It does not know what the bytes
mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from handout.protocol.frames import Buffer
from handout.transport.byte_stream import Transport

__all__ = ["Connection", "ConnectionListener"]

#: The number of bytes in one write. A larger buffer would take longer to allocate than to fill.
_WRITE = 64 << 10


class ConnectionListener(Protocol):
    """Gets the events of a connection, even after a newer connection has replaced it."""

    def received(self, connection: Connection, data: bytes) -> None:
        """Take bytes that came."""
        ...

    def resumed(self) -> None:
        """Note that the connection has room again, so that the listener may go on writing."""
        ...

    def lost(self, connection: Connection) -> None:
        """Note that the connection has ended. The connection calls this method only once."""
        ...


class Connection:
    """One connection. It receives the bytes of one transport, and writes bytes to this transport.

    Args:
        listener: Gets the events of the connection.
    """

    def __init__(self, listener: ConnectionListener) -> None:
        self._listener = listener
        #: The link sets the transport later, because the launcher needs this connection before it makes the transport.
        self.transport: Transport | None = None
        #: True while the transport's buffer is full.
        self.is_paused = False
        #: The fields of the agent's hello. If the connection ends before the hello comes, this future raises
        #: ConnectionResetError.
        self.hello: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()
        #: Why the connection ended. None while the connection is open, and if the agent closed it in an orderly way.
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
        # The end is reported here, because the transport may never report it: the agent may not answer the close.
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
            self.hello.exception()  # reads the exception, because asyncio logs an exception that is never read
        self._listener.lost(self)


def _writes(segments: Sequence[Buffer]) -> Iterator[Buffer]:
    """Join small segments and cut large ones, so that each write but the last has `_WRITE` bytes.

    Only bytes that are joined are copied.
    """
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
