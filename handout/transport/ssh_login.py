"""Logs in to a host over SSH, through its jump hosts, as ``ssh`` would.

``ssh`` itself reads the user's configuration (see `ssh_configuration`), and asyncssh connects. If this machine has no
``ssh``, asyncssh reads the configuration in its own way.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import asyncssh

from handout.errors import AuthenticationError, HostError, HostUnreachableError, InventoryError
from handout.resources import Host
from handout.transport.host_keys import (
    KeyChecker,
    KeyPolicy,
    host_key_error,
    load_known_hosts,
    preferred_algorithms,
    with_revoked,
)
from handout.transport.proxy_command import ProxyCommand
from handout.transport.shielded import uninterrupted
from handout.transport.ssh_configuration import Configured, find_ssh, read_configuration
from handout.transport.ssh_options import connect_options, refuse_known_hosts_command, revoked_keys_file
from handout.transport.start_output import quoted
from handout.transport.threads import in_thread

__all__ = ["CONNECT_TIMEOUT_S", "SshLogin"]

logger = logging.getLogger("handout.link")

#: Each step of a login may take this many seconds: the connection, the exchange of keys, and the proof of identity. A
#: login needs seven round trips. So the steps have a limit, and not all of them together.
CONNECT_TIMEOUT_S = 15.0
#: The launcher tries to log in this many times before it gives up.
_TRIES = 6
#: Seconds between the first try and the second. Each further pause is twice as long.
_FIRST_PAUSE_S = 0.2
#: Puts this cipher first in the list. On processors with AES instructions, its throughput is twice that of asyncssh's
#: default.
_CIPHERS = "^aes128-gcm@openssh.com"
#: Keys that `Host(ssh=...)` may have: the arguments of `asyncssh.connect`.
_SSH_OPTIONS = frozenset(
    name
    for callable_ in (asyncssh.connect, asyncssh.SSHClientConnectionOptions.prepare)
    for name in inspect.signature(callable_).parameters
) - {"self", "kwargs", "last_config"}
#: The connection ended during the login. A proxy command that has ended does not take what is written to it.
_DROPPED = (asyncssh.ConnectionLost, ConnectionResetError, BrokenPipeError)
#: Options of `Host(ssh=...)` that say how the bytes reach the host, in place of the configuration's jump hosts.
_WAYS = ("tunnel", "proxy_command", "sock")
#: A jump host as the configuration names it. As for `ssh`, the user's name ends at the last ``@``.
_JUMP = re.compile(r"(?:ssh://)?(?:(?P<user>.+)@)?(?P<host>\[[^\]]+\]|[^:]+)(?::(?P<port>\d+))?")
#: A jump host may be reached through jump hosts of its own, at most so many.
_MOST_JUMPS = 16


@dataclass(frozen=True, slots=True)
class _Hop:
    """One SSH connection on the way to a host: to a jump host, or to the host itself."""

    #: The host as the user wrote it.
    name: str
    address: str
    port: int
    #: The arguments for `asyncssh.connect`.
    options: dict[str, Any]
    #: The jump hosts before this one.
    jumps: Sequence[str]
    #: Where the key is looked up. It has no files if `Host(ssh=...)` gives known keys in another form.
    policy: KeyPolicy
    is_jump: bool = False

    @property
    def where(self) -> str:
        """The address and the port, for messages."""
        return f"{self.address}, port {self.port}"


class SshLogin:
    """Makes SSH connections to one host.

    Args:
        host: The host, as the inventory describes it.
        logins: Limits how many logins of a cluster happen at the same time.
    """

    def __init__(self, host: Host, logins: asyncio.Semaphore) -> None:
        self._host = host
        self._logins = logins
        #: The connections on the way to the host, the one to the host last. Empty while there is no connection.
        self._chain: list[asyncssh.SSHClientConnection] = []
        #: The proxy command of the chain's first connection, if it has one.
        self._proxy: ProxyCommand | None = None
        #: The way that was last tried.
        self._hops: list[_Hop] = []
        #: The last connection of the way that was last tried, which is the one to the host itself.
        self._target: _Hop | None = None

    @property
    def connection(self) -> asyncssh.SSHClientConnection | None:
        """The open connection to the host, or None."""
        return self._chain[-1] if self._chain and not self._chain[-1].is_closed() else None

    async def connect(self) -> asyncssh.SSHClientConnection:
        """Make a new connection, with pauses while sshd drops connections.

        Raises:
            HostError: The host cannot be reached, or refuses the login.
            InventoryError: The host's entry or the SSH configuration is wrong.
        """
        self.abort()
        pause_s = _FIRST_PAUSE_S
        for attempt in range(1, _TRIES + 1):
            try:
                hop = self._target = await self._hop()
            except OSError as error:
                raise self._unreadable(error) from error
            try:
                async with self._logins:
                    await self._follow(hop, 0)
                return self._chain[-1]
            except _DROPPED as error:
                # sshd drops connections without an answer if too many log in (MaxStartups). A later try may succeed.
                if self._proxy is not None and not self._chain:
                    await self._proxy.wait_ended()  # it may say on standard error why
                dropped = self._dropped(error)
                await self._drop()
                if attempt == _TRIES:
                    raise dropped from error
            except BaseException:
                await self._drop()
                raise
            await asyncio.sleep(pause_s * (1 + secrets.randbelow(100) / 100))
            pause_s *= 2
        raise AssertionError("unreachable: the last try returned or raised")

    def abort(self) -> None:
        """Drop all connections on the way without waiting for an answer."""
        chain, self._chain = self._chain, []
        for connection in reversed(chain):
            connection.abort()
        if self._proxy is not None:
            self._proxy.close()
            self._proxy = None

    async def _drop(self) -> None:
        """Drop all connections on the way, and wait until their proxy command has ended. The wait takes at most 2 s."""
        proxy, self._proxy = self._proxy, None
        self.abort()
        if proxy is not None:
            await uninterrupted(proxy.aclose())

    async def aclose(self) -> None:
        """Close all connections on the way. Drop them if this takes more than a second."""
        chain, self._chain = self._chain, []
        for connection in reversed(chain):
            connection.close()
        try:
            async with asyncio.timeout(1.0):
                for connection in reversed(chain):
                    await connection.wait_closed()
        except TimeoutError:
            for connection in chain:
                connection.abort()
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            await uninterrupted(proxy.aclose())

    # ---- the way to the host ---------------------------------------------------------------------------------

    async def _follow(self, hop: _Hop, depth: int) -> None:
        """Connect to a host, and before that to its jump hosts."""
        if depth > _MOST_JUMPS:
            raise InventoryError(
                f"Host {self._host.name!r} is behind more than {_MOST_JUMPS} jump hosts.",
                remedy="Check that no jump host in the SSH configuration is reached through itself.",
                host=self._host.name,
            )
        for number, jump in enumerate(hop.jumps):
            await self._follow(await self._jump(jump, is_first=number == 0), depth + 1)
        self._hops = [*self._hops[: len(self._chain)], hop]
        await self._connect(hop)

    async def _connect(self, hop: _Hop) -> None:
        """Make one connection, through the last connection of the chain if there is one."""
        options = dict(hop.options)
        stated = options.get("connect_timeout")
        limit_s = max(CONNECT_TIMEOUT_S, stated if isinstance(stated, int | float) else 0.0)
        command = options.pop("proxy_command", None)
        if self._chain:
            options["tunnel"] = self._chain[-1]
        elif command:
            try:
                self._proxy = await ProxyCommand.start(command)
            except OSError as error:
                raise self.unreachable(error, "the proxy command of the SSH configuration cannot be started") from error
            except ValueError as error:
                raise self._refused(hop, None, error) from error
            options["sock"] = self._proxy.sock
        loop = asyncio.get_running_loop()
        checker: KeyChecker | None = None
        try:
            async with asyncio.timeout(limit_s) as limit:

                def extend() -> None:
                    if not limit.expired():
                        limit.reschedule(loop.time() + limit_s)

                if "client_factory" not in options:
                    checker = KeyChecker(extend)
                    options["client_factory"] = lambda: checker
                connection = await asyncssh.connect(**options)
        except TimeoutError as error:
            raise self.unreachable(TimeoutError(f"no answer within {stated or limit_s:g} s")) from error
        except _DROPPED:
            raise
        except (asyncssh.Error, OSError, ValueError) as error:
            raise self._refused(hop, checker, error) from error
        self._chain.append(connection)

    async def _hop(self) -> _Hop:
        """Return the connection to the host itself, as its entry and the SSH configuration say."""
        host = self._host
        host.check_ssh(_SSH_OPTIONS)
        options = host.connect_options()
        options.setdefault("encryption_algs", _CIPHERS)
        address, port = options["host"], host.port
        files = _config_files(host.ssh)
        if files == [] or find_ssh() is None:
            if files is None:
                _warn_without_ssh()
            policy = _plain_policy(address, options.get("host_key_alias"))
            return await in_thread(lambda: _checked(_Hop(host.name, address, port, options, (), policy), host.ssh))
        stated = options.get("port")
        configured = await read_configuration(address, options.get("username"), stated, files, host.name)
        return await in_thread(lambda: self._configured(configured, host.name, host.ssh, is_jump=False))

    async def _jump(self, text: str, *, is_first: bool) -> _Hop:
        """Return the connection to a jump host. Only the first jump host may be behind jump hosts of its own."""
        match = _JUMP.fullmatch(text.strip())
        if match is None:
            raise InventoryError(
                f"Host {self._host.name!r}: {text!r} is not a jump host.",
                remedy="Correct ProxyJump in the SSH configuration.",
                host=self._host.name,
            )
        port = int(match["port"]) if match["port"] else None
        name = match["host"].strip("[]")
        configured = await read_configuration(name, match["user"], port, _config_files(self._host.ssh), self._host.name)
        hop = await in_thread(lambda: self._configured(configured, text.strip(), {}, is_jump=True))
        if is_first:
            return hop
        hop.options.pop("proxy_command", None)
        return replace(hop, jumps=())

    def _configured(self, configured: Configured, name: str, ssh: Any, *, is_jump: bool) -> _Hop:
        options = {"encryption_algs": _CIPHERS, **connect_options(configured, self._host.name), **ssh, "config": []}
        if "client_keys" in ssh or "passphrase" in ssh:
            options.pop("ignore_encrypted", None)
        jumps: Sequence[str] = configured.jumps
        if isinstance(ssh.get("tunnel"), str):
            jumps = options.pop("tunnel").split(",")
        elif any(way in ssh for way in _WAYS):
            jumps = ()
        is_unchecked = ssh.get("known_hosts", ()) is None
        if "known_hosts" not in ssh:
            refuse_known_hosts_command(configured, self._host.name)
        alias = options.get("host_key_alias")
        files, record_in = configured.known_hosts_files
        policy = KeyPolicy(
            files,
            record_in,
            alias or configured.address,
            aliased=bool(alias),
            strict=configured.get("stricthostkeychecking"),
            hashed=configured.is_on("hashknownhosts"),
            direct=not jumps and not any(way in options for way in _WAYS),
            revoked=None if is_unchecked else revoked_keys_file(configured, self._host.name),
        )
        hop = _Hop(name, configured.address, int(options["port"]), options, jumps, policy, is_jump)
        return _checked(hop, ssh)

    # ---- errors ----------------------------------------------------------------------------------------------

    def _refused(self, hop: _Hop, checker: KeyChecker | None, error: Exception) -> HostError | InventoryError:
        """Return the public error for an exception that asyncssh raised while it connected."""
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return host_key_error(
                self._host.name, self._whose(hop), hop.policy, checker, hop.port, error.reason, is_jump=hop.is_jump
            )
        if isinstance(error, asyncssh.PermissionDenied):
            user = hop.options.get("username") or "your user"
            return AuthenticationError(
                f"{self._whose(hop)} refused {user}: {quoted(error.reason)}.",
                remedy=f"Check that `{self.command()}` logs in without a question, and that ssh-agent holds the key.",
                host=self._host.name,
                username=str(hop.options.get("username") or ""),
            )
        if isinstance(error, OSError) and error.filename is not None and not isinstance(error, ConnectionError):
            # A key file on the controller's machine cannot be read. Nothing was sent to the host yet.
            return self._unreadable(error)
        if isinstance(error, asyncssh.KeyImportError | asyncssh.KeyEncryptionError):
            return self._unusable_key(hop, error)
        if isinstance(error, ValueError):
            return InventoryError(
                f"Host {self._host.name!r}: the SSH library refuses its options or keys: {quoted(str(error))}.",
                remedy="Check Host(..., ssh=...) and ~/.ssh/config.",
                host=self._host.name,
            )
        return self.unreachable(error)

    def _unusable_key(self, hop: _Hop, error: Exception) -> InventoryError:
        files = _key_files(hop.options)
        named = f" (of {', '.join(files)})" if files else ""
        remedy = "Check client_keys in Host(..., ssh=...), and ~/.ssh/config."
        if "passphrase" in str(error).lower():
            file = shlex.quote(files[0]) if files else "FILE"
            remedy = (
                f"Load the key into your SSH agent with `ssh-add {file}`, and leave it out of Host(..., ssh=...). "
                'Or give ssh={"passphrase": ...} too.'
            )
        elif any(file.endswith(".pub") for file in files):
            remedy = "A file that ends in .pub has the public key. Name the file of the private key."
        return InventoryError(
            f"Host {self._host.name!r}: the SSH library refuses a private key{named}: {quoted(str(error))}.",
            remedy=remedy,
            host=self._host.name,
        )

    def _unreadable(self, error: OSError) -> InventoryError:
        what, remedy = repr(str(error.filename)), "Check the paths in Host(..., ssh=...) and in ~/.ssh/config."
        if error.filename is None:
            what = "the SSH configuration"
            remedy = "Check that this machine can start `ssh`, and has room in its folder for temporary files (TMPDIR)."
        return InventoryError(
            f"Host {self._host.name!r}: {what} cannot be read: {error.strerror}.", remedy=remedy, host=self._host.name
        )

    def _dropped(self, error: Exception) -> HostUnreachableError:
        """Return the public error for a connection that ended before the login, at the last try."""
        if self._proxy is not None and not self._chain:
            # The exception only says that the controller wrote to a program that had ended: "Broken pipe".
            ended = ConnectionError(f"the proxy command {self._proxy.end}")
            return self.unreachable(ended, f"before the login, at the last of {_TRIES} tries")
        return self.unreachable(
            error,
            f"the connection was dropped {_TRIES} times before the login: either by sshd beyond its MaxStartups, or by "
            "another server than sshd",
        )

    def _whose(self, hop: _Hop) -> str:
        if hop.is_jump:
            return f"The jump host {hop.name!r} ({hop.where}) on the way to host {self._host.name!r}"
        return f"Host {self._host.name!r} ({hop.where})"

    def command(self) -> str:
        """Return the command that logs in to the host by hand, for a remedy."""
        host = self._host
        files = _config_files(host.ssh)
        chosen = f"-F {shlex.quote(files[0])} " if files else ""
        keys = "".join(f"-i {shlex.quote(file)} " for file in _key_files(host.ssh))
        port = "" if host.port == 22 else f"-p {host.port} "
        user = "" if host.username is None else f"{host.username}@"
        return f"ssh {chosen}{keys}{port}{user}{host.address or host.name}"

    def unreachable(self, error: Exception, why: str = "") -> HostUnreachableError:
        """Return the public error for a host that cannot be reached."""
        if isinstance(error, ConnectionError) and error.errno:
            reason = os.strerror(error.errno)  # asyncio's own text is "Connect call failed", without the reason
        else:
            reason = (
                getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error) or type(error).__name__
            )
        host, target = self._host, self._target
        where = f"{host.address or host.name}, port {host.port}" if target is None else target.where
        jump = next((each for each in reversed(self._hops) if each.is_jump), None)
        through = "" if jump is None else f" through jump host {jump.name!r} ({jump.where})"
        words = "" if self._proxy is None else self._proxy.printed
        printed = f" The proxy command printed: '{words}'." if words else ""
        return HostUnreachableError(
            f"Host {host.name!r} ({where}) cannot be reached{through}: {quoted(reason)}{f' ({why})' if why else ''}."
            f"{printed}",
            remedy=f"Check that `{self.command()}` works from this machine.",
            host=host.name,
        )


def _plain_policy(address: str, alias: str | None) -> KeyPolicy:
    own = os.path.expanduser("~/.ssh/known_hosts")
    return KeyPolicy([own], own, alias or address, aliased=bool(alias))


@cache
def _warn_without_ssh() -> None:
    """Say once that asyncssh reads the user's configuration."""
    if os.path.exists(os.path.expanduser("~/.ssh/config")):
        logger.warning(
            "This machine has no program `ssh` that runs for this user, so the library asyncssh reads ~/.ssh/config. "
            "It knows fewer options, and refuses comments behind values. Install an OpenSSH client to use the "
            "configuration as ssh does."
        )


