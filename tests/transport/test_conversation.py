"""The conversation with an agent that the test plays, over connections that drop or garble bytes."""

from __future__ import annotations

import asyncio

import pytest

from handout.errors import HostError, InternalError, WireError
from handout.execution.shell.object_streams import BytesSource
from handout.protocol import messages
from handout.protocol.frames import Message, Piece
from tests.transport.rig import Rig


async def test_messages_pass_both_ways_and_stopping_is_confirmed(rig: Rig) -> None:
    started = await rig.link.open()
    assert started.agent == "a1"
    rig.link.conversation.send(messages.Fetch(1))
    rig.agent.send("two")
    await rig.agent.until(lambda: bool(rig.agent.heard and rig.heard))
    serving = asyncio.ensure_future(rig.link.run())
    await rig.link.stop()
    assert rig.agent.heard == ["fetch", "stop"]
    assert rig.heard == ["two"]
    assert rig.agent.closed == 1
    serving.cancel()


async def test_nonsense_later_is_answered_with_another_connection_and_loses_nothing(rig: Rig) -> None:
    await rig.link.open()
    serving = asyncio.ensure_future(rig.link.run())
    line = rig.agent.line
    assert line is not None
    rig.agent.session.send({"m": "before"})
    good = b"".join(bytes(s) for s in rig.agent.session.take(0.0))
    line.say(good + b"\0" * 40)
    await rig.agent.until(lambda: rig.agent.lines == 2)
    rig.agent.send("after")
    rig.link.conversation.send(messages.Fetch(1))
    await rig.agent.until(lambda: rig.agent.heard == ["fetch"])
    assert rig.heard == ["before", "after"]
    assert not serving.done()
    await rig.link.stop()
    await serving


async def test_nonsense_over_every_connection_ends_the_conversation_with_a_wire_error(rig: Rig) -> None:
    await rig.link.open()
    rig.agent.garbles = True
    assert rig.agent.line is not None
    rig.agent.line.say(b"\0" * 40)
    with pytest.raises(WireError, match="'far'"):
        await rig.link.run()
    assert 2 < rig.agent.lines < 30


async def test_a_mistake_of_the_controllers_ends_the_conversation_instead_of_losing_messages(rig: Rig) -> None:
    def wrong(frame: Message | Piece) -> None:
        raise RuntimeError("a bug")

    await rig.link.open()
    rig.handler = wrong
    rig.agent.send("anything")
    with pytest.raises(InternalError, match="RuntimeError: a bug"):
        await rig.link.run()


async def test_a_dropped_line_is_made_again_and_nothing_is_lost_or_repeated(rig: Rig) -> None:
    await rig.link.open()
    serving = asyncio.ensure_future(rig.link.run())
    rig.link.conversation.send(messages.Fetch(1))
    await rig.agent.until(lambda: rig.agent.heard == ["fetch"])
    rig.agent.unreachable = [HostError("not now"), HostError("not yet")]
    rig.agent.closed_at_once = True
    assert rig.agent.line is not None
    rig.agent.line.close()
    rig.link.conversation.send(messages.Drop([1]))
    rig.agent.session.send({"m": "three"})
    await rig.agent.until(lambda: len(rig.agent.heard) > 1 and bool(rig.heard))
    assert rig.agent.heard == ["fetch", "drop"]
    assert rig.heard == ["three"]
    assert rig.agent.lines == 3
    serving.cancel()


async def test_bulk_resumes_where_the_line_dropped(rig: Rig) -> None:
    await rig.link.open()
    serving = asyncio.ensure_future(rig.link.run())
    data = bytes(range(256)) * 2000
    rig.link.conversation.send_object(7, BytesSource([data[:1000], data[1000:]]))
    await rig.agent.until(lambda: len(rig.agent.bulk) > 0)
    assert rig.agent.line is not None
    rig.agent.line.close()
    await rig.agent.until(lambda: len(rig.agent.bulk) == len(data))
    assert rig.agent.bulk == data
    serving.cancel()


async def test_after_a_mistake_of_the_controllers_an_agent_that_is_not_reached_is_left_to_its_lease(rig: Rig) -> None:
    """`stop` must not raise the same error again, and must close the launcher."""

    def wrong(frame: Message | Piece) -> None:
        raise RuntimeError("a bug")

    await rig.link.open()
    rig.handler = wrong
    rig.agent.send("anything")
    with pytest.raises(InternalError):
        await rig.link.run()
    rig.agent.closes_always = True
    await rig.link.stop(0.1)
    assert not rig.link.agent_ended
    assert rig.agent.closed == 1
