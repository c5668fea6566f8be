"""The launcher for this machine: the very same agent, without SSH."""

from __future__ import annotations

import asyncio
import subprocess
from typing import cast

from handout.errors import BootstrapError, HostLostError, HostUnreachableError
from handout.remote.bootstrap import Bootstrap, Started
from handout.remote.thread import in_thread
from handout.remote.transport import Receiver, Transport

__all__ = ["LocalLauncher"]

_START_TIMEOUT_S = 40.0


class LocalLauncher:
    """Starts agents on this machine and reaches them over their Unix sockets."""

    def __init__(self) -> None:
        #: Those that are open.
        self._transports: set[asyncio.BaseTransport] = set()

    async def start(self, bootstrap: Bootstrap) -> Started:
        """See :class:`~handout.remote.launcher.Launcher`."""
        # The first one makes the bundle: in a thread, the loop has others to serve.
        stdin = await in_thread(bootstrap.stdin)
        try:
            process = await asyncio.create_subprocess_exec(
                *bootstrap.argv(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise BootstrapError(
                f"Python {bootstrap.python!r} cannot be started: {error.strerror}.",
                remedy="Check Host(..., python=...).",
                host=bootstrap.host,
            ) from None
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                bootstrap.begun = True
                out, err = await process.communicate(stdin)
        except TimeoutError:
            raise BootstrapError(
                f"No agent answered within {_START_TIMEOUT_S:.0f} s on this machine.", host=bootstrap.host
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if not bootstrap.answer.feed(out):
            bootstrap.answer.feed(err)
        return bootstrap.started(process.returncode)

    async def connect(self, started: Started, receiver: Receiver) -> Transport:
        """See :class:`~handout.remote.launcher.Launcher`."""
        loop, transports = asyncio.get_running_loop(), self._transports
        try:
            transport, _ = await loop.create_unix_connection(lambda: _Socket(receiver, transports), started.socket)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise HostLostError(f"The agent on this machine is gone: {error.strerror}.", gone=True) from None
        except OSError as error:
            raise HostUnreachableError(f"The agent on this machine cannot be reached: {error.strerror}.") from None
        return cast(Transport, transport)

    def abort(self) -> None:
        """See :class:`~handout.remote.launcher.Launcher`."""
        for transport in self._transports:
            cast(asyncio.Transport, transport).abort()
        self._transports.clear()

    async def aclose(self) -> None:
        """See :class:`~handout.remote.launcher.Launcher`."""
        self.abort()
        await asyncio.sleep(0)  # for the transports to say that they are closed


class _Socket(asyncio.Protocol):
    """An agent's socket, as its receiver hears it; among the open ones while it is open."""

    def __init__(self, receiver: Receiver, transports: set[asyncio.BaseTransport]) -> None:
        self._receiver = receiver
        self._transports = transports
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transports.add(transport)

    def data_received(self, data: bytes) -> None:
        self._receiver.received(data)

    def pause_writing(self) -> None:
        self._receiver.paused()

    def resume_writing(self) -> None:
        self._receiver.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._transports.discard(self._transport)
        self._receiver.lost(exc)
