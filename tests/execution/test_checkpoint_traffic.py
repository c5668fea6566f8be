"""Tests of the order in which checkpoints arrive at the controller, and of attempts that wait for them."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from handout import Graph, Timings
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.run_options import RunOptions
from handout.execution.shell.checkpoint_traffic import CheckpointTraffic
from handout.execution.shell.object_streams import Sink
from handout.execution.shell.run_state import RunState
from handout.execution.shell.run_submission import make_run
from handout.protocol import numbering
from handout.scheduler.commands import StartTasks
from handout.slices import at_once
from handout.submission.arguments import encode_plan
from handout.transport.agent_link import AgentLink
from tests.transport.played import Agent


class Far(AgentProxy):
    """An agent whose objects arrive when the test says so."""

    def __init__(self, name: str) -> None:
        link = AgentLink(name, None, Agent(), Timings(), lambda frames: None, lambda suspected: None)
        super().__init__(name, link)
        self.asked: list[int] = []
        self.sinks: list[Sink] = []
        self.dropped: list[int] = []

    def fetch(self, key: int, sink: Sink) -> None:
        self.asked.append(key)
        self.sinks.append(sink)

    def drop_keys(self, keys: Any) -> None:
        self.dropped += keys

    def arrive(self, data: bytes = b"x") -> None:
        sink = self.sinks.pop(0)
        sink.begin(len(data))
        sink.write(data)
        sink.end()


class Scene:
    def __init__(self) -> None:
        graph = Graph()
        graph.add(int, id="t")
        plan = graph.compile()
        self.run: RunState = at_once(make_run(plan, at_once(encode_plan(plan)), RunOptions(), 1, None))
        self.a, self.b = Far("a"), Far("b")
        self.traffic = CheckpointTraffic({1: self.run}, {"a": self.a, "b": self.b})
        self.started: list[StartTasks] = []

    def tell(self, agent: Far, attempt: int, count: int) -> int:
        key = numbering.checkpoint_key(numbering.attempt_id(1, 0, attempt), count)
        self.traffic.announced(self.run, 0, agent, key, 1)
        return key

    def hand_over(self, host: str, attempt: int) -> StartTasks:
        command = StartTasks(host, 1, [0], [attempt], [False], [0], [False])
        return self.traffic.hold(self.run, host, command, self.started.append)


@pytest_asyncio.fixture
async def scene() -> Scene:
    return Scene()


async def test_the_newest_is_fetched_after_the_one_that_arrives(scene: Scene) -> None:
    first, _, third = (scene.tell(scene.a, 1, count) for count in (1, 2, 3))
    assert scene.a.asked == [first]
    scene.a.arrive()
    assert scene.a.asked == [first, third]


async def test_an_attempt_elsewhere_waits_for_the_newest_and_not_for_an_older_one(scene: Scene) -> None:
    scene.tell(scene.a, 1, 1)
    newest = scene.tell(scene.a, 1, 2)
    assert not scene.hand_over("b", 2).tasks
    scene.a.arrive()
    assert not scene.started
    scene.a.arrive()
    assert [command.attempts for command in scene.started] == [[2]]
    assert scene.traffic.send(scene.run, scene.b, [0]) == [newest]


async def test_an_attempt_on_the_host_that_has_the_checkpoint_does_not_wait(scene: Scene) -> None:
    newest = scene.tell(scene.a, 1, 1)
    assert scene.hand_over("a", 2).tasks == [0]
    assert scene.traffic.send(scene.run, scene.a, [0]) == [newest]


async def test_a_second_attempt_does_not_wait_for_what_the_first_one_makes_later(scene: Scene) -> None:
    scene.tell(scene.a, 1, 1)
    assert not scene.hand_over("b", 2).tasks
    scene.tell(scene.a, 1, 2)
    scene.a.arrive()
    assert [command.attempts for command in scene.started] == [[2]]


async def test_when_the_host_is_lost_the_attempt_goes_on_with_what_has_arrived(scene: Scene) -> None:
    first = scene.tell(scene.a, 1, 1)
    scene.a.arrive()
    scene.tell(scene.a, 1, 2)
    assert not scene.hand_over("b", 2).tasks
    scene.traffic.host_lost("a")
    assert [command.attempts for command in scene.started] == [[2]]
    assert scene.traffic.send(scene.run, scene.b, [0]) == [first]


async def test_an_attempt_that_is_cancelled_while_it_waits_is_not_handed_over(scene: Scene) -> None:
    scene.tell(scene.a, 1, 1)
    command = StartTasks("b", 1, [0], [2], [False], [0], [False])
    assert not scene.hand_over("b", 2).tasks
    assert scene.traffic.give_back(scene.run, command) == ([0], [2])  # type: ignore[arg-type]
    scene.a.arrive()
    assert not scene.started


async def test_a_newer_checkpoint_of_another_host_has_the_older_one_dropped(scene: Scene) -> None:
    first = scene.tell(scene.a, 1, 1)
    scene.tell(scene.b, 2, 1)
    assert scene.a.dropped == [first]
    scene.traffic.task_ended(scene.run, 0, True)
    assert len(scene.b.dropped) == 1
    scene.a.arrive()
    scene.b.arrive()
    assert not scene.run.checkpoints.newest
    assert scene.run.objects.nbytes == 0


async def test_a_checkpoint_for_which_there_was_no_room_is_fetched_again_when_an_attempt_needs_it(scene: Scene) -> None:
    newest = scene.tell(scene.a, 1, 1)
    scene.a.sinks.pop(0).fail(False)
    assert not scene.hand_over("b", 2).tasks
    assert scene.a.asked == [newest, newest]
    scene.a.arrive()
    assert [command.attempts for command in scene.started] == [[2]]
    assert scene.traffic.send(scene.run, scene.b, [0]) == [newest]


async def test_an_attempt_begins_anew_if_there_is_still_no_room_for_its_checkpoint(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.tell(scene.a, 1, 1)
    assert not scene.hand_over("b", 2).tasks
    scene.a.sinks.pop(0).fail(False)
    assert [command.attempts for command in scene.started] == [[2]]
    assert scene.traffic.send(scene.run, scene.b, [0]) is None
    assert "could not be copied from host a" in caplog.text
