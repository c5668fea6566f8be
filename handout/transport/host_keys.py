"""Checks the keys of hosts against ``known_hosts``, and makes the error for a key that is not accepted.

Before a login, asyncssh checks the host's key. If the key is unknown, asyncssh ends the connection. The check is on by
default. ``Host(..., ssh={"known_hosts": None})`` turns the check off for one host.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import asyncssh
from asyncssh.public_key import get_default_public_key_algs

from handout.errors import HostKeyError

__all__ = [
    "KeyChecker",
    "KeyPolicy",
    "host_key_error",
    "load_known_hosts",
    "preferred_algorithms",
    "revoked_lines",
    "with_revoked",
]

_SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """Where the key of a host is looked up, and what the user's SSH configuration says about unknown keys.

    Args:
        files: The files with known keys, those of the user first. They need not exist.
        record_in: The file in which the user records new keys, or None if the configuration keeps none.
        name: The name under which the key is recorded: the address, or the configuration's ``HostKeyAlias``.
        aliased: True if ``name`` comes from ``HostKeyAlias``.
        strict: The configuration's ``StrictHostKeyChecking``, or "" if there is no configuration.
        hashed: True if names are to be recorded as hashes (``HashKnownHosts``).
        direct: True if no jump host and no proxy is between the controller and the host.
        revoked: The file of the configuration's ``RevokedHostKeys``, or None.
    """

    files: Sequence[str]
    record_in: str | None
    name: str
    aliased: bool = False
    strict: str = ""
    hashed: bool = False
    direct: bool = True
    revoked: str | None = None


class KeyChecker(asyncssh.SSHClient):
    """Remembers the key that a host has offered, and tells that the login makes progress.

    Args:
        on_progress: Called at each step of the login.
    """

    def __init__(self, on_progress: Callable[[], None]) -> None:
        self._on_progress = on_progress
        #: The key that was offered and not accepted.
        self.key: asyncssh.SSHKey | None = None
        #: The key of the authority that has signed the offered certificate, and is not known.
        self.authority: asyncssh.SSHKey | None = None
        #: The host, its IP address and its port, as asyncssh connected to them.
        self.peer: tuple[str, str, int] | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """See `asyncssh.SSHClient`."""
        self._on_progress()

    def begin_auth(self, username: str) -> None:
        """See `asyncssh.SSHClient`."""
        self._on_progress()

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Refuse a key that no file has."""
        self.key, self.peer = key, (host, addr, port)
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Refuse a certificate whose authority no file has."""
        self.authority, self.peer = key, (host, addr, port)
        return False


def load_known_hosts(policy: KeyPolicy) -> asyncssh.SSHKnownHosts:
    """Read the known and the revoked keys.

    As ``ssh`` does, ignore files of known keys that are not there, and lines in them that cannot be read.

    Raises:
        OSError: The file of the revoked keys cannot be read.
    """
    known = asyncssh.SSHKnownHosts()
    unread: dict[str, OSError] = {}
    for _, _, line in _lines(policy, unread):
        try:
            known.load(line)
        except ValueError:
            pass
    if policy.revoked in unread:
        raise unread[policy.revoked]
    return known


class _AlsoRevoked(asyncssh.SSHKnownHosts):
    """Known keys that `Host(ssh=...)` gives in any form of asyncssh's, and the revoked keys of the configuration."""

    def __init__(self, given: Any, revoked: asyncssh.SSHKnownHosts) -> None:
        super().__init__()
        self._given = given
        self._revoked = revoked

    def match(self, host: str, addr: str, port: int | None) -> Any:
        """See `asyncssh.SSHKnownHosts`."""
        both = asyncssh.match_known_hosts(self._given, host, addr, port), self._revoked.match(host, addr, port)
        return tuple([*given, *revoked] for given, revoked in zip(*both, strict=True))


def with_revoked(given: Any, policy: KeyPolicy) -> Any:
    """Add the configuration's revoked keys to known keys in any form that asyncssh takes, apart from None.

    Raises:
        OSError: The file of the revoked keys cannot be read.
    """
    return given if policy.revoked is None else _AlsoRevoked(given, load_known_hosts(replace(policy, files=())))


