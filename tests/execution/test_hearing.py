"""What agents say of runs that nobody asks about any more."""

from __future__ import annotations

from typing import Any

import pytest

from handout.agent.wire import Message
from handout.execution import tickets
from handout.execution.driver import Driver
from handout.execution.hearing import Hearing
from handout.execution.peer import Peer
from handout.remote.link import Link
from handout.remote.timings import Timings
from handout.scheduler import events as ev
from tests.remote.played import Agent


@pytest.mark.parametrize(
    ("fields", "payload", "event"),
    [
        ({"m": "failed", "kind": "cancelled"}, b"", ev.TasksReturned("far", 7, [3], [2])),
        ({"m": "returned"}, b"", ev.TasksReturned("far", 7, [3], [2])),
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
    peer = Peer("far", Link("far", None, Agent(), Timings(), lambda frames: None, lambda suspected: None))
    ticket = tickets.ticket(7, 3, 2)
    tickets_said = ticket if fields["m"] == "failed" else [ticket]
    Hearing(driver).heard(peer, [Message(1, {**fields, "ticket": tickets_said}, payload)])
    assert posted == [event]
    driver.close()
