"""The interface of launchers, which start an agent on a host and connect to it.

A new kind of host needs a new launcher.
"""

from __future__ import annotations

from typing import Protocol

from handout.transport.bootstrap import Bootstrap, StartedAgent
from handout.transport.byte_stream import Receiver, Transport

__all__ = ["Launcher"]


class Launcher(Protocol):
    """Starts an agent on one host and connects to it. Every call is bounded in time."""

    async def start(self, bootstrap: Bootstrap) -> StartedAgent:
        """Start an agent.

        Raises:
            HostError: The agent did not start. The error says what was tried, and has a remedy.
        """
        ...

    async def connect(self, started: StartedAgent, receiver: Receiver) -> Transport:
        """Open a byte stream to a running agent. If there is no connection to the host any more, make a new one first.

        Raises:
            HostLostError: The agent is gone.
            HostError: The host cannot be reached now. A later try may succeed.
        """
        ...

    def abort(self) -> None:
        """Drop the connection to the host without waiting for an answer. The next call makes a new connection."""
        ...

    async def aclose(self) -> None:
        """Close everything that `start` and `connect` have opened. The agent goes on, because only the link ends it."""
        ...
