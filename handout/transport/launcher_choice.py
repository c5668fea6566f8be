"""Which launcher reaches a host: the one place that knows all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from handout.resources import Host
from handout.transport.launcher import Launcher
from handout.transport.local_launcher import LocalLauncher
from handout.transport.threads import in_thread

__all__ = ["Launchers"]


class Launchers:
    """Makes the launchers of one cluster's hosts, and holds what these share.

    asyncssh is imported when the first host is reached over SSH, in a thread: the import takes 0.2 s of CPU time, and
    several times that on a busy machine, for which the caller's event loop must not wait.
    """

    def __init__(self) -> None:
        self._over_ssh: Callable[[Host], Launcher] | None = None
        #: Hosts start at the same time: one thread imports, and takes no more of the caller's executor.
        self._importing = asyncio.Lock()

    async def of(self, host: Host) -> Launcher:
        """Return a new launcher for a host, chosen by the host's entry in the inventory.

        A new kind of launcher is added here: nothing else in the controller asks how a host is reached.
        """
        if host.is_local:
            return LocalLauncher()
        async with self._importing:
            if self._over_ssh is None:
                self._over_ssh = await in_thread(_import_ssh_launcher)
        return self._over_ssh(host)


def _import_ssh_launcher() -> Callable[[Host], Launcher]:
    """Return what makes the launchers of hosts behind sshd; they share one limit of parallel logins."""
    from handout.transport.ssh_launcher import SshLauncher

    logins = SshLauncher.login_limit()
    return lambda host: SshLauncher(host, logins)
