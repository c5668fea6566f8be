"""The launcher for the controller's own machine. It starts the same agent as on other hosts, but without SSH."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
from typing import cast

from handout.errors import BootstrapError, HostLostError, HostUnreachableError
from handout.transport.bootstrap import Bootstrap, StartedAgent
from handout.transport.byte_stream import Receiver, Transport
from handout.transport.shielded import uninterrupted
from handout.transport.start_output import HopelessOutput, MarkedOutput, read_answer
from handout.transport.threads import in_thread

__all__ = ["LocalLauncher"]

_START_TIMEOUT_S = 40.0
_TOO_LONG = (
    "The system limits the length of a variable, and of all variables together. Shorten those that Host.local(..., "
    "env=...) and the environment of the caller have, and pass large values as arguments of functions."
)
#: A process that starts an agent has this many seconds to end after SIGTERM, and as many again after SIGKILL.
_END_TIMEOUT_S = 0.5
#: When the process has ended, its output may take this many more seconds to arrive.
_REST_S = 1.0
#: Seconds between two looks at a process that is about to end.
_POLL_S = 0.01


class LocalLauncher:
    """Starts agents on this machine and connects to their Unix sockets."""

    def __init__(self) -> None:
        #: The transports that are open.
        self._transports: set[asyncio.BaseTransport] = set()

    async def start(self, bootstrap: Bootstrap) -> StartedAgent:
        """See `Launcher`."""
        # This call is made in a thread, because the first such call makes the bundle and would block the loop.
        stdin = await in_thread(bootstrap.local_stdin)
        try:
            process = await _start_process(bootstrap)
        except OSError as error:
            raise BootstrapError(
                f"The program {bootstrap.local_argv()[0]!r} cannot be started: {error.strerror}.",
                remedy=_TOO_LONG if error.errno == errno.E2BIG else "Check Host.local(..., python=...).",
                host=bootstrap.host,
            ) from None
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                bootstrap.command_sent = True
                await _communicate(process, stdin, bootstrap.output)
        except HopelessOutput as error:
            raise bootstrap.hopeless(error) from None
        except TimeoutError:
            raise bootstrap.late(_START_TIMEOUT_S, "") from None
        finally:
            if process.returncode is None:
                await _end(process)
            await _retrieve_broken_pipe(process)
            _close_pipes(process)
        return bootstrap.result(process.returncode)

    async def connect(self, started: StartedAgent, receiver: Receiver) -> Transport:
        """See `Launcher`."""
        loop, transports = asyncio.get_running_loop(), self._transports
        try:
            transport, _ = await loop.create_unix_connection(lambda: _Socket(receiver, transports), started.socket)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise HostLostError(f"The agent on this machine is gone: {error.strerror}.", gone=True) from None
        except OSError as error:
            raise HostUnreachableError(f"The agent on this machine cannot be reached: {error.strerror}.") from None
        return cast(Transport, transport)

    def abort(self) -> None:
        """See `Launcher`."""
        for transport in self._transports:
            cast(asyncio.Transport, transport).abort()
        self._transports.clear()

    async def aclose(self) -> None:
        """See `Launcher`."""
        self.abort()
        await asyncio.sleep(0)  # lets the transports report that they are closed


async def _start_process(bootstrap: Bootstrap) -> asyncio.subprocess.Process:
    """Start the process that starts the agent, in a session of its own.

    Ctrl-C then reaches the controller only. If the interpreter is a wrapper, one signal to the session also reaches the
    processes that the wrapper has started.

    Raises:
        OSError: The process cannot be started.
    """
    pipe = subprocess.PIPE
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *bootstrap.local_argv(),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=bootstrap.local_environment(),
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The call of asyncio itself must not be cancelled, because it would then end only the process, and could wait
        # forever for other processes that this process has started.
        await uninterrupted(_end_started(starting))
        raise


async def _communicate(process: asyncio.subprocess.Process, stdin: bytes, output: MarkedOutput) -> None:
    """Write the input of the process, read until its answer is complete, and wait until the process has ended.

    Raises:
        HopelessOutput: The process prints what no start of an agent prints.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(stdin)
    process.stdin.close()  # asyncio still writes the bytes that it holds
    reading = asyncio.ensure_future(read_answer(output, process.stdout, process.stderr))
    ending = asyncio.ensure_future(_ended(process))
    try:
        await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            await asyncio.wait({reading}, timeout=_REST_S)
        if reading.done():
            reading.result()
        await ending
    finally:
        for task in (reading, ending):
            task.cancel()
        await uninterrupted(asyncio.wait({reading, ending}))
        if not reading.cancelled():
            reading.exception()  # reads the exception, so that asyncio does not log it


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Wait until a process has ended.

    asyncio's own wait also waits until the pipes of the process are closed, and a program that the process has left in
    the background may hold them open for long.
    """
    while process.returncode is None:  # noqa: ASYNC110 - asyncio sets no event when a process ends
        await asyncio.sleep(_POLL_S)


async def _end_started(starting: asyncio.Future[asyncio.subprocess.Process]) -> None:
    try:
        await _end(await starting)
    except OSError:
        pass  # the process was never started


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process and its session with SIGTERM, or with SIGKILL if SIGTERM is not enough.

    The wait is bounded, because a process that has left the session may hold the standard output open for long.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            async with asyncio.timeout(_END_TIMEOUT_S):
                await process.wait()
                return
        except ProcessLookupError:
            return
        except TimeoutError:
            pass


async def _retrieve_broken_pipe(process: asyncio.subprocess.Process) -> None:
    """Wait until the standard input of an ended process is closed.

    If the process ended before it had read its input, this wait raises an error. If the error is never
    retrieved, Python before 3.11.4 logs the error.
    """
    assert process.stdin is not None
    try:
        async with asyncio.timeout(_END_TIMEOUT_S):
            await process.stdin.wait_closed()
    except TimeoutError:
        # A program that the process has left holds its end of the pipe, and does not read the rest of the input.
        process.stdin.transport.abort()
    except OSError:
        pass  # the caller reports how the process ended


def _close_pipes(process: asyncio.subprocess.Process) -> None:
    """Close the reading ends of a process's pipes, which stay open as long as a program that it left holds them.

    asyncio has no public way to do this before the pipes have ended.
    """
    transport: asyncio.SubprocessTransport = process._transport  # type: ignore[attr-defined]
    transport.close()


class _Socket(asyncio.Protocol):
    """Passes an agent's bytes on to a receiver, and keeps the set of open transports up to date."""

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
