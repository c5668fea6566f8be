"""A link and an agent that is played by the test, in memory: connections come, drop, and talk nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import pytest_asyncio

from handout.agent.session import Session
from handout.agent.wire import Hello, Message, Piece
from handout.errors import HostError, HostLostError, InternalError, WireError
from handout.execution.transfers import BytesSource
from handout.remote.bootstrap import Bootstrap, Started
from handout.remote.link import Link, Timings
from handout.remote.transport import Receiver, Transport

QUICK = Timings().scaled(0.02)


class Line:
    """One connection as the agent has it, and the transport that the link writes to."""

    def __init__(self, agent: Agent, receiver: Receiver) -> None:
        self.agent = agent
        self.receiver = receiver
        self.is_open = True

    def write(self, data: bytes) -> None:
        if not self.is_open:
            raise BrokenPipeError("not open for sending")
        asyncio.get_running_loop().call_soon(self.agent.hear, self, bytes(data))

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            asyncio.get_running_loop().call_soon(self.receiver.lost, None)

    def say(self, data: bytes) -> None:
        if self.is_open:
            asyncio.get_running_loop().call_soon(self.receiver.received, data)


class Agent:
    """The other side, and the launcher that reaches it."""

    def __init__(self) -> None:
        self.session = Session(heartbeat_s=1.0, now=0.0)
        self.line: Line | None = None
        self.lines = 0
        self.identity = "a1"
        #: What it says instead of its hello.
        self.answer: bytes | None = None
        #: An error in its hello.
        self.refusal: str | None = None
        self.mute = False
        #: Raised by the next connections, in turn.
        self.unreachable: list[Exception] = []
        self.closed_at_once = False
        self.heard: list[str] = []
        self.bulk = bytearray()
        self.aborted = self.closed = 0
        self.news = asyncio.Event()

    # ---- as a launcher

    async def start(self, bootstrap: Bootstrap) -> Started:
        return Started("/f", "/f/s", "/f/b", "python", (3, 12, 0), {}, True, "a1")

    async def connect(self, started: Started, receiver: Receiver) -> Transport:
        await asyncio.sleep(0)
        if self.unreachable:
            raise self.unreachable.pop(0)
        line = Line(self, receiver)
        self.lines += 1
        if self.closed_at_once:
            self.closed_at_once = False
            line.is_open = False
            receiver.lost(None)
        return line

    def abort(self) -> None:
        self.aborted += 1

    async def aclose(self) -> None:
        self.closed += 1

    # ---- as an agent

    def hear(self, line: Line, data: bytes) -> None:
        if self.mute or not line.is_open:
            return
        if line is not self.line:
            self.line = line
            self.session.open(0.0)
        for frame in self.session.receive(data, 0.0):
            if isinstance(frame, Hello):
                self.welcome(line, frame)
            elif isinstance(frame, Message):
                self.heard.append(frame.fields["m"])
                if frame.fields["m"] == "stop":
                    line.close()
            elif isinstance(frame, Piece):
                self.bulk += frame.data
        self.flush()
        self.news.set()

    def welcome(self, line: Line, hello: Hello) -> None:
        if self.answer is not None:
            line.say(self.answer)
            return
        fields: dict[str, Any] = {"agent": self.identity}
        if self.refusal is not None:
            fields["error"] = self.refusal
        line.say(self.session.hello(fields))
        self.session.attach(hello.fields["state"], 0.0)

    def flush(self) -> None:
        if self.line is not None:
            self.line.say(b"".join(bytes(s) for s in self.session.take(0.0)))

    def send(self, name: str) -> None:
        self.session.send({"m": name})
        self.flush()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.news.clear()
                await self.news.wait()


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


async def test_nonsense_later_ends_the_conversation_with_a_wire_error(rig: Rig) -> None:
    await rig.link.open()
    assert rig.agent.line is not None
    rig.agent.line.say(b"\0" * 40)
    with pytest.raises(WireError, match="'far'"):
        await rig.link.run()


async def test_a_mistake_of_ours_ends_the_conversation_instead_of_losing_messages(rig: Rig) -> None:
    def wrong(frame: Message | Piece) -> None:
        raise RuntimeError("a bug")

    await rig.link.open()
    rig.handler = wrong
    rig.agent.send("anything")
    with pytest.raises(InternalError, match="RuntimeError: a bug"):
        await rig.link.run()


async def test_a_connection_that_is_closed_before_the_hello_is_a_host_error(rig: Rig) -> None:
    rig.agent.closed_at_once = True
    with pytest.raises(HostError, match=r"'far' closed the connection"):
        await rig.link.open()


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
