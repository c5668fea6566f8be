"""Messages of agents about runs that have ended."""

from __future__ import annotations

import pytest

from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.shell.driver import Driver
from handout.execution.shell.inbound_messages import InboundMessages
from handout.protocol import codec, messages, numbering
from handout.protocol.frames import Message
from handout.protocol.messages import AnyMessage
from handout.scheduler import events as ev
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
        # The core then has the object dropped there.
        (messages.Stored([numbering.base(7) | 5], [4]), b"", ev.ObjectsStored("far", 7, [5], [4])),
    ],
)
async def test_the_end_of_an_attempt_whose_run_was_left_is_told_to_the_core(
    message: AnyMessage, payload: bytes, event: ev.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what it had taken of its host would never be free again."""
    driver = Driver(lambda coroutine: coroutine.close())
    posted: list[ev.Event] = []
    monkeypatch.setattr(driver, "post", lambda *events: posted.extend(events))
    peer = AgentProxy("far", AgentLink("far", None, Agent(), Timings(), lambda frames: None, lambda suspected: None))
    InboundMessages(driver).heard(peer, [Message(1, codec.encode(message), payload)])
    assert posted == [event]
    driver.close()


async def test_a_source_bundle_that_was_stored_is_not_told_to_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core would have it dropped, as an object of a run that it does not know."""
    driver = Driver(lambda coroutine: coroutine.close())
    posted: list[ev.Event] = []
    monkeypatch.setattr(driver, "post", lambda *events: posted.extend(events))
    peer = AgentProxy("far", AgentLink("far", None, Agent(), Timings(), lambda frames: None, lambda suspected: None))
    InboundMessages(driver).heard(peer, [Message(1, codec.encode(messages.Stored([1], [100_000])), b"")])
    assert posted == []
    driver.close()
