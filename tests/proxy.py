"""A small TCP proxy between a client and sshd. It can cut connections, hold back bytes and limit the rate."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Proxy", "start_proxy"]

_SLICE = 2048


class Proxy:
    """A connection to a server on loopback, with faults that the test injects.

    Args:
        target_port: The server's port on loopback.
        bytes_per_s: The limit of the rate in each direction, or None for no limit.
        delay_s: How long each byte is on its way in each direction.
    """

    def __init__(self, target_port: int, bytes_per_s: float | None = None, delay_s: float = 0.0) -> None:
        self.port = 0
        self.bytes_per_s = bytes_per_s
        self.delay_s = delay_s
        #: The number of connections established so far.
        self.connections = 0
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._turning_away = False
        self._server: asyncio.Server | None = None
        #: Holds the port while the proxy refuses connections.
        self._idle: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: Bytes that still pass before all connections are reset, or None for no such limit.
        self._left: int | None = None

    def cut_after(self, nbytes: int) -> None:
        """Reset all connections once, after `nbytes` more bytes have passed in both directions together."""
        self._left = nbytes

    @property
    def is_armed(self) -> bool:
        """True until the reset that `cut_after` asked for has happened."""
        return self._left is not None

    def cut(self) -> None:
        """Close all connections at once, without sending the bytes that are buffered here."""
        for writer in list(self._writers):
            writer.transport.abort()

    def stall(self) -> None:
        """Hold back all bytes, but close no connection."""
        self._open.clear()

    def resume(self) -> None:
        """Let bytes pass again."""
        self._open.set()

    def strand(self) -> None:
        """Hold back the bytes of the present connections for ever. Later connections work."""
        self.stall()
        self._open = asyncio.Event()
        self._open.set()

    async def listen(self) -> None:
        """Accept connections, on a free port or on the port used before."""
        sock = self._idle or _bound(0)
        self._idle = None
        self.port = sock.getsockname()[1]
        self._server = await asyncio.start_server(self._accepted, sock=sock, limit=1 << 16)

    def refuse(self) -> None:
        """Refuse new connections as a port without a listener does, until `listen` is called."""
        assert self._server is not None
        self._server.close()
        self._idle = _bound(self.port)

    def turn_away(self) -> None:
        """Accept new connections and drop them at once, as sshd does beyond MaxStartups."""
        self._turning_away = True

    async def aclose(self) -> None:
        """Close the server and all connections."""
        if self._idle is not None:
            self._idle.close()
        if self._server is not None:
            self._server.close()
        self.resume()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection in both directions."""
        if self._turning_away:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        pair = {writer, back}
        self._writers |= pair
        self.connections += 1
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back))
                group.create_task(self._pump(there, writer))
        except* OSError:
            pass
        finally:
            self._writers -= pair
            for each in pair:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop, is_open = asyncio.get_running_loop(), self._open
        free_at = loop.time()
        while data := await reader.read(_SLICE if self.bytes_per_s else 1 << 16):
            await is_open.wait()
            if self.bytes_per_s:
                free_at = max(free_at, loop.time()) + len(data) / self.bytes_per_s
                await asyncio.sleep(free_at - loop.time())
            if self.delay_s:
                loop.call_later(self.delay_s, writer.write, data)
                continue
            if self._left is not None:
                data, self._left = data[: self._left], self._left - len(data)
            writer.write(data)
            await writer.drain()
            if self._left is not None and self._left <= 0:
                self._left = None
                self._reset()
        await asyncio.sleep(self.delay_s)
        writer.transport.abort()

    def _reset(self) -> None:
        """Close all connections with a TCP reset."""
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@asynccontextmanager
async def start_proxy(target_port: int, bytes_per_s: float | None = None, delay_s: float = 0.0) -> AsyncIterator[Proxy]:
    """Run a proxy until the block ends."""
    proxy = Proxy(target_port, bytes_per_s, delay_s)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.aclose()


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock
