"""The handshake on a new connection, and the errors if no agent or a wrong agent answers."""

from __future__ import annotations

import asyncio

import pytest

from handout.errors import HostLostError, HostUnreachableError, WireError
from handout.transport import handshake
from handout.transport.bootstrap import StartedAgent
from handout.transport.connection import Connection
from handout.transport.handshake import greeting, refusal, shake_hands
from handout.transport.timings import Timings
from tests.patience import HANG_S
from tests.transport.rig import Heard, Rig, Wire


async def test_a_refused_handshake_means_that_the_agent_is_gone(rig: Rig) -> None:
    rig.agent.refusal = "the controller asked for another agent"
    with pytest.raises(HostLostError, match=r"'far' is gone: the controller asked for another agent") as caught:
        await rig.link.open()
    assert caught.value.gone


async def test_another_agent_in_its_place_means_that_it_is_gone(rig: Rig) -> None:
    rig.agent.identity = "a2"
    with pytest.raises(HostLostError, match="another agent answered"):
        await rig.link.open()


async def test_nonsense_instead_of_a_hello_is_a_wire_error(rig: Rig) -> None:
    rig.agent.answer = b"SSH-2.0-OpenSSH_9.2 this is no agent"
    with pytest.raises(WireError, match=r"'far' broke the protocol.*SSH-2\.0"):
        await rig.link.open()


async def test_waiting_for_an_agent_that_does_not_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "HANDSHAKE_TIMEOUT_S", 0.01)
    connection, wire = Connection(Heard()), Wire()
    connection.transport = wire
    with pytest.raises(TimeoutError):
        await shake_hands(connection, b"hello", "far")
    assert wire.written == [b"hello"]


async def test_a_line_without_an_answer_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(Timings().scaled(0.5))
    monkeypatch.setattr(handshake, "HANDSHAKE_TIMEOUT_S", 0.01)
    rig.agent.mute = True
    opening = asyncio.ensure_future(rig.link.open())
    async with asyncio.timeout(HANG_S):
        while not rig.agent.aborted:
            await asyncio.sleep(0)
        monkeypatch.undo()
        rig.agent.mute = False
        await opening
    assert rig.agent.aborted == 1
    assert rig.agent.lines == 2


async def test_a_host_without_an_answer_is_named(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "HANDSHAKE_TIMEOUT_S", 0.01)
    rig.agent.mute = True
    with pytest.raises(HostUnreachableError, match=r"'far' did not answer the handshake within \d+ s"):
        await rig.link.take_over(StartedAgent("/f", "/f/s", "/f/b", "python", (3, 12, 0), {}, True, "a1"), "token", 0.1)


async def test_a_connection_that_ends_before_the_answer_is_unreachable() -> None:
    connection = Connection(Heard())
    connection.transport = Wire()
    connection.lost(OSError("cut"))
    with pytest.raises(HostUnreachableError, match="'far' closed the connection: cut"):
        await shake_hands(connection, b"hello", "far")


def test_a_hello_says_if_it_takes_over_and_has_a_higher_number_than_the_last() -> None:
    first = greeting("a1", "secret", "c", taking_over=False)
    second = greeting("a1", "secret", "c", taking_over=True)
    assert first == {"token": "secret", "agent": "a1", "conversation": "c", "connection": first["connection"]}
    assert second == {**first, "connection": first["connection"] + 1, "takeover": True}


def test_the_agent_that_was_meant_is_not_gone() -> None:
    assert refusal({"agent": "a1"}, "a1", "far") is None
