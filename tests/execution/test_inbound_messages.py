"""Messages of agents about runs that have ended, and messages with numbers that the controller must refuse."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from handout import Graph
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.membership.takeover import Takeover
from handout.execution.run_options import RunOptions
from handout.execution.shell.driver import Driver
from handout.execution.shell.inbound_messages import InboundMessages
from handout.execution.shell.run_submission import make_run
from handout.protocol import codec, messages, numbering
from handout.protocol.frames import Message, ProtocolError
from handout.protocol.messages import AnyMessage
from handout.scheduler import events as ev
from handout.slices import at_once
from handout.submission.arguments import encode_plan
from handout.transport.agent_link import AgentLink
from handout.transport.timings import Timings
from tests.transport.played import Agent

ID = numbering.attempt_id(7, 3, 2)


@pytest.mark.parametrize(
    ("message", "payload", "event"),
    [
        (messages.Failed(ID, "cancelled"), b"", ev.TasksRecalled("far", 7, [3], [2])),
        (messages.Recalled([ID]), b"", ev.TasksRecalled("far", 7, [3], [2])),
        (
            messages.Finished([ID], [5], [[4]], [[4]]),
            b"abcd",
            ev.TasksFinished("far", 7, [3], [2], [0.0], [[4]], [False]),
        ),
        # The core answers this event with a command to drop the object on the host.
        (messages.Arrived([numbering.base(7) | 5], [4]), b"", ev.ObjectsStored("far", 7, [5], [4])),
    ],
)
async def test_the_end_of_an_attempt_whose_run_was_left_is_told_to_the_core(
    message: AnyMessage, payload: bytes, event: ev.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the amounts that the attempt claims on its host would never be free again."""
    driver = Driver(lambda coroutine: coroutine.close())
    posted: list[ev.Event] = []
    monkeypatch.setattr(driver, "post", lambda *events: posted.extend(events))
    peer = AgentProxy("far", AgentLink("far", None, Agent(), Timings(), lambda frames: None, lambda suspected: None))
    InboundMessages(driver).heard(peer, [Message(1, codec.encode(message), payload)])
    assert posted == [event]
    driver.close()


async def test_a_source_bundle_that_was_stored_is_not_told_to_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core would take the bundle for an object of an unknown run, and have the agent drop it."""
    driver = Driver(lambda coroutine: coroutine.close())
    posted: list[ev.Event] = []
    monkeypatch.setattr(driver, "post", lambda *events: posted.extend(events))
    peer = AgentProxy("far", AgentLink("far", None, Agent(), Timings(), lambda frames: None, lambda suspected: None))
    InboundMessages(driver).heard(peer, [Message(1, codec.encode(messages.Arrived([1], [100_000])), b"")])
    assert posted == []
    driver.close()


FIRST, BEYOND, KEY = numbering.attempt_id(7, 0, 1), numbering.attempt_id(7, 1, 1), numbering.base(7)


@pytest.mark.parametrize(
    "message",
    [
        messages.Started([BEYOND]),
        messages.Recalled([FIRST, BEYOND]),
        messages.Recalled([[]]),  # type: ignore[list-item]
        messages.Arrived([KEY | 1], [4]),
        messages.Arrived([KEY], [-4]),
        messages.Arrived([KEY], [0.5]),  # type: ignore[list-item]
        messages.Finished([FIRST], [-5], [[4]], [[-1]]),
        messages.Finished([FIRST], [float("nan")], [[4]], [[-1]]),  # type: ignore[list-item]
        messages.Finished([FIRST], [5], [[1 << 90]], [[-1]]),
        messages.Finished([FIRST], [5], [["4"]], [[-1]]),  # type: ignore[list-item]
        messages.Checkpointed(numbering.attempt_id(7, 0, 0), KEY, 4),  # the key is that of the task's result
        messages.Checkpointed(FIRST, numbering.checkpoint_key(BEYOND, 1), 4),
        messages.Checkpointed(BEYOND, numbering.checkpoint_key(BEYOND, 1), 4),
        messages.Checkpointed(FIRST, numbering.checkpoint_key(FIRST, 1), -4),
        messages.StreamObject(1, KEY, -4),
        messages.StreamObject(1, KEY, 1 << 90),
    ],
)
@pytest.mark.parametrize("trusted", [True, False])
async def test_numbers_that_the_core_would_break_at_are_refused(message: AnyMessage, trusted: bool) -> None:
    """A broken core ends every run of the cluster, even the runs that do not use this host."""
    driver = Driver(lambda coroutine: coroutine.close())
    graph = Graph()
    graph.add(int, id="only")
    plan = graph.compile()
    driver.submit(at_once(make_run(plan, at_once(encode_plan(plan)), RunOptions(), 7, None)))
    await asyncio.sleep(0)  # let the core handle the submission
    link = AgentLink("far", None, Agent(), Timings(), lambda frames: None, lambda suspected: None)
    peer = AgentProxy("far", link, trusted=trusted)
    with pytest.raises(ProtocolError):
        InboundMessages(driver).heard(peer, [Message(1, codec.encode(message), b"")])
    driver.close()


@pytest.mark.parametrize(
    "holdings", [(["1"], [], [], 0), ([-1], [], [], 0), ([1 << 120], [], [], 0), ([], [1], [None], 0), ([], [], [], -1)]
)
async def test_numbers_of_an_agent_that_was_taken_over_are_checked_before_the_run_reads_them(holdings: Any) -> None:
    takeover = Takeover()
    with pytest.raises(ProtocolError):
        takeover.receive([Message(1, codec.encode(messages.Holdings(*holdings)), b"")])
    assert not takeover.found.done()
