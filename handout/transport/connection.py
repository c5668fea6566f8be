"""One connection to an agent, from its first byte to its end; another one is made after it.

It knows how bytes are written and whether they may be, and nothing of what they say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from handout.protocol.frames import Buffer
from handout.transport.byte_stream import Transport

__all__ = ["Connection", "ConnectionListener"]

#: Bytes of one write: larger buffers cost more to allocate than to fill.
_WRITE = 64 << 10


class ConnectionListener(Protocol):
    """Who is told what happens on a connection; also on one that is not the current one any more."""

    def received(self, connection: Connection, data: bytes) -> None:
        """Bytes came."""
        ...

    def resumed(self) -> None:
        """There is room again for what is to be written."""
        ...

    def lost(self, connection: Connection) -> None:
        """It ended; called once."""
        ...


class Connection:
    """A receiver of one transport's news, and the way to write to it.

    Args:
        listener: What it is passed on to.
    """

    def __init__(self, listener: ConnectionListener) -> None:
        self._listener = listener
        #: Set by whoever opens it, once it is open: a receiver is there before its transport.
        self.transport: Transport | None = None
        #: Whether nothing more should be written now.
        self.is_paused = False
        #: What the agent answers to the hello; ConnectionResetError where the connection ends before.
        self.hello: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()
        #: Why it was closed; None where the other side closed it in order.
        self.error: Exception | None = None

    def write(self, segments: Sequence[Buffer]) -> None:
        """Queue bytes.

        Raises:
            OSError: It is closed.
        """
        assert self.transport is not None
        for data in _pieces(segments):
            self.transport.write(data)

    def close(self) -> None:
        """Close it at once; that is its end, though the other side may not have heard of it."""
        # Said here: over a dead line the transport waits for an answer, and says nothing.
        self.lost(ConnectionAbortedError("closed from here"))
        if self.transport is not None:
            self.transport.close()

    # ---- as a receiver -----------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """See :class:`~handout.transport.byte_stream.Receiver`."""
        self._listener.received(self, data)

    def paused(self) -> None:
        """See :class:`~handout.transport.byte_stream.Receiver`."""
        self.is_paused = True

    def resumed(self) -> None:
        """See :class:`~handout.transport.byte_stream.Receiver`."""
        self.is_paused = False
        self._listener.resumed()

    def lost(self, error: Exception | None) -> None:
        """See :class:`~handout.transport.byte_stream.Receiver`; the first end counts, whoever noticed it."""
        if self.closed.is_set():
            return
        self.error = error
        self.closed.set()
        if not self.hello.done():
            self.hello.set_exception(ConnectionResetError(str(error or "closed")))
            self.hello.exception()  # where nobody waits for it, nobody is to be warned
        self._listener.lost(self)


def _pieces(segments: Sequence[Buffer]) -> Iterator[Buffer]:
    """Segments as writes of a middling size: small ones joined, large ones cut, without copying them as a whole."""
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
