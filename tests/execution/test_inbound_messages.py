"""What agents say of runs that nobody asks about any more."""

from __future__ import annotations

from typing import Any

import pytest

from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.shell.driver import Driver
from handout.execution.shell.inbound_messages import InboundMessages
from handout.protocol import numbering
from handout.protocol.frames import Message
from handout.scheduler import events as ev
from handout.transport.link import AgentLink
from handout.transport.timings import Timings
from tests.transport.played import Agent


@pytest.mark.parametrize(
    ("fields", "payload", "event"),
    [
        ({"m": "failed", "kind": "cancelled"}, b"", ev.TasksRecalled("far", 7, [3], [2])),
        ({"m": "returned"}, b"", ev.TasksRecalled("far", 7, [3], [2])),
        (
            {"m": "done", "us": [5], "size": [[4]], "inline": [[4]]},
            b"abcd",
            ev.TasksFinished("far", 7, [3], [2], [0.0], [[4]], [False]),
        ),
    ],
)
async def test_the_end_of_an_attempt_whose_run_was_left_is_told_to_the_core(
    fields: dict[str, Any], payload: bytes, event: ev.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what it had taken of its host would never be free again."""
    driver = Driver(lambda coroutine: coroutine.close())
    posted: list[ev.Event] = []
    monkeypatch.setattr(driver, "post", lambda *events: posted.extend(events))
    peer = AgentProxy("far", AgentLink("far", None, Agent(), Timings(), lambda frames: None, lambda suspected: None))
    ticket = numbering.ticket(7, 3, 2)
    tickets_said = ticket if fields["m"] == "failed" else [ticket]
    InboundMessages(driver).heard(peer, [Message(1, {**fields, "ticket": tickets_said}, payload)])
    assert posted == [event]
    driver.close()
