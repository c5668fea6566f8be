"""A launcher that refuses to start and to connect while the network to its host is said to be down."""

from __future__ import annotations

from collections.abc import Mapping

from handout.errors import HostUnreachableError
from handout.transport.bootstrap import Bootstrap, StartedAgent
from handout.transport.byte_stream import Receiver, Transport
from handout.transport.launcher import Launcher

__all__ = ["RefusingLauncher"]


class RefusingLauncher:
    """Passes all calls on to another launcher, except those that are refused.

    Args:
        launcher: The other launcher.
        host: The name of the host.
        no_starts: The hosts on which no agent may start, each with the reason.
        no_connections: The hosts to which nothing may connect, each with the reason.
    """

    def __init__(
        self, launcher: Launcher, host: str, no_starts: Mapping[str, str], no_connections: Mapping[str, str]
    ) -> None:
        self._launcher = launcher
        self._host = host
        self._no_starts = no_starts
        self._no_connections = no_connections

    async def start(self, bootstrap: Bootstrap) -> StartedAgent:
        """See `Launcher`."""
        self._refuse(self._no_starts)
        self._refuse(self._no_connections)
        return await self._launcher.start(bootstrap)

    async def connect(self, started: StartedAgent, receiver: Receiver) -> Transport:
        """See `Launcher`."""
        self._refuse(self._no_connections)
        return await self._launcher.connect(started, receiver)

    def _refuse(self, refused: Mapping[str, str]) -> None:
        reason = refused.get(self._host)
        if reason is not None:
            raise HostUnreachableError(f"Host {self._host!r} cannot be reached: {reason}.", host=self._host)

    def abort(self) -> None:
        """See `Launcher`."""
        self._launcher.abort()

    async def aclose(self) -> None:
        """See `Launcher`."""
        await self._launcher.aclose()
