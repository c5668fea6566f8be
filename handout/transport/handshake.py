"""The first exchange on a connection: the controller names an agent, and checks that this agent answers.

Each side sends one message, which is called its hello.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from handout.errors import HostLostError, HostUnreachableError
from handout.protocol import codec, messages
from handout.transport.connection import Connection

__all__ = ["HANDSHAKE_TIMEOUT_S", "greeting", "refusal", "shake_hands"]

HANDSHAKE_TIMEOUT_S = 10.0
#: Gives each connection of this process a number. An agent refuses a connection whose number is lower than that of its
#: present connection, because the controller made the refused connection earlier, and only its bytes arrived later.
_connection_numbers = itertools.count(1)


def greeting(agent: str, token: str, conversation: str, *, taking_over: bool) -> dict[str, Any]:
    """Return the fields of the controller's hello, without the state that says what this side has received so far.

    Args:
        agent: The name of the agent that is to answer.
        token: The secret that proves to the agent that this is the controller.
        conversation: The name of the conversation that uses the connection.
        taking_over: True if this controller takes the agent over from another controller.
    """
    return codec.encode_hello(messages.Greeting(token, agent, conversation, next(_connection_numbers), taking_over))


async def shake_hands(connection: Connection, hello: bytes, host: str) -> dict[str, Any]:
    """Send the controller's hello, and return the fields of the agent's hello.

    Raises:
        TimeoutError: No hello came within `HANDSHAKE_TIMEOUT_S`.
        HostUnreachableError: The connection ended.
    """
    try:
        # If the connection is closed already, either the write or the wait raises OSError.
        connection.write([hello])
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            return await connection.hello
    except TimeoutError:
        raise
    except OSError as error:
        raise HostUnreachableError(
            f"Host {host!r} closed the connection: {error}.",
            remedy="Check the network between the controller and the host.",
            host=host,
        ) from None


def refusal(answer: dict[str, Any], agent: str, host: str) -> HostLostError | None:
    """Return an error if another agent answered, or if the agent refused. Return None otherwise.

    Raises:
        ProtocolError: The answer is not an agent's hello.
    """
    welcome = codec.decode_hello(messages.Welcome, answer)
    if not welcome.error and welcome.agent == agent:
        return None
    return HostLostError(
        f"The agent on host {host!r} is gone: {welcome.error or 'another agent answered'}.",
        remedy="The controller runs the agent's tasks on other hosts, and starts another agent.",
        host=host,
        gone=True,
    )
