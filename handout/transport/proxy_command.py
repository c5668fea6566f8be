"""Runs the ``ProxyCommand`` of an SSH configuration: a program that carries the bytes of an SSH connection.

asyncssh could run the program too. But it reads the program's standard error as if the host had sent it, so each line
that the program prints would damage the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Sequence

from handout.transport.start_output import quoted

__all__ = ["ProxyCommand"]

#: This many of the last bytes that the program prints on standard error are kept.
_KEPT = 4096
#: Seconds that the program has to end by itself, after its connection was closed.
_END_S = 1.0


class ProxyCommand(asyncio.SubprocessProtocol):
    """One run of a program. Its standard input and output are one end of a socket pair, and ``sock`` is the other."""

    def __init__(self) -> None:
        self.sock, self._theirs = socket.socketpair()
        self._errors = b""
        self._ended = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None

    @classmethod
    async def start(cls, command: str | Sequence[str]) -> ProxyCommand:
        """Start the program. The caller must call `close` or `aclose` later, and give ``sock`` to a transport.

        Args:
            command: The program and its arguments. A text is split into words as a shell would split it.

        Raises:
            OSError: There is no such program, or the system cannot start it.
            ValueError: The command is empty, or has a quote that is not closed.
        """
        words = shlex.split(command) if isinstance(command, str) else command
        if not words:
            raise ValueError("the proxy command is empty")
        proxy = cls()
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: proxy,
                *words,
                stdin=proxy._theirs.fileno(),
                stdout=proxy._theirs.fileno(),
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except BaseException:
            proxy.sock.close()
            proxy.close()
            raise
        finally:
            proxy._theirs.close()
        return proxy

    @property
    def printed(self) -> str:
        """The end of what the program has printed on standard error, for a message. Control characters are escaped."""
        return quoted(self._errors.decode("utf-8", "replace").strip())

    @property
    def end(self) -> str:
        """How the program has ended, as the end of a sentence about it."""
        status = None if self._transport is None else self._transport.get_returncode()
        if status is None:
            return "closed the connection"
        return f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; see `asyncio.SubprocessProtocol`."""
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep what the program prints on standard error; see `asyncio.SubprocessProtocol`."""
        self._errors = (self._errors + data)[-_KEPT:]

    def process_exited(self) -> None:
        """Note that the program has ended; see `asyncio.SubprocessProtocol`."""
        self._ended.set()

    async def wait_ended(self) -> None:
        """Wait until the program has ended, for at most a second."""
        try:
            async with asyncio.timeout(_END_S):
                await self._ended.wait()
        except TimeoutError:
            return

    def close(self) -> None:
        """Tell the program to end, as ``ssh`` does: with SIGHUP. Kill it if it has not ended a second later.

        The transport that has got ``sock`` closes it. Until then, no other socket may get its number.
        """
        if self._transport is not None and not self._ended.is_set():
            # The program may run as another user, or have just ended.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._transport.get_pid(), signal.SIGHUP)
            asyncio.get_running_loop().call_later(_END_S, self._kill)

    async def aclose(self) -> None:
        """Tell the program to end, and wait for its end. Kill it if this takes more than a second, and wait again."""
        self.close()
        await self.wait_ended()
        self.sock.close()  # this does nothing if a transport has closed it
        self._kill()
        await self.wait_ended()  # the loop must live until the system has told it of the end

    def _kill(self) -> None:
        if self._transport is not None:
            if not self._ended.is_set():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._transport.get_pid(), signal.SIGKILL)
            with contextlib.suppress(PermissionError):
                self._transport.close()
