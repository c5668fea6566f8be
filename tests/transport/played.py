"""An agent that the test plays in memory, and its launcher and connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from handout.protocol import codec, messages
from handout.protocol.frames import Hello, Message, Piece
from handout.protocol.session import Session
from handout.transport.bootstrap import Bootstrap, StartedAgent
from handout.transport.byte_stream import Receiver, Transport
from tests.patience import HANG_S

__all__ = ["Agent", "Line"]


class Line:
    """One connection: the agent's end, and the transport that the link writes to."""

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
    """The agent, and also the launcher that connects to it. A test sets the attributes to cause faults."""

    def __init__(self) -> None:
        self.session = Session(heartbeat_s=1.0, now=0.0)
        self.line: Line | None = None
        #: Number of connections that the link asked for, and of those that were opened.
        self.tries = self.lines = 0
        self.identity = "a1"
        #: Bytes that the agent sends instead of its hello, or None.
        self.answer: bytes | None = None
        #: The error in the agent's hello, or None.
        self.refusal: str | None = None
        #: True to ignore all bytes that come.
        self.mute = False
        #: True to send bytes that are no frame after the hello.
        self.garbles = False
        #: Errors that the next calls of `connect` raise, one each.
        self.unreachable: list[Exception] = []
        #: How many of the next connections never open, and how many seconds any other connection takes to open.
        self.hangs, self.slow_s = 0, 0.0
        #: True to close a connection before the hello: the first for the next connection, the second for every one.
        self.closed_at_once = self.closes_always = False
        self.heard: list[str] = []
        self.bulk = bytearray()
        #: Sizes in bytes of objects that came in messages, by key.
        self.objects: dict[int, int] = {}
        self.aborted = self.closed = 0
        self.news = asyncio.Event()
        self.may_start, self.asked_to_start = asyncio.Event(), asyncio.Event()
        self.may_start.set()
        self.begins = True

    # ---- as a launcher

    async def start(self, bootstrap: Bootstrap) -> StartedAgent:
        bootstrap.command_sent = self.begins
        self.asked_to_start.set()
        await self.may_start.wait()
        return StartedAgent("/f", "/f/s", "/f/b", "python", (3, 12, 0), {}, True, "a1")

    async def connect(self, started: StartedAgent, receiver: Receiver) -> Transport:
        self.tries += 1
        if self.hangs:
            self.hangs -= 1
            await asyncio.Event().wait()
        await asyncio.sleep(self.slow_s)
        if self.unreachable:
            raise self.unreachable.pop(0)
        line = Line(self, receiver)
        self.lines += 1
        if self.closed_at_once or self.closes_always:
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
                if frame.fields["m"] == "objects":
                    message = codec.decode(messages.TO_AGENT, frame.fields)[1]
                    assert isinstance(message, messages.Objects)
                    self.objects.update(zip(message.keys, message.sizes, strict=True))
                self.on_message(frame)
                if frame.fields["m"] == "stop":
                    line.close()
            elif isinstance(frame, Piece):
                self.bulk += frame.data
        self.flush()
        self.news.set()

    def on_message(self, frame: Message) -> None:
        """Answer a message. A test overrides this method to play more of an agent."""

    def welcome(self, line: Line, hello: Hello) -> None:
        if self.answer is not None:
            line.say(self.answer)
            return
        fields: dict[str, Any] = {"agent": self.identity}
        if self.refusal is not None:
            fields["error"] = self.refusal
        line.say(self.session.hello(fields, 0.0))
        self.session.attach(hello.fields["state"], 0.0)
        if self.garbles:
            line.say(b"\0" * 40)

    def flush(self) -> None:
        if self.line is not None:
            self.line.say(b"".join(bytes(s) for s in self.session.take(0.0)))

    def send(self, name: str) -> None:
        self.session.send({"m": name})
        self.flush()

    def tell(self, message: messages.AnyMessage, payload: bytes = b"") -> None:
        self.session.send(codec.encode(message), [payload] if payload else [])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(HANG_S):
            while not condition():
                self.news.clear()
                await self.news.wait()