def _lines(policy: KeyPolicy, unread: dict[str, OSError]) -> Iterator[tuple[str, int, str]]:
    """Yield each line about keys with its file and its number. A revoked key gets the form of ``known_hosts``.

    Args:
        policy: Names the files.
        unread: Gets each file that cannot be read, with the reason.
    """
    for path in policy.files:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                yield from ((path, number, line) for number, line in enumerate(file, 1))
        except OSError as error:
            unread[path] = error
    if policy.revoked is not None:
        try:
            for number, line in revoked_lines(policy.revoked):
                yield policy.revoked, number, f"@revoked * {line}"
        except OSError as error:
            unread[policy.revoked] = error


def revoked_lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file for ``RevokedHostKeys`` that are neither empty nor comments, with their numbers.

    Raises:
        OSError: The file cannot be read.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.strip() and not line.lstrip().startswith("#"):
                yield number, line


def preferred_algorithms(
    known: asyncssh.SSHKnownHosts, name: str, port: int, allowed: Sequence[str] | None
) -> list[str] | None:
    """Return the algorithms to ask a host for: those of its known keys first, then all others.

    By default, asyncssh asks for those of the known keys only. If the host has got a key of another kind, the error
    would then speak of algorithms, and not of a key that has changed.

    Args:
        known: The known keys.
        name: The name under which the host's key is recorded.
        port: The port of the host.
        allowed: The algorithms that the configuration allows, or None if it sets none.

    Returns: None if asyncssh's default is right, because no plain key of the host is known.
    """
    keys, authorities, *_ = known.match(name, "", None if port == _SSH_PORT else port)
    if not keys or authorities:
        return None
    first = [algorithm.decode() for key in keys for algorithm in key.sig_algorithms]
    if allowed is None:
        allowed = [*first, *(each.decode() for each in get_default_public_key_algs())]
    return list(dict.fromkeys([*(each for each in first if each in allowed), *allowed]))


class _Entry(NamedTuple):
    """A line of a file of known keys."""

    path: str
    line: int
    key: asyncssh.SSHKey
    revoked: bool

    def __str__(self) -> str:
        return f"line {self.line} of {self.path} has {_told(self.key)}"


def _entries(policy: KeyPolicy, port: int, address: str, unread: dict[str, OSError]) -> Iterator[_Entry]:
    """Find the lines about a host. See `_lines` for ``unread``."""
    for path, number, line in _lines(policy, unread):
        try:
            found = asyncssh.import_known_hosts(line).match(policy.name, address, None if port == _SSH_PORT else port)
        except ValueError:
            continue
        for keys, revoked in ((found[0], False), (found[2], True)):
            for key in dict.fromkeys(keys):  # asyncssh finds a line twice if the name is the address
                yield _Entry(path, number, key, revoked)


