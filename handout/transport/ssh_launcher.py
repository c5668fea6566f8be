"""The launcher for hosts behind sshd. It connects to a host with asyncssh and the user's SSH configuration.

`ssh_login` logs in. The launcher reaches the agent's Unix socket through SSH forwarding, which opens no port and does
not count towards the server's limit of sessions. If the server forbids forwarding, a program on the host, called a
relay, copies the bytes between the socket and an SSH session. A server that allows one session at a time is enough.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any, cast

import asyncssh

from handout.errors import HostLostError
from handout.resources import Host
from handout.transport.bootstrap import Bootstrap, StartedAgent
from handout.transport.byte_stream import Receiver, Transport
from handout.transport.relay_command import relay_command
from handout.transport.shielded import uninterrupted
from handout.transport.ssh_login import CONNECT_TIMEOUT_S, SshLogin
from handout.transport.start_output import HopelessOutput, MarkedOutput, quoted, read_answer
from handout.transport.threads import in_thread

__all__ = ["SshLauncher"]

logger = logging.getLogger("handout.link")

_CONNECT_TIMEOUT_S = CONNECT_TIMEOUT_S
#: A start of an agent may make no progress for this many seconds.
_START_TIMEOUT_S = 45.0
#: A start that takes longer than this many seconds is told in the log.
_SLOW_S = 15.0
#: The log adds this if the login is not complete by then. A login takes seven round trips, and a new connection takes
#: ten (see `agent_link`), so a new connection takes over 21 s. The lease leaves 6 s for it, and 24 s if scaled by 4.
_SLOW_LOGIN = (
    " A new connection over so slow a line takes longer than the default lease leaves for it, so also pass "
    "timings=Timings().scaled(4) or longer timings."
)
#: The agent is started at most this many times, if the connection breaks meanwhile.
_START_TRIES = 3
#: When the start command has ended, and nothing has come from it for this many seconds, no more output is awaited.
_REST_S = 1.0
#: A program that the login has left in the background may go on printing. After this many seconds, its output is left.
_MOST_REST_S = 5.0
#: The session in which an agent was started gets this many seconds to end.
_CLOSE_TIMEOUT_S = 2.0
#: At most this many launchers of one cluster log in at the same time. At 10 connections that have not logged in yet,
#: OpenSSH begins to refuse new connections (sshd_config(5): ``MaxStartups 10:30:100``).
_PARALLEL_LOGINS = 8
#: The number of bytes that a channel may receive before the controller confirms them.
_WINDOW = 16 << 20
#: The greatest size of a packet in bytes. For each packet of 128 KiB or more, glibc would map and unmap memory.
_PACKET = 64 << 10
#: The greatest size of one read from a connection, in bytes. After each packet, asyncssh copies the remaining bytes of
#: the read, so large reads are slow. In our measurement, the throughput with 64 KiB is 1.5 times that with asyncio's
#: default of 256 KiB.
_READ = 64 << 10
_WRITE_BUFFER_HIGH = 512 << 10
_WRITE_BUFFER_LOW = 128 << 10


class SshLauncher:
    """Starts an agent on one host over SSH.

    Args:
        host: The host, as the inventory describes it.
        logins: Limits how many launchers of a cluster log in at the same time. Default: only this launcher counts.
    """

    def __init__(self, host: Host, logins: asyncio.Semaphore | None = None) -> None:
        self._host = host
        self._login = SshLogin(host, logins or asyncio.Semaphore(_PARALLEL_LOGINS))
        #: True if the server forwards sockets, False if the server forbids forwarding, None before the first try.
        self._forwards: bool | None = None
        #: True if a session was opened on the connection since the launcher last asked for a channel to the agent.
        self._had_session = False

    @staticmethod
    def login_limit() -> asyncio.Semaphore:
        """Return a limit on parallel logins, which the launchers of one cluster share."""
        return asyncio.Semaphore(_PARALLEL_LOGINS)

    async def start(self, bootstrap: Bootstrap) -> StartedAgent:
        """See `Launcher`."""
        telling = asyncio.get_running_loop().call_later(_SLOW_S, self._tell_slow, bootstrap)
        # Making the bundle takes as long as logging in, so a thread makes the bundle at the same time.
        making = asyncio.ensure_future(in_thread(bootstrap.command_stdin))
        try:
            connection = await self._connected()
            await making
            return await self._start_over(connection, bootstrap)
        finally:
            telling.cancel()
            making.cancel()
            await uninterrupted(asyncio.wait({making}))

    def _tell_slow(self, bootstrap: Bootstrap) -> None:
        """Log how far a start has come that takes long, because a slow line looks like a start that hangs."""
        output, advice = bootstrap.output, ""
        if bootstrap.is_in_setup:
            told = "The setup line of host %s has not ended after %.0f s. Handout gives it %.0f s."
            logger.warning(told, self._host.name, _SLOW_S, _START_TIMEOUT_S)
            return
        if not bootstrap.command_sent:
            how, advice = "the login is not complete", _SLOW_LOGIN
        elif output.received:
            how = f"{output.received >> 10} KiB of the agent's code have arrived there"
        else:
            how = "nothing came from the start command"
        logger.warning(
            "The agent on host %s is still being started after %.0f s: %s. If the line to the host is slow, wait: the "
            "start goes on as long as bytes arrive.%s",
            self._host.name,
            _SLOW_S,
            how,
            advice,
        )

    async def _start_over(
        self, connection: asyncssh.SSHClientConnection, bootstrap: Bootstrap, tries: int = _START_TRIES
    ) -> StartedAgent:
        """Start the agent over a connection, or over a new one if the connection breaks meanwhile."""
        while True:
            bootstrap.begin()
            try:
                status = await self._bootstrap(connection, bootstrap)
                self._had_session = True
                return bootstrap.result(status)
            except HopelessOutput as error:
                raise bootstrap.hopeless(error) from None
            except TimeoutError:
                raise bootstrap.late(_START_TIMEOUT_S, self._login.command()) from None
            except (asyncssh.Error, OSError) as error:
                tries -= 1
                if tries == 0 or not connection.is_closed():
                    raise self._login.unreachable(error, self._why_no_start(connection, error)) from error
                # An agent may have started all the same. It ends by itself, because no controller connects to it.
                logger.info(
                    "The connection to host %s broke during the start of its agent: %s",
                    self._host.name,
                    quoted(str(error)),  # a server chooses the reason of its disconnect
                )
            connection = await self._connected()

    def _why_no_start(self, connection: asyncssh.SSHClientConnection, error: Exception) -> str:
        if connection.is_closed():
            return f"in {_START_TRIES} starts of the agent"
        refused = isinstance(error, asyncssh.ChannelOpenError)
        return "the server allows no session; see MaxSessions in its sshd_config" if refused else ""

    async def _bootstrap(self, connection: asyncssh.SSHClientConnection, bootstrap: Bootstrap) -> int | None:
        """Run the bootstrap's command, write its input, read until its answer has come, and return its exit status.

        Raises:
            TimeoutError: Nothing came from the command for `_START_TIMEOUT_S`.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_START_TIMEOUT_S) as limit:

            def extend() -> None:
                if not limit.expired():
                    limit.reschedule(loop.time() + _START_TIMEOUT_S)

            # A terminal would change the bytes, so none is asked for, whatever the configuration says.
            _, session = await connection.create_session(
                _StartProcess, bootstrap.command(), encoding=None, request_pty=False
            )
            process = cast(_StartProcess, session)
            bootstrap.command_sent = True
            # `async with` would wait until the host confirms the close, which a silent host never does.
            try:
                stdin, output = bootstrap.command_stdin(), bootstrap.output
                output.on_progress = extend
                try:
                    process.stdin.write(stdin)
                    process.stdin.write_eof()
                except (BrokenPipeError, ConnectionError):
                    pass  # the command ended before it had read its input, and what it printed says why
                await read_answer(output, process.stdout, process.stderr)
                await _until_closed(process)
            finally:
                process.close()
        if bootstrap.output.line is None and process.exit_status is None and connection.is_closed():
            raise ConnectionResetError("the connection was lost while the agent was being started")
        return process.exit_status

    async def connect(self, started: StartedAgent, receiver: Receiver) -> Transport:
        """See `Launcher`."""
        connection = await self._connected()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                if not self._had_session:
                    # sshd leaves Nagle's algorithm on until the connection has had a session. Until then, every small
                    # exchange can stall by 40 ms. The start of an agent opens a session. For a reconnection, this call
                    # opens a session that does nothing.
                    process = await connection.create_process("exec true", stdin=asyncssh.DEVNULL, request_pty=False)
                    try:
                        await _until_closed(process)
                    finally:
                        process.close()
                self._had_session = False
                transport = await self._forward(connection, started, receiver)
                if transport is None:
                    transport = await self._relay(connection, started, receiver)
                return transport
        except TimeoutError:
            self.abort()  # the connection may be dead without an error, so the next try needs a new one
            raise self._login.unreachable(TimeoutError("timed out")) from None
        except (asyncssh.Error, OSError) as error:
            raise self._login.unreachable(error) from error

    async def _forward(
        self, connection: asyncssh.SSHClientConnection, started: StartedAgent, receiver: Receiver
    ) -> Transport | None:
        """Reach the agent through a forwarded socket. Return None if the server forbids forwarding."""
        if self._forwards is False:
            return None
        try:
            channel, _ = await connection.create_unix_connection(
                lambda: _Channel(receiver), started.socket, window=_WINDOW, max_pktsize=_PACKET
            )
        except asyncssh.ChannelOpenError as error:
            if connection.is_closed():
                raise  # asyncssh raises the same error if the connection is lost meanwhile
            # OpenSSH gives this answer if the server forbids forwarding, and also if no process listens on the socket.
            # If forwarding has worked before, it is not forbidden, so no process listens.
            if self._forwards:
                raise self._gone() from error
            self._forwards = False
            return None
        self._forwards = True
        return _bounded(channel)

    async def _relay(
        self, connection: asyncssh.SSHClientConnection, started: StartedAgent, receiver: Receiver
    ) -> Transport:
        """Reach the agent through a relay that runs in a session."""
        output = MarkedOutput(f"handout-{secrets.token_hex(8)}:")
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        channel, _ = await connection.create_session(
            lambda: _RelaySession(receiver, output, ready),
            relay_command(started, output.marker),
            encoding=None,
            request_pty=False,
            window=_WINDOW,
            max_pktsize=_PACKET,
        )
        try:
            await ready
        except ConnectionResetError as error:
            channel.close()
            if connection.is_closed():
                raise
            raise self._gone() from error
        except BaseException:
            channel.close()
            raise
        return _bounded(channel)

    def _gone(self) -> HostLostError:
        name = self._host.name
        return HostLostError(
            f"The agent on host {name!r} is gone.",
            remedy="Look for an out-of-memory kill in the host's system log, unless the agent was killed by hand.",
            host=name,
            gone=True,
        )

    def abort(self) -> None:
        """See `Launcher`."""
        self._login.abort()

    async def aclose(self) -> None:
        """See `Launcher`."""
        await self._login.aclose()

    async def _connected(self) -> asyncssh.SSHClientConnection:
        """Return the connection to the host. If there is none, make one."""
        connection = self._login.connection
        if connection is None:
            connection = await self._login.connect()
            _bound_reads(connection)
            self._had_session = False
        return connection


