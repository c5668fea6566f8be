"""The launcher for this machine: the very same agent, without SSH."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from typing import cast

from handout.errors import BootstrapError, HostLostError, HostUnreachableError
from handout.transport.bootstrap import Bootstrap, StartedAgent
from handout.transport.byte_stream import Receiver, Transport
from handout.transport.threads import in_thread
from handout.transport.uninterrupted import uninterrupted

__all__ = ["LocalLauncher"]

_START_TIMEOUT_S = 40.0
_ENDED_S = 0.5


class LocalLauncher:
    """Starts agents on this machine and reaches them over their Unix sockets."""

    def __init__(self) -> None:
        #: Those that are open.
        self._transports: set[asyncio.BaseTransport] = set()

    async def start(self, bootstrap: Bootstrap) -> StartedAgent:
        """See :class:`~handout.transport.launcher.Launcher`."""
        # The first one makes the bundle: in a thread, the loop has others to serve.
        stdin = await in_thread(bootstrap.stdin)
        try:
            process = await _begun(bootstrap)
        except OSError as error:
            raise BootstrapError(
                f"Python {bootstrap.python!r} cannot be started: {error.strerror}.",
                remedy="Check Host(..., python=...).",
                host=bootstrap.host,
            ) from None
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                bootstrap.command_sent = True
                out, err = await process.communicate(stdin)
        except TimeoutError:
            raise BootstrapError(
                f"No agent answered within {_START_TIMEOUT_S:.0f} s on this machine.", host=bootstrap.host
            ) from None
        finally:
            if process.returncode is None:
                await _end(process)
        if not bootstrap.output.feed(out):
            bootstrap.output.feed(err)
        return bootstrap.result(process.returncode)

    async def connect(self, started: StartedAgent, receiver: Receiver) -> Transport:
        """See :class:`~handout.transport.launcher.Launcher`."""
        loop, transports = asyncio.get_running_loop(), self._transports
        try:
            transport, _ = await loop.create_unix_connection(lambda: _Socket(receiver, transports), started.socket)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise HostLostError(f"The agent on this machine is gone: {error.strerror}.", gone=True) from None
        except OSError as error:
            raise HostUnreachableError(f"The agent on this machine cannot be reached: {error.strerror}.") from None
        return cast(Transport, transport)

    def abort(self) -> None:
        """See :class:`~handout.transport.launcher.Launcher`."""
        for transport in self._transports:
            cast(asyncio.Transport, transport).abort()
        self._transports.clear()

    async def aclose(self) -> None:
        """See :class:`~handout.transport.launcher.Launcher`."""
        self.abort()
        await asyncio.sleep(0)  # for the transports to say that they are closed


async def _begun(bootstrap: Bootstrap) -> asyncio.subprocess.Process:
    """The bootstrap's process, in a session of its own: Ctrl-C is for this one, and what a wrapper starts is below it.

    Raises:
        OSError: It cannot be started.
    """
    pipe = subprocess.PIPE
    beginning = asyncio.ensure_future(
        asyncio.create_subprocess_exec(*bootstrap.argv(), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    )
    try:
        return await asyncio.shield(beginning)
    except asyncio.CancelledError:
        # Cancelled itself, asyncio would end the process alone, and might wait for ever for what that has started.
        await uninterrupted(_end_begun(beginning))
        raise


async def _end_begun(beginning: asyncio.Future[asyncio.subprocess.Process]) -> None:
    try:
        await _end(await beginning)
    except OSError:
        pass  # it was not even started


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a bootstrap, in order where it can. Bounded: what has left its session may hold its output open for long."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            async with asyncio.timeout(_ENDED_S):
                await process.wait()
                return
        except ProcessLookupError:
            return
        except TimeoutError:
            pass


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
