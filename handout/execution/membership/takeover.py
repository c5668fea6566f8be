"""Takes over agents that an earlier controller started, so that their tasks and objects are not lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from handout.protocol import codec, messages
from handout.protocol.frames import Message, Piece, ProtocolError
from handout.transport.bootstrap import StartedAgent

__all__ = ["FoundAgent", "KnownAgent", "Takeover"]

#: Numbers with more bits than this are refused. The largest numbers that an agent may report are attempt ids, which may
#: have 128 bits. Some must be left for the ids of later attempts, which have higher numbers.
_BITS = 120
#: Keys with more bits than this are refused. The largest keys are those of checkpoints.
_KEY_BITS = 192


@dataclass(frozen=True, slots=True)
class KnownAgent:
    """What this controller must know to connect to an agent that an earlier controller started."""

    host: str
    started: StartedAgent
    #: The secret by which a controller proves to the agent that it may connect.
    token: str


@dataclass(frozen=True, slots=True)
class FoundAgent:
    """The attempts and objects of earlier runs that an agent holds; see `Holdings`."""

    #: Ids of attempts that have not ended, or whose end no controller has confirmed.
    attempt_ids: Sequence[int]
    #: The key and the size in bytes of each object.
    objects: Sequence[tuple[int, int]]
    #: For each attempt that has not ended, the number of the attempt that its task was told.
    shown: Mapping[int, int]


class Takeover:
    """Holds back the messages of an agent that was taken over, until the run that they are about has been submitted."""

    def __init__(self) -> None:
        #: Done when the agent has reported its attempts and objects. The result has the report, and the number for
        #: `AgentProxy.shift`.
        self.found: asyncio.Future[tuple[FoundAgent, int]] = asyncio.get_running_loop().create_future()
        self._held: list[Message | Piece] = []

    def receive(self, frames: Sequence[Message | Piece]) -> list[Message | Piece]:
        """Hold back the frames about runs, and return the other frames. A frame is a message or a piece of a stream.

        The first `Holdings` message completes `found`.

        Raises:
            ProtocolError: An agent may not send such a message.
        """
        now: list[Message | Piece] = []
        for frame in frames:
            message = codec.decode(messages.TO_CONTROLLER, frame.fields)[1] if isinstance(frame, Message) else None
            if isinstance(message, messages.Holdings) and not self.found.done():
                _check(message)
                objects = list(zip(message.keys, message.sizes, strict=True))
                shown = dict(zip(message.attempt_ids, message.attempt_numbers, strict=False))
                self.found.set_result((FoundAgent(message.attempt_ids, objects, shown), message.shift))
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
    """Check the numbers of a message. A wrong number would end the run later, when the controller uses the number.

    Raises:
        ProtocolError: A number is not an integer, is negative or is too large.
    """
    numbers = [*message.attempt_ids, *message.sizes, message.shift, *message.attempt_numbers]
    keys = message.keys
    if (
        {*map(type, numbers), *map(type, keys)} != {int}
        or min([*numbers, *keys]) < 0
        or max(numbers) >= 1 << _BITS
        or max(keys, default=0) >= 1 << _KEY_BITS
    ):
        raise ProtocolError("the agent's list of attempts and objects contains a number that is not possible")
