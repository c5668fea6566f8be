"""A link and an agent that is played by the test, in memory: connections come, drop, and talk nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import pytest_asyncio

from handout.agent.wire import Message, Piece
from handout.errors import (
    AuthenticationError,
    BootstrapError,
    HostError,
    HostKeyError,
    HostLostError,
    HostUnreachableError,
    InternalError,
    WireError,
)
from handout.execution.transfers import BytesSource
from handout.remote.link import Link, Timings
from tests.remote.played import Agent

QUICK = Timings().scaled(0.02)


class Rig:
    """A link to a played agent."""

    def __init__(self, timings: Timings = QUICK) -> None:
        self.agent = Agent()
        self.heard: list[str] = []
        self.suspicions: list[bool] = []
        self.handler: Callable[[Message | Piece], None] = self._take
        self.link = Link("far", None, self.agent, timings, self._hear, self.suspicions.append)

    def _hear(self, frames: Sequence[Message | Piece]) -> None:
        for frame in frames:
            self.handler(frame)

    def _take(self, frame: Message | Piece) -> None:
        assert isinstance(frame, Message)
        self.heard.append(frame.fields["m"])
        self.agent.news.set()


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    """With an agent that behaves until told otherwise."""
    rig = Rig()
    yield rig
    await rig.link.abandon()


async def test_messages_pass_both_ways_and_stopping_is_confirmed(rig: Rig) -> None:
    started = await rig.link.open()
    assert started.agent == "a1"
    rig.link.send({"m": "one"})
    rig.agent.send("two")
    await rig.agent.until(lambda: bool(rig.agent.heard and rig.heard))
    serving = asyncio.ensure_future(rig.link.run())
    await rig.link.stop()
    assert rig.agent.heard == ["one", "stop"]
    assert rig.heard == ["two"]
    assert rig.agent.closed == 1
    serving.cancel()


async def test_a_refused_handshake_means_that_the_agent_is_gone(rig: Rig) -> None:
    rig.agent.refusal = "another agent was meant"
    with pytest.raises(HostLostError, match=r"'far' is gone: another agent was meant") as caught:
        await rig.link.open()
    assert caught.value.gone


async def test_another_agent_in_its_place_means_that_it_is_gone(rig: Rig) -> None:
    rig.agent.identity = "a2"
    with pytest.raises(HostLostError, match="another one answered"):
        await rig.link.open()


async def test_nonsense_instead_of_a_hello_is_a_wire_error(rig: Rig) -> None:
    rig.agent.answer = b"SSH-2.0-OpenSSH_9.2 this is no agent"
    with pytest.raises(WireError, match=r"'far' sent what is not allowed.*SSH-2\.0"):
        await rig.link.open()


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
    rig.link.send({"m": "heard"})
    await rig.agent.until(lambda: rig.agent.heard == ["heard"])
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


async def test_a_mistake_of_ours_ends_the_conversation_instead_of_losing_messages(rig: Rig) -> None:
    def wrong(frame: Message | Piece) -> None:
        raise RuntimeError("a bug")

    await rig.link.open()
    rig.handler = wrong
    rig.agent.send("anything")
    with pytest.raises(InternalError, match="RuntimeError: a bug"):
        await rig.link.run()


async def test_a_connection_that_is_closed_before_the_first_hello_is_made_again(rig: Rig) -> None:
    rig.agent.closed_at_once = True
    rig.agent.unreachable = [HostUnreachableError("not now")]
    assert (await rig.link.open()).agent == "a1"
    assert rig.agent.lines == 2


async def test_a_first_handshake_that_never_succeeds_is_given_up_in_the_time_of_the_lease(rig: Rig) -> None:
    rig.agent.closes_always = True
    async with asyncio.timeout(5):
        with pytest.raises(HostUnreachableError, match=r"'far' closed the connection"):
            await rig.link.open()
    assert rig.agent.lines > 2


@pytest.mark.parametrize("kind", [AuthenticationError, HostKeyError, BootstrapError, HostError])
async def test_what_another_try_cannot_mend_ends_the_first_handshake_at_once(rig: Rig, kind: type[HostError]) -> None:
    rig.agent.unreachable = [kind("it is so")]
    with pytest.raises(kind, match="it is so"):
        await rig.link.open()
    assert rig.agent.lines == 0


async def test_stopping_ends_attempts_at_the_first_handshake(rig: Rig) -> None:
    rig.agent.unreachable = [HostUnreachableError("down") for _ in range(10_000)]
    opening = asyncio.ensure_future(rig.link.open())
    async with asyncio.timeout(10):
        while len(rig.agent.unreachable) > 9_999:
            await asyncio.sleep(0)
    await rig.link.stop(0.1)
    with pytest.raises(HostError, match="let go"):
        await opening


async def test_a_dropped_line_is_made_again_and_nothing_is_lost_or_repeated(rig: Rig) -> None:
    await rig.link.open()
    serving = asyncio.ensure_future(rig.link.run())
    rig.link.send({"m": "one"})
    await rig.agent.until(lambda: rig.agent.heard == ["one"])
    rig.agent.unreachable = [HostError("not now"), HostError("not yet")]
    rig.agent.closed_at_once = True
    assert rig.agent.line is not None
    rig.agent.line.close()
    rig.link.send({"m": "two"})
    rig.agent.session.send({"m": "three"})
    await rig.agent.until(lambda: len(rig.agent.heard) > 1 and bool(rig.heard))
    assert rig.agent.heard == ["one", "two"]
    assert rig.heard == ["three"]
    assert rig.agent.lines == 3
    serving.cancel()


async def test_bulk_resumes_where_the_line_dropped(rig: Rig) -> None:
    await rig.link.open()
    serving = asyncio.ensure_future(rig.link.run())
    data = bytes(range(256)) * 2000
    rig.link.send_object(7, BytesSource([data[:1000], data[1000:]]))
    await rig.agent.until(lambda: len(rig.agent.bulk) > 0)
    assert rig.agent.line is not None
    rig.agent.line.close()
    await rig.agent.until(lambda: len(rig.agent.bulk) == len(data))
    assert rig.agent.bulk == data
    serving.cancel()


async def test_a_silent_line_is_suspected_then_made_from_scratch(rig: Rig) -> None:
    await rig.link.open()
    serving = asyncio.ensure_future(rig.link.run())
    rig.agent.mute = True
    first = rig.agent.lines
    async with asyncio.timeout(10):
        while rig.agent.lines == first:
            await asyncio.sleep(0)
    assert rig.suspicions == [True]
    assert rig.agent.aborted == 1
    rig.agent.mute = False
    serving.cancel()


async def test_silence_beyond_the_lease_loses_the_host(rig: Rig) -> None:
    await rig.link.open()
    rig.agent.mute = True
    with pytest.raises(HostLostError, match=r"'far' was silent for 0\.3 s") as caught:
        await rig.link.run()
    assert not caught.value.gone


async def test_an_agent_that_is_gone_when_the_line_is_made_again_is_told_at_once(rig: Rig) -> None:
    await rig.link.open()
    rig.agent.refusal = "another agent was meant"
    assert rig.agent.line is not None
    rig.agent.line.close()
    with pytest.raises(HostLostError) as caught:
        await rig.link.run()
    assert caught.value.gone


async def test_stopping_ends_attempts_to_make_the_line_again(rig: Rig) -> None:
    await rig.link.open()
    serving = asyncio.ensure_future(rig.link.run())
    rig.agent.unreachable = [HostError("down") for _ in range(10_000)]
    assert rig.agent.line is not None
    rig.agent.line.close()
    async with asyncio.timeout(10):
        while len(rig.agent.unreachable) > 9_999:
            await asyncio.sleep(0)
    await rig.link.stop()
    async with asyncio.timeout(10):
        await serving
    assert rig.agent.closed == 1


async def test_an_agent_that_is_being_started_when_its_caller_is_cancelled_is_stopped(rig: Rig) -> None:
    rig.agent.may_start.clear()
    opening = asyncio.ensure_future(rig.link.open())
    await rig.agent.asked_to_start.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    stopping = asyncio.ensure_future(rig.link.stop())
    await asyncio.sleep(0)
    rig.agent.may_start.set()
    await stopping
    await rig.link.stop()
    assert rig.agent.heard == ["stop"]
    assert rig.agent.closed == 1


async def test_a_host_that_is_still_being_logged_in_to_is_not_waited_for(rig: Rig) -> None:
    rig.agent.may_start.clear()
    rig.agent.begins = False
    opening = asyncio.ensure_future(rig.link.open())
    await rig.agent.asked_to_start.wait()
    async with asyncio.timeout(1):
        await rig.link.stop()
    with pytest.raises(HostError, match="is being let go"):
        await opening
    assert rig.agent.lines == 0
