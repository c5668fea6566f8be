"""Makes the error for an unknown host key.

Before a login, asyncssh checks the host's key against ``known_hosts``. If the key is unknown, asyncssh ends the
connection. The check is on by default. ``Host(..., ssh={"known_hosts": None})`` turns the check off for one host.
"""

from __future__ import annotations

import asyncssh

from handout.errors import HostKeyError
from handout.resources import Host

__all__ = ["unknown_key_error"]


def unknown_key_error(host: Host, error: asyncssh.HostKeyNotVerifiable) -> HostKeyError:
    """Return the error for a host whose key differs from the one in ``known_hosts``, or is not in that file at all."""
    where, port = host.address or host.name, host.port
    return HostKeyError(
        f"Host {host.name!r} showed a host key that known_hosts does not have for this host: {error.reason}.",
        remedy=f"Compare the key with the host's own by hand. If known_hosts has an old key, run `ssh-keygen -R "
        f"{_name_in_known_hosts(where, port)}`. Then run `ssh-keyscan -p {port} {where} >> ~/.ssh/known_hosts`.",
        host=host.name,
    )


def _name_in_known_hosts(where: str, port: int) -> str:
    return where if port == 22 else f"'[{where}]:{port}'"
