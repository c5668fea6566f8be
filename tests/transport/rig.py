"""A link to an agent that the test plays, and doubles for the listener and the transport of a connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from handout.protocol.frames import Buffer, Message, Piece
from handout.transport.agent_link import AgentLink
from handout.transport.connection import Connection
from handout.transport.timings import Timings
from tests.transport.played import Agent

__all__ = ["Heard", "Rig", "Wire"]

DEFAULTS = Timings()
#: For tests in which a lease ends: it is 1.5 s, because a shorter one could end by itself on a busy machine.
QUICK = Timings().scaled(0.1)


class Rig:
    """A link to an agent that the test plays."""

    def __init__(self, timings: Timings = DEFAULTS) -> None:
        self.agent = Agent()
        self.heard: list[str] = []
        self.suspicions: list[bool] = []
        self.handler: Callable[[Message | Piece], None] = self._take
        self.link = AgentLink("far", None, self.agent, timings, self._hear, self.suspicions.append)

    def _hear(self, frames: Sequence[Message | Piece]) -> None:
        for frame in frames:
            self.handler(frame)

    def _take(self, frame: Message | Piece) -> None:
        assert isinstance(frame, Message)
        self.heard.append(frame.fields["m"])
        self.agent.news.set()


class Heard:
    """A connection's listener that records its calls."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def received(self, connection: Connection, data: bytes) -> None:
        self.said.append("received")

    def resumed(self) -> None:
        self.said.append("resumed")

    def lost(self, connection: Connection) -> None:
        self.said.append("lost")


class Wire:
    """A transport that records the bytes written to it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: Buffer) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        return
