"""The launcher for hosts behind sshd: one asyncssh connection a host, as the user's own configuration says.

Host keys are checked, ``~/.ssh/config``, agent, keys and jump hosts are used, because nothing here turns them off.
The agent's socket is reached through forwarding, which opens no port and counts as no session; where a server
forbids that, a byte pump runs in the one session it allows.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import Mapping
from typing import Any

import asyncssh

from handout.errors import (
    AuthenticationError,
    BootstrapError,
    HostError,
    HostKeyError,
    HostLostError,
    HostUnreachableError,
    InventoryError,
)
from handout.resources import Host
from handout.transport.bootstrap import Bootstrap, MarkedOutput, StartedAgent, relay_command
from handout.transport.byte_stream import Receiver, Transport
from handout.transport.threads import in_thread
from handout.transport.uninterrupted import uninterrupted

__all__ = ["SshLauncher"]

_CONNECT_TIMEOUT_S = 15.0
_START_TIMEOUT_S = 45.0
#: OpenSSH begins to refuse unauthenticated connections at 10 (``MaxStartups 10:30:100``).
_PARALLEL_LOGINS = 8
_TRIES = 6
_FIRST_PAUSE_S = 0.2
#: Fast where the processor has AES instructions; asyncssh's own first choice costs half the throughput.
_CIPHERS = "^aes128-gcm@openssh.com"
_WINDOW = 16 << 20
#: Under the size from which glibc maps and unmaps memory for each packet.
_PACKET = 64 << 10
#: asyncssh copies what is left of a read for every packet that it takes from it: of asyncio's own 256 KiB, several
#: times over. Reads of this size brought half as much again from a host.
_READ = 64 << 10
_WRITE_BUFFER_HIGH = 512 << 10
_WRITE_BUFFER_LOW = 128 << 10
#: What `Host(ssh=...)` may hold: the arguments of `asyncssh.connect`.
_SSH_OPTIONS = frozenset(
    name
    for callable_ in (asyncssh.connect, asyncssh.SSHClientConnectionOptions.prepare)
    for name in inspect.signature(callable_).parameters
) - {"self", "kwargs", "last_config"}


class SshLauncher:
    """Starts an agent on one host over SSH.

    Args:
        host: The inventory's entry.
        logins: Shared by all hosts of a cluster: how many may be logging in at once.
    """

    def __init__(self, host: Host, logins: asyncio.Semaphore | None = None) -> None:
        self._host = host
        self._logins = logins or asyncio.Semaphore(_PARALLEL_LOGINS)
        self._connection: asyncssh.SSHClientConnection | None = None
        #: Whether the server forwards sockets; None until it was tried.
        self._forwards: bool | None = None
        self._fresh = False

    @staticmethod
    def login_limit() -> asyncio.Semaphore:
        """A limit for the hosts of one cluster to share."""
        return asyncio.Semaphore(_PARALLEL_LOGINS)

    async def start(self, bootstrap: Bootstrap) -> StartedAgent:
        """See :class:`~handout.transport.launcher.Launcher`."""
        # Making the bundle takes as long as logging in: at the same time, in a thread.
        making = asyncio.ensure_future(in_thread(bootstrap.stdin))
        try:
            connection = await self._connected()
            await making
        except BaseException:
            making.cancel()
            await uninterrupted(asyncio.wait({making}))
            raise
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                status = await self._bootstrap(connection, bootstrap)
        except TimeoutError:
            raise BootstrapError(
                f"No agent answered on host {self._host.name!r} within {_START_TIMEOUT_S:.0f} s; "
                f"the login shell printed: {bootstrap.output.printed() or 'nothing'}.",
                remedy=f"Check that `{self._by_hand()} true` ends by itself.",
                host=self._host.name,
                output=bootstrap.output.printed(),
            ) from None
        except (asyncssh.Error, OSError) as error:
            refused = isinstance(error, asyncssh.ChannelOpenError) and not connection.is_closed()
            why = "it allows no session; see MaxSessions in its sshd_config" if refused else ""
            raise self._unreachable(error, why) from error
        self._fresh = True
        return bootstrap.result(status)

    async def _bootstrap(self, connection: asyncssh.SSHClientConnection, bootstrap: Bootstrap) -> int | None:
        """Run the bootstrap's command, feed it, and read until its answer."""
        process = await connection.create_process(bootstrap.command(), encoding=None, stderr=asyncssh.DEVNULL)
        bootstrap.command_sent = True
        # Not `async with`: that waits for the host to agree, and a host that fell silent never does.
        try:
            try:
                process.stdin.write(bootstrap.stdin())
                process.stdin.write_eof()
            except (BrokenPipeError, ConnectionError):
                pass  # it ended before it read its input: what it printed says why
            while data := await process.stdout.read(1 << 16):
                if bootstrap.output.feed(data):
                    break
            # A server may allow no second session beside this one.
            await process.wait_closed()
        finally:
            process.close()
        if process.exit_status is None and connection.is_closed():
            raise ConnectionResetError("the connection was lost while the agent was being started")
        return process.exit_status

    async def connect(self, started: StartedAgent, receiver: Receiver) -> Transport:
        """See :class:`~handout.transport.launcher.Launcher`."""
        connection = await self._connected()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                if not self._fresh:
                    # sshd leaves Nagle's algorithm on until the connection has had a session, which then can
                    # stall every small exchange by 40 ms. A start was one; a reconnection has one on purpose.
                    await connection.run("exec true", stdin=asyncssh.DEVNULL)
                self._fresh = False
                if self._forwards is not False:
                    try:
                        channel, _ = await connection.create_unix_connection(
                            lambda: _Channel(receiver), started.socket, window=_WINDOW, max_pktsize=_PACKET
                        )
                    except asyncssh.ChannelOpenError as error:
                        if connection.is_closed():
                            raise  # asyncssh says it this way, too, when the connection is lost meanwhile
                        # OpenSSH says the same where it forbids forwarding and where nobody listens.
                        if self._forwards:
                            raise self._gone() from error
                        self._forwards = False
                    else:
                        self._forwards = True
                        return _bounded(channel)
                return await self._relay(connection, started, receiver)
        except TimeoutError:
            self.abort()  # the line may be dead, and nothing says so: the next try is to have one of its own
            raise self._unreachable(TimeoutError("timed out")) from None
        except (asyncssh.Error, OSError) as error:
            raise self._unreachable(error) from error

    async def _relay(
        self, connection: asyncssh.SSHClientConnection, started: StartedAgent, receiver: Receiver
    ) -> Transport:
        """Reach the agent through a byte pump in a session."""
        answer = MarkedOutput(f"handout-{secrets.token_hex(8)}:")
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        channel, _ = await connection.create_session(
            lambda: _RelaySession(receiver, answer, ready),
            relay_command(started, answer.marker),
            encoding=None,
            window=_WINDOW,
            max_pktsize=_PACKET,
        )
        try:
            await ready
        except ConnectionResetError as error:
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
            remedy="If it was not killed by hand, look for an out-of-memory kill in the host's system log.",
            host=name,
            gone=True,
        )

    def abort(self) -> None:
        """See :class:`~handout.transport.launcher.Launcher`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    async def aclose(self) -> None:
        """See :class:`~handout.transport.launcher.Launcher`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            try:
                async with asyncio.timeout(1.0):
                    await connection.wait_closed()
            except TimeoutError:
                connection.abort()

    async def _connected(self) -> asyncssh.SSHClientConnection:
        """The host's connection, made anew where it is gone. Refusals under load are tried again, with pauses."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        self._connection = None
        pause_s = _FIRST_PAUSE_S
        for attempt in range(1, _TRIES + 1):
            try:
                async with self._logins:
                    async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                        self._connection = await asyncssh.connect(**self._options())
                _read_little_by_little(self._connection)
                self._fresh = False
                return self._connection
            except TimeoutError as error:
                raise self._unreachable(TimeoutError(f"no answer within {_CONNECT_TIMEOUT_S:.0f} s")) from error
            except (asyncssh.ConnectionLost, ConnectionResetError) as error:
                # sshd drops connections beyond MaxStartups without a word: it may take this one in a moment.
                if attempt == _TRIES:
                    raise self._unreachable(
                        error,
                        f"the connection was dropped {_TRIES} times before the login, as sshd does beyond MaxStartups",
                    ) from error
            except (asyncssh.Error, OSError, ValueError) as error:
                raise self._refused(error) from error
            await asyncio.sleep(pause_s * (1 + secrets.randbelow(100) / 100))
            pause_s *= 2
        raise AssertionError("unreachable: the last try returned or raised")

    def _options(self) -> Mapping[str, Any]:
        self._host.check_ssh(_SSH_OPTIONS)
        options = self._host.connect_options()
        options.setdefault("encryption_algs", _CIPHERS)
        return options

    def _refused(self, error: Exception) -> HostError:
        """The named error for what asyncssh raised while connecting."""
        name, where = self._host.name, self._host.address or self._host.name
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return HostKeyError(
                f"Host {name!r} showed a host key that is not on record for it: {error.reason}.",
                remedy=f"Compare it by hand, then run `ssh-keyscan -p {self._host.port} {where} >> ~/.ssh/known_hosts`"
                f", or `ssh-keygen -R {_known_as(where, self._host.port)}` first where the old key is out of date.",
                host=name,
            )
        if isinstance(error, asyncssh.PermissionDenied):
            user = self._host.username or "your user"
            return AuthenticationError(
                f"Host {name!r} refused {user}: {error.reason}.",
                remedy=f"Check that `{self._by_hand()}` logs in without asking, and that ssh-agent holds the key.",
                host=name,
                username=self._host.username or "",
            )
        if isinstance(error, OSError) and error.filename is not None and not isinstance(error, ConnectionError):
            # A file of keys of this machine; nothing was sent to the host yet.
            return InventoryError(
                f"Host {name!r}: {str(error.filename)!r} cannot be read: {error.strerror}.",
                remedy="Check the paths in Host(..., ssh=...) and in ~/.ssh/config.",
                host=name,
            )
        return self._unreachable(error)

    def _by_hand(self) -> str:
        """What somebody would type to log in there."""
        host = self._host
        port = "" if host.port == 22 else f"-p {host.port} "
        user = "" if host.username is None else f"{host.username}@"
        return f"ssh {port}{user}{host.address or host.name}"

    def _unreachable(self, error: Exception, why: str = "") -> HostUnreachableError:
        where = self._host.address or self._host.name
        reason = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error) or type(error).__name__
        return HostUnreachableError(
            f"Host {self._host.name!r} ({where}, port {self._host.port}) cannot be reached: "
            f"{reason}{f' ({why})' if why else ''}.",
            remedy=f"Check that `{self._by_hand()}` works from this machine.",
            host=self._host.name,
        )


def _known_as(where: str, port: int) -> str:
    """What ``known_hosts`` calls a server."""
    return where if port == 22 else f"'[{where}]:{port}'"


def _read_little_by_little(connection: asyncssh.SSHClientConnection) -> None:
    """Bound what the event loop reads from the connection in one go, where it lets that be chosen.

    Neither asyncssh nor asyncio has a public setting for it; a transport without one (another event loop's, a jump
    host's channel) is left as it is.
    """
    transport: Any = getattr(connection, "_transport", None)
    if hasattr(transport, "max_size"):
        transport.max_size = _READ


def _bounded(channel: Any) -> Transport:
    channel.set_write_buffer_limits(high=_WRITE_BUFFER_HIGH, low=_WRITE_BUFFER_LOW)
    transport: Transport = channel
    return transport


class _Channel(asyncssh.SSHUNIXSession[bytes]):
    """A forwarded socket, as its receiver hears it."""

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
    """A byte pump's standard input and output, once it has said that it is connected."""

    def __init__(self, receiver: Receiver, answer: MarkedOutput, ready: asyncio.Future[None]) -> None:
        self._receiver = receiver
        self._answer = answer
        self._ready = ready
        self._connected = False

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if datatype is not None:
            return  # standard error: a login shell's noise
        if self._connected:
            self._receiver.received(data)
            return
        # The agent speaks only after it was spoken to: nothing of it can stand behind the marker yet.
        if self._answer.feed(data):
            self._connected = True
            if not self._ready.done():
                self._ready.set_result(None)

    def pause_writing(self) -> None:
        self._receiver.paused()

    def resume_writing(self) -> None:
        self._receiver.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ready.done():
            self._ready.set_exception(ConnectionResetError(f"the relay ended: {self._answer.printed()[-300:]}"))
        elif self._connected:
            self._receiver.lost(exc)