class _StartProcess(asyncssh.SSHClientProcess[bytes]):
    """The start command. When it has ended and prints no more, the streams of its output end.

    Otherwise a program that the login shell has left in the background may hold the streams open for long.
    """

    _rest: asyncio.TimerHandle | None = None
    #: By the time of the loop: when the streams end at the latest.
    _latest: float

    def exit_status_received(self, status: int) -> None:
        self._await_rest()

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._await_rest()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        super().data_received(data, datatype)
        if self._rest is not None:
            self._await_rest()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._rest is not None:
            self._rest.cancel()

    def _await_rest(self) -> None:
        """End the streams unless more output comes within `_REST_S`."""
        loop = asyncio.get_running_loop()
        if self._rest is None:
            self._latest = loop.time() + _MOST_REST_S
        else:
            self._rest.cancel()
        self._rest = loop.call_at(min(loop.time() + _REST_S, self._latest), self.eof_received)


async def _until_closed(process: asyncssh.SSHClientProcess[bytes]) -> None:
    """Wait for the end of a session, because the server may allow only one session at a time.

    The wait is short, because a program that the login shell has left in the background may keep the session open.
    """
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await process.wait_closed()
    except TimeoutError:
        pass


def _bound_reads(connection: asyncssh.SSHClientConnection) -> None:
    """Bound the size of one read from the connection.

    Neither asyncssh nor asyncio has a public setting for this size, so this function sets a private attribute of
    asyncio's transport. The transports of other event loops and the channels through jump hosts do not have this
    attribute, so their reads keep their size.
    """
    transport: Any = getattr(connection, "_transport", None)
    if hasattr(transport, "max_size"):
        transport.max_size = _READ


