"""A new controller takes over an agent. The agent reports what it holds, and refuses the earlier controller."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from handout.host.system.clock import now
from handout.protocol.frames import Decoder, Hello
from handout.protocol.session import Session
from tests.host.rig import Rig
from tests.patience import HANG_S

#: The lowest key that an object of a run can have.
FIRST = 1 << 44


@contextlib.contextmanager
def caller(rig: Rig, **hello: Any) -> Iterator[socket.socket]:
    """Open a connection to the agent, and send a hello with these fields."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(HANG_S)
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


def test_the_ends_of_tasks_whose_output_waits_are_found(rig: Rig, tmp_path: Path) -> None:
    def shout(folder: str, number: int) -> int:
        """Wait until the file "go" exists, then print much."""
        while not os.path.exists(f"{folder}/go"):
            time.sleep(0.01)
        sys.stdout.write(("x" * 99 + "\n") * 900)
        Path(f"{folder}/{number}").touch()
        return number

    attempt_ids = [FIRST + i for i in range(30)]
    rig.submit(attempt_ids, rig.function(shout), [rig.call(str(tmp_path), i) for i in range(30)])
    rig.wait(lambda: rig.heard("started"))
    rig.disconnect()
    (tmp_path / "go").touch()
    until = time.monotonic() + 20
    while len(list(tmp_path.iterdir())) < 31 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.3)  # the last reports are on their way to the agent, and the test cannot see when they arrive
    found = set(rig.take_over()["attempt_ids"])
    rig.wait_for(*attempt_ids)
    assert found.issuperset(attempt_ids)


def test_the_earlier_controller_is_not_heard_any_more(rig: Rig) -> None:
    for _ in range(4):
        rig.connect()
    rig.run(lambda: 0)
    before, number = rig.conversation, rig.connections
    rig.take_over()
    assert refusal(rig, conversation=before, connection=number + 1) == "another controller has taken over"
    assert (
        refusal(rig, conversation=before, connection=number + 2, takeover=True) == "another controller has taken over"
    )
    assert refusal(rig, conversation="a third one", connection=1) == "another controller has taken over"
    rig.task_class()
    rig.run(lambda: 7, attempt_id=8)
    assert rig.result(8) == 7


def test_an_adoption_that_comes_late_changes_nothing(rig: Rig) -> None:
    rig.take_over()
    rig.task_class()
    rig.run(lambda: 1)
    assert (
        refusal(rig, conversation=rig.conversation, connection=1, takeover=True)
        == "the controller has opened a later connection"
    )
    rig.run(lambda: 2, attempt_id=2)
    assert rig.socket is not None


def test_an_adoption_whose_answer_was_lost_is_asked_for_again(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.disconnect()
    with caller(rig, conversation="lost", connection=1, takeover=True) as peer:
        assert peer.recv(10_000)
    rig.session = Session(heartbeat_s=2.0, now=now())
    rig.conversation, rig.connections = "lost", 1
    rig.connect(takeover=True)
    rig.wait(lambda: rig.heard("holdings"))
    rig.task_class()
    rig.run(lambda: 1)
    assert len(rig.heard("holdings")) == 1
