"""The first words on a connection: which agent is meant, and whether it is that one who answers."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from handout.errors import HostLostError, HostUnreachableError
from handout.transport.connection import Connection

__all__ = ["HANDSHAKE_TIMEOUT_S", "greeting", "refusal", "shake_hands"]

HANDSHAKE_TIMEOUT_S = 10.0
#: Counts all connections from here: an agent does not hear one that was slow on the way and comes after a later one.
_connection_numbers = itertools.count(1)


def greeting(agent: str, token: str, conversation: str, *, taking_over: bool) -> dict[str, Any]:
    """What a hello says, but for how far the conversation got.

    Args:
        agent: What the agent that is meant calls itself.
        token: What proves to it that this is the controller.
        conversation: What the conversation is called that is to go on.
        adopting: Whether it takes the place of another controller's.
    """
    fields = {"token": token, "agent": agent, "conversation": conversation, "ticket": next(_connection_numbers)}
    return {**fields, "adopt": True} if taking_over else fields


async def shake_hands(connection: Connection, hello: bytes, host: str) -> dict[str, Any]:
    """Say hello; answers with what is answered.

    Raises:
        TimeoutError: No answer came.
        HostUnreachableError: The connection ended.
    """
    try:
        # It may be closed already: then writing says so, or the hello never comes.
        connection.write([hello])
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            return await connection.hello
    except TimeoutError:
        raise
    except OSError as error:
        raise HostUnreachableError(
            f"Host {host!r} closed the connection: {error}.", remedy="Check the line to it.", host=host
        ) from None


def refusal(answer: dict[str, Any], agent: str, host: str) -> HostLostError | None:
    """Why the agent that is meant is gone, if it is, by what was answered."""
    if "error" not in answer and answer.get("agent") == agent:
        return None
    return HostLostError(
        f"The agent on host {host!r} is gone: {answer.get('error', 'another one answered')}.",
        remedy="Its tasks run elsewhere; another agent is started there.",
        host=host,
        gone=True,
    )
