"""Agents that an earlier controller started, and what they go on with."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handout.protocol.frames import Message, Piece, ProtocolError
from handout.transport.bootstrap import StartedAgent

__all__ = ["FoundAgent", "KnownAgent", "Takeover"]


@dataclass(frozen=True, slots=True)
class KnownAgent:
    """How to reach an agent that a controller started which was lost since."""

    host: str
    started: StartedAgent
    #: Proves that a connection is the controller's.
    token: str


@dataclass(frozen=True, slots=True)
class FoundAgent:
    """What an agent has of earlier runs."""

    #: Attempts that it goes on with, or whose ends nobody has heard of.
    tickets: Sequence[int]
    #: Objects: key and size.
    objects: Sequence[tuple[int, int]]


class Takeover:
    """What an adopted agent says, held back until the run is there that it is about."""

    def __init__(self) -> None:
        self.found: asyncio.Future[tuple[FoundAgent, int]] = asyncio.get_running_loop().create_future()
        self._held: list[Message | Piece] = []

    def hear(self, frames: Sequence[Message | Piece]) -> list[Message | Piece]:
        """Take messages; the first says what the agent has. Answers those that are not about runs.

        Raises:
            ProtocolError: It does not say so.
        """
        now: list[Message | Piece] = []
        for frame in frames:
            name = frame.fields.get("m") if isinstance(frame, Message) else None
            if name == "found" and not self.found.done():
                assert isinstance(frame, Message)
                self.found.set_result(_read(frame.fields))
            elif name == "ran":
                now.append(frame)
            else:
                self._held.append(frame)
        return now

    def release(self) -> list[Message | Piece]:
        """What was said since."""
        held, self._held = self._held, []
        return held


def _read(fields: Mapping[str, Any]) -> tuple[FoundAgent, int]:
    try:
        objects = [(int(key), int(size)) for key, size in zip(fields["key"], fields["size"], strict=True)]
        return FoundAgent([int(ticket) for ticket in fields["ticket"]], objects), int(fields["shift"])
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"message 'found' is not as it should be: {error!r}") from error
