"""Another controller goes on with an agent whose own one was lost: what it is told, and who is not heard any more."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

from handout.agent.clock import now
from handout.agent.session import Session
from handout.agent.wire import Decoder, Hello
from tests.agent.rig import Rig


@contextlib.contextmanager
def caller(rig: Rig, **hello: Any) -> Iterator[socket.socket]:
    """A connection that says hello with these words."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(rig.hello["socket"])
        session = Session(heartbeat_s=2.0, now=now())
        session.open(now())
        peer.sendall(session.hello({"token": rig.token.hex(), "agent": rig.hello["agent"], **hello}, now()))
        yield peer


def refusal(rig: Rig, **hello: Any) -> str:
    with caller(rig, **hello) as peer:
        frame = next(Decoder(greets=True).feed(peer.recv(10_000)))
        assert isinstance(frame, Hello)
        return str(frame.fields.get("error"))


def test_the_earlier_controller_is_not_heard_any_more(rig: Rig) -> None:
    for _ in range(4):
        rig.connect()
    rig.run(lambda: 0)
    before, ticket = rig.conversation, rig.ticket
    rig.adopt()
    assert refusal(rig, conversation=before, ticket=ticket + 1) == "another controller has taken over"
    assert refusal(rig, conversation=before, ticket=ticket + 2, adopt=True) == "another controller has taken over"
    assert refusal(rig, conversation="a third one", ticket=1) == "another controller has taken over"
    rig.run(lambda: 7, ticket=8)
    assert rig.result(8) == 7


def test_an_adoption_that_comes_late_changes_nothing(rig: Rig) -> None:
    rig.adopt()
    rig.task_class()
    rig.run(lambda: 1)
    assert refusal(rig, conversation=rig.conversation, ticket=1, adopt=True) == "an earlier connection"
    rig.run(lambda: 2, ticket=2)
    assert rig.socket is not None


def test_an_adoption_whose_answer_was_lost_is_asked_for_again(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.disconnect()
    with caller(rig, conversation="lost", ticket=1, adopt=True) as peer:
        assert peer.recv(10_000)
    rig.session = Session(heartbeat_s=2.0, now=now())
    rig.conversation, rig.ticket = "lost", 1
    rig.connect(adopt=True)
    rig.wait(lambda: rig.heard("found"))
    rig.task_class()
    rig.run(lambda: 1)
    assert len(rig.heard("found")) == 1