def _bounded(channel: Any) -> Transport:
    channel.set_write_buffer_limits(high=_WRITE_BUFFER_HIGH, low=_WRITE_BUFFER_LOW)
    transport: Transport = channel
    return transport


class _Channel(asyncssh.SSHUNIXSession[bytes]):
    """Passes the bytes from a forwarded socket on to a receiver."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._receiver.received(data)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._receiver.paused()

    def resume_writing(self) -> None:
        self._receiver.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver.lost(exc)


class _RelaySession(asyncssh.SSHClientSession[bytes]):
    """Passes what a relay prints on to a receiver, after the relay has reported that it is connected to the agent."""

    def __init__(self, receiver: Receiver, output: MarkedOutput, ready: asyncio.Future[None]) -> None:
        self._receiver = receiver
        self._output = output
        self._ready = ready
        self._connected = False

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if datatype is not None:
            return  # standard error of the login shell
        if self._connected:
            self._receiver.received(data)
            return
        # The agent sends nothing before it gets the controller's hello. So `data` has no bytes after the marked line.
        try:
            self._connected = self._output.feed(data)
        except HopelessOutput as error:
            # asyncssh would end the whole connection if this method raised.
            self._fail(ConnectionResetError(f"the relay {error}"))
        if self._connected and not self._ready.done():
            self._ready.set_result(None)

    def _fail(self, error: ConnectionResetError) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)

    def pause_writing(self) -> None:
        self._receiver.paused()

    def resume_writing(self) -> None:
        self._receiver.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ready.done():
            self._fail(ConnectionResetError(f"the relay ended, and printed: {self._output.quoted()}"))
        elif self._connected:
            self._receiver.lost(exc)
