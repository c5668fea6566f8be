"""Agents that an earlier controller started, and that this one takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from handout.protocol import codec, messages
from handout.protocol.frames import Message, Piece, ProtocolError
from handout.transport.bootstrap import StartedAgent

__all__ = ["FoundAgent", "KnownAgent", "Takeover"]

#: Bits of the largest attempt id, which is larger than any other number that an agent reports.
_BITS = 128


@dataclass(frozen=True, slots=True)
class KnownAgent:
    """How to reach an agent that an earlier controller started."""

    host: str
    started: StartedAgent
    #: The secret that a connection shows to be the controller's.
    token: str


@dataclass(frozen=True, slots=True)
class FoundAgent:
    """What an agent holds of earlier runs; see `Holdings`."""

    #: Ids of the attempts that have not ended, or whose ends no controller has confirmed.
    attempt_ids: Sequence[int]
    #: Its objects: key and size in bytes.
    objects: Sequence[tuple[int, int]]


class Takeover:
    """Holds back the messages of an agent that was taken over, until the run that they are about has been submitted."""

    def __init__(self) -> None:
        #: What the agent holds, and the value for `AgentProxy.shift`.
        self.found: asyncio.Future[tuple[FoundAgent, int]] = asyncio.get_running_loop().create_future()
        self._held: list[Message | Piece] = []

    def receive(self, frames: Sequence[Message | Piece]) -> list[Message | Piece]:
        """Hold back the frames about runs, and return the other frames. The first message tells what the agent holds.

        Raises:
            ProtocolError: A message is not what an agent may send.
        """
        now: list[Message | Piece] = []
        for frame in frames:
            message = codec.decode(messages.TO_CONTROLLER, frame.fields)[1] if isinstance(frame, Message) else None
            if isinstance(message, messages.Holdings) and not self.found.done():
                _check(message)
                objects = list(zip(message.keys, message.sizes, strict=True))
                self.found.set_result((FoundAgent(message.attempt_ids, objects), message.shift))
            elif isinstance(message, messages.ProgramEnded):
                now.append(frame)
            else:
                self._held.append(frame)
        return now

    def release(self) -> list[Message | Piece]:
        """Return the frames that were held back."""
        held, self._held = self._held, []
        return held


def _check(message: messages.Holdings) -> None:
    """Check the numbers of a message here. A wrong number would end the run where it is used.

    Raises:
        ProtocolError: One of them is no integer, or is negative, or is too large.
    """
    numbers = [*message.attempt_ids, *message.keys, *message.sizes, message.shift]
    if {*map(type, numbers)} != {int} or min(numbers) < 0 or max(numbers) >= 1 << _BITS:
        raise ProtocolError("a number of what the agent holds is not as it should be")
