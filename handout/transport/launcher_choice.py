"""Chooses the launcher for each host. No other module knows all kinds of launchers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from handout.resources import Host
from handout.transport.launcher import Launcher
from handout.transport.local_launcher import LocalLauncher
from handout.transport.threads import in_thread

__all__ = ["Launchers"]


class Launchers:
    """Makes the launchers for the hosts of one cluster.

    When the cluster first needs SSH, a thread imports asyncssh, because the caller's event loop must not wait for the
    import. The import takes 0.2 s of CPU time, and several times as long on a busy machine.
    """

    def __init__(self) -> None:
        self._over_ssh: Callable[[Host], Launcher] | None = None
        #: With this lock, the import occupies only one thread of the caller's executor, even if many hosts start at the
        #: same time.
        self._importing = asyncio.Lock()

    async def of(self, host: Host) -> Launcher:
        """Return a new launcher for a host, chosen by the host's entry in the inventory.

        Only this method knows how a host is reached, so a new kind of launcher is added here.
        """
        if host.is_local:
            return LocalLauncher()
        async with self._importing:
            if self._over_ssh is None:
                self._over_ssh = await in_thread(_import_ssh_launcher)
        return self._over_ssh(host)


def _import_ssh_launcher() -> Callable[[Host], Launcher]:
    """Return a function that makes launchers for hosts behind sshd. They share one limit of parallel logins."""
    from handout.transport.ssh_launcher import SshLauncher

    logins = SshLauncher.login_limit()
    return lambda host: SshLauncher(host, logins)