def _config_files(ssh: Any) -> list[str] | None:
    """Return the files of the SSH configuration that `Host(ssh=...)` names, or None if it names none.

    An empty list means that there is no configuration.
    """
    if "config" not in ssh:
        return None
    config = ssh["config"]
    if config is None:
        return []
    return [os.fspath(config)] if isinstance(config, str | os.PathLike) else [os.fspath(path) for path in config]


def _key_files(options: Mapping[str, Any]) -> list[str]:
    """Return the paths of the private keys that options of asyncssh name."""
    keys = options.get("client_keys") or ()
    keys = [keys] if isinstance(keys, str | os.PathLike) else keys
    return [os.fspath(key) for key in keys if isinstance(key, str | os.PathLike)]


def _checked(hop: _Hop, ssh: Any) -> _Hop:
    """Return the hop with the options that check the host's key.

    Raises:
        OSError: A file that `Host(ssh=...)` names cannot be read.
    """
    policy, given = hop.policy, ssh.get("known_hosts", ())
    if isinstance(given, str | os.PathLike):
        given = [given]
    if given is None:
        return hop
    if given and not (isinstance(given, list) and all(isinstance(path, str | os.PathLike) for path in given)):
        hop.options["known_hosts"] = with_revoked(given, policy)
        return replace(hop, policy=replace(policy, files=(), record_in=None, strict=""))
    if given:
        files = [os.path.expanduser(path) for path in given]
        for path in files:
            open(path).close()  # a file that the user names for this host must be there
        policy = replace(policy, files=files, record_in=files[0], strict="")
    elif "config" not in hop.options:
        return hop  # asyncssh reads the configuration, and finds the files there
    known = load_known_hosts(policy)
    hop.options["known_hosts"] = known
    if "server_host_key_algs" not in ssh:
        algorithms = preferred_algorithms(known, policy.name, hop.port, hop.options.get("server_host_key_algs"))
        if algorithms is not None:
            hop.options["server_host_key_algs"] = algorithms
    return replace(hop, policy=policy)
