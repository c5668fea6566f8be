"""How an agent comes to be on a host and is reached there: the one seam between hosts and everything else."""

from __future__ import annotations

from typing import Protocol

from handout.transport.bootstrap import Bootstrap, StartedAgent
from handout.transport.byte_stream import Receiver, Transport

__all__ = ["Launcher"]


class Launcher(Protocol):
    """Starts an agent on one host and connects to it; every call is bounded in time."""

    async def start(self, bootstrap: Bootstrap) -> StartedAgent:
        """Start an agent.

        Raises:
            HostError: With what was tried and the remedy.
        """
        ...

    async def connect(self, started: StartedAgent, receiver: Receiver) -> Transport:
        """Open a byte stream to an agent that runs, on a new connection where the last one is gone.

        Raises:
            HostError: It cannot be reached now; trying again later may help.
        """
        ...

    def abort(self) -> None:
        """Drop the connection at once, because nothing comes over it any more; the next one is made anew."""
        ...

    async def aclose(self) -> None:
        """Close what :meth:`start` and :meth:`connect` opened; the agent itself is stopped over its link."""
        ...
