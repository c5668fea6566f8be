"""Translates what the user's SSH configuration says into arguments for ``asyncssh.connect``."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any

import asyncssh
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs
from asyncssh.public_key import get_certificate_algs, get_public_key_algs

from handout.errors import InventoryError
from handout.transport.host_keys import revoked_lines
from handout.transport.ssh_configuration import Configured

__all__ = ["connect_options", "refuse_known_hosts_command", "revoked_keys_file"]

logger = logging.getLogger("handout.link")

_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
#: Switches that always count. `ssh` and asyncssh have different defaults for some of them.
_SWITCHES = {
    "gssapiauthentication": "gss_auth",
    "gssapidelegatecredentials": "gss_delegate_creds",
    "hostbasedauthentication": "host_based_auth",
    "kbdinteractiveauthentication": "kbdint_auth",
    "passwordauthentication": "password_auth",
    "pubkeyauthentication": "public_key_auth",
    "tcpkeepalive": "tcp_keepalive",
}
#: Lists of algorithms. They count only if the configuration sets them, because asyncssh's own order is faster.
_ALGORITHMS: dict[str, tuple[str, Callable[[], list[bytes]]]] = {
    "ciphers": ("encryption_algs", get_encryption_algs),
    "macs": ("mac_algs", get_mac_algs),
    "kexalgorithms": ("kex_algs", get_kex_algs),
    "hostkeyalgorithms": ("server_host_key_algs", lambda: get_certificate_algs() + get_public_key_algs()),
    "pubkeyacceptedalgorithms": ("signature_algs", get_public_key_algs),
}


def connect_options(configured: Configured, host: str) -> dict[str, Any]:
    """Return the arguments for ``asyncssh.connect``, apart from those for host keys and for jump hosts.

    Args:
        configured: What the configuration says about the host to connect to.
        host: The name of the inventory's host, for messages.

    Raises:
        InventoryError: The configuration allows only algorithms that asyncssh does not have.
    """
    options: dict[str, Any] = {
        "config": [],
        "host": configured.address,
        "port": configured.port,
        "username": configured.username,
        **{name: configured.is_on(option) for option, name in _SWITCHES.items()},
        **_keys(configured),
        **_line(configured),
    }
    for option, (name, known) in _ALGORITHMS.items():
        if configured.is_set(option):
            options[name] = _algorithms(configured, option, {each.decode() for each in known()}, host)
    if configured.is_set("preferredauthentications"):
        options["preferred_auth"] = configured.get("preferredauthentications").split(",")
    if configured.get("hostkeyalias", "none") != "none":
        options["host_key_alias"] = configured.get("hostkeyalias")
    if (forward := configured.get("forwardagent", "no")) != "no":
        options["agent_forwarding"] = True if forward in ("yes", "true") else configured.path(forward)
    if configured.all("setenv"):
        options["env"] = dict(each.split("=", 1) for each in configured.all("setenv") if "=" in each)
    if configured.all("sendenv"):
        options["send_env"] = [word for each in configured.all("sendenv") for word in each.split()]
    return options


def refuse_known_hosts_command(configured: Configured, host: str) -> None:
    """Refuse a configuration that gets the known keys from a program.

    Raises:
        InventoryError: The configuration has ``KnownHostsCommand``.
    """
    if configured.get("knownhostscommand", "none") != "none":
        raise InventoryError(
            f"Host {host!r}: the SSH configuration has KnownHostsCommand, which Handout does not run.",
            remedy="Write the known keys into a file of UserKnownHostsFile, and set `KnownHostsCommand none`.",
            host=host,
        )


def revoked_keys_file(configured: Configured, host: str) -> str | None:
    """Return the file of the configuration's ``RevokedHostKeys``, or None.

    Raises:
        InventoryError: A part of the file cannot be honoured. `ssh` then refuses every host, too.
    """
    named = configured.get("revokedhostkeys", "none")
    if named == "none":
        return None
    path = configured.path(named)
    try:
        with open(path, "rb") as file:
            wrong = "is a key revocation list (KRL), which Handout cannot read" if file.read(6) == b"SSHKRL" else ""
        for number, line in () if wrong else revoked_lines(path):
            try:
                asyncssh.import_public_key(line)
            except asyncssh.KeyImportError:
                wrong = f"has no public key in line {number}"
                break
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
    if wrong:
        raise InventoryError(
            f"Host {host!r}: {path!r}, the file of RevokedHostKeys in the SSH configuration, {wrong}.",
            remedy="Name a file with one revoked public key in each line.",
            host=host,
        )
    return path


def _line(configured: Configured) -> dict[str, Any]:
    """Return the arguments about the connection itself."""
    options: dict[str, Any] = {
        "keepalive_interval": _seconds(configured.get("serveraliveinterval", "0")),
        "keepalive_count_max": _seconds(configured.get("serveralivecountmax", "3")) or 1,
    }
    if (family := _FAMILIES.get(configured.get("addressfamily"))) is not None:
        options["family"] = family
    if configured.get("bindaddress", "none") != "none":
        options["local_addr"] = (configured.get("bindaddress"), 0)
    if configured.is_on("compression"):
        options["compression_algs"] = "zlib@openssh.com,zlib,none"
    if connect_s := _seconds(configured.get("connecttimeout", "none")):
        options["connect_timeout"] = connect_s
    nbytes, _, seconds = configured.get("rekeylimit", "0 0").partition(" ")
    if _seconds(nbytes):
        options["rekey_bytes"] = _seconds(nbytes)
    if _seconds(seconds):
        options["rekey_seconds"] = _seconds(seconds)
    command = configured.proxy_command
    if command is not None and not configured.jumps:
        options["proxy_command"] = command
    return options


def _seconds(text: str) -> int:
    """Return a number that ``ssh -G`` printed, or 0 for ``none``."""
    return int(text) if text.isdigit() else 0


def _algorithms(configured: Configured, option: str, known: set[str], host: str) -> list[str]:
    named = configured.get(option).split(",")
    both = [name for name in named if name in known]
    if not both:
        raise InventoryError(
            f"Host {host!r}: the SSH configuration allows only {', '.join(named)} for {option!r}, and Handout's SSH "
            "library has none of them.",
            remedy="Allow another one in the SSH configuration.",
            host=host,
        )
    return both


def _keys(configured: Configured) -> dict[str, Any]:
    """Return the arguments about the user's keys."""
    files = configured.identity_files
    options: dict[str, Any] = {"ignore_encrypted": True}
    if certificates := _certificates(configured):
        options["client_certs"] = certificates
    if configured.is_set("identityfile"):
        options["client_keys"] = [path for path in files if _is_key(path)]
    if configured.is_on("identitiesonly"):
        # An empty list would mean that every key of the user's ssh-agent may be tried.
        options["agent_identities"] = [data for path in files if (data := _public_data(path))] or [b"none"]
    agent = configured.get("identityagent", "SSH_AUTH_SOCK")
    if agent == "none":
        options["agent_path"] = None
    elif agent != "SSH_AUTH_SOCK":
        options["agent_path"] = os.environ.get(agent[1:], "") if agent.startswith("$") else configured.path(agent)
    if configured.is_set("pkcs11provider") and configured.get("pkcs11provider") not in ("none", "internal"):
        options["pkcs11_provider"] = configured.get("pkcs11provider")
    return options


def _certificates(configured: Configured) -> list[str]:
    return [path for each in configured.all("certificatefile") if os.path.isfile(path := configured.path(each))]


def _is_key(path: str) -> bool:
    """Return True if a file has a private key that may be used. `ssh` skips others too."""
    try:
        asyncssh.read_private_key(path)
    except asyncssh.KeyEncryptionError:
        return True
    except asyncssh.KeyImportError as error:
        if str(error).startswith("Passphrase"):
            return True
        if not _public_data(path):
            logger.warning("The key file %s of the SSH configuration is not used: %s.", path, error)
        return False
    return True


def _public_data(path: str) -> bytes:
    """Return the public key that belongs to an identity file, or no bytes if it cannot be read."""
    for read, name in ((asyncssh.read_public_key, f"{path}.pub"), (asyncssh.read_public_key, path)):
        try:
            return read(name).public_data
        except (OSError, asyncssh.KeyImportError):
            pass
    try:
        return asyncssh.read_private_key(path).public_data
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
        return b""