def _told(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def host_key_error(
    host: str, whose: str, policy: KeyPolicy, checker: KeyChecker | None, port: int, reason: str, *, is_jump: bool
) -> HostKeyError:
    """Return the error for a host key that was not accepted.

    Args:
        host: The name of the inventory's host.
        whose: The host with the key, for the message, with its address and its port.
        policy: Where the key was looked up.
        checker: Has the offered key. None if the caller of Handout checks keys with a class of its own.
        port: The port of the host with the key.
        reason: Why asyncssh did not accept the key.
        is_jump: True if the key is that of a jump host.
    """
    address = ""
    if checker is not None and checker.peer is not None:
        _, address, port = checker.peer
    unread: dict[str, OSError] = {}
    entries = list(_entries(policy, port, address, unread))
    files = ", ".join(policy.files) or "no file"
    if "revoked" in reason:
        told = [f"line {each.line} of {each.path} revokes {_told(each.key)}" for each in entries if each.revoked]
        message = f"{whose} offered a host key that is marked as revoked: {', and '.join(told) or reason}"
        remedy = "Do not use this host before its administrator has given it another key."
    elif checker is not None and checker.authority is not None:
        message = (
            f"{whose} offered a certificate for its host key, signed by the authority {_told(checker.authority)}. "
            f"The controller found no line for this authority in {files}"
        )
        remedy = "Ask the host's administrator for the fingerprint of the authority. If it is equal, " + _record(
            policy, port, f"@cert-authority {_name(policy, port)}", checker.authority
        )
    elif checker is not None and checker.key is not None:
        message, remedy = _unknown(whose, policy, port, checker.key, [each for each in entries if not each.revoked])
    else:
        message = f"{whose} offered a host key that is not accepted: {reason}. The controller looked in {files}"
        remedy = "Compare the key with the host's own."
    if "revoked" not in reason:
        remedy += _unchecked(host, policy, is_jump)
    # A file of known keys need not exist.
    missing = [path for path in policy.files if isinstance(unread.get(path), FileNotFoundError)]
    told = [f" {path} could not be read: {error.strerror}." for path, error in unread.items() if path not in missing]
    return HostKeyError(f"{message}.{''.join(told)}", remedy=remedy, host=host)


def _unknown(
    whose: str, policy: KeyPolicy, port: int, key: asyncssh.SSHKey, entries: Sequence[_Entry]
) -> tuple[str, str]:
    """Return message and remedy for a key that is unknown, or differs from the known one."""
    name = _name(policy, port)
    kind = _kind(key)
    compare = (
        f"Compare the fingerprint with the one that `ssh-keygen -lf /etc/ssh/ssh_host_{kind or '...'}_key.pub` prints "
        "on the host itself. If they are equal, "
    )
    if not entries:
        message = (
            f"{whose} offered the host key {_told(key)}. The controller found no key for {name} in "
            f"{', '.join(policy.files) or 'any file'}"
        )
        return message, compare + _record(policy, port, name, key)
    message = f"{whose} offered the host key {_told(key)}, but {', and '.join(map(str, entries))} for {name}"
    paths = dict.fromkeys(entry.path for entry in entries)
    forget = " && ".join(f"ssh-keygen -R {shlex.quote(name)} -f {shlex.quote(path)}" for path in paths)
    remedy = (
        "Either the host has got a new key, or another machine answers in its place. "
        f"{compare}run `{forget}` to forget the old key, and then {_record(policy, port, name, key)}"
    )
    return message, remedy


def _record(policy: KeyPolicy, port: int, name: str, key: asyncssh.SSHKey) -> str:
    """Return the end of a sentence that says how to record a key."""
    path = policy.record_in
    if path is None:
        return "name a file for it with UserKnownHostsFile, because the SSH configuration keeps no keys of hosts."
    kind = _kind(key)
    if policy.direct and not policy.aliased and kind and not name.startswith("@"):
        where = f"-p {port} {shlex.quote(policy.name)}"
        command = f"ssh-keyscan{' -H' if policy.hashed else ''} -t {kind} {where} >> {shlex.quote(path)}"
    else:
        if policy.hashed and not name.startswith("@"):
            name = _hash(name)
        line = f"{name} {key.export_public_key().decode().split(' ')[0]} {_data(key)}"
        command = f"echo {shlex.quote(line)} >> {shlex.quote(path)}"
    folder = os.path.dirname(path)
    make = "" if os.path.isdir(folder) else f"mkdir -p -m 700 {shlex.quote(folder)} && "
    return f"run `{make}{command}`."


def _unchecked(host: str, policy: KeyPolicy, is_jump: bool) -> str:
    """Return a remark for a user whose SSH configuration accepts unknown keys."""
    if policy.strict not in ("no", "off", "false", "accept-new"):
        return ""
    strict = "accept-new" if policy.strict == "accept-new" else "no"  # ``ssh -G`` prints "false" for "no"
    said = f" The SSH configuration says `StrictHostKeyChecking {strict}`, which Handout does not follow."
    if is_jump:
        return f"{said} For a jump host, record the key."
    return f'{said} To accept any key of this host here, write Host({host!r}, ..., ssh={{"known_hosts": None}}).'


def _name(policy: KeyPolicy, port: int) -> str:
    """Return the name of a host as ``known_hosts`` has it. A ``HostKeyAlias`` has no port."""
    return policy.name if port == _SSH_PORT or policy.aliased else f"[{policy.name}]:{port}"


def _hash(name: str) -> str:
    salt = secrets.token_bytes(20)
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def _kind(key: asyncssh.SSHKey) -> str:
    """Return the kind of a key by the name that ``ssh-keyscan -t`` takes, or "" for a kind without such a name."""
    algorithm = key.get_algorithm()
    return next((kind for kind in ("ed25519", "ecdsa", "rsa") if kind in algorithm and "sk-" not in algorithm), "")


def _data(key: asyncssh.SSHKey) -> str:
    return base64.b64encode(key.public_data).decode()
