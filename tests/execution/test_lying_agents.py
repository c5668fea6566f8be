"""Agents with ``trust="data"`` that renew their lease for ever and never end what they were given. The test plays them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import handout
from handout import Cluster, Graph, Host, Timings
from handout.execution import cluster_runtime
from handout.execution.membership.answer_limit import AnswerLimit
from handout.protocol import codec, messages
from handout.protocol.frames import Message
from tests.patience import HANG_S
from tests.transport.played import Agent

#: Larger than a result that travels in the message that reports it.
LARGE = 100_000


class Liar(Agent):
    """An agent that finishes each task with a large result, unless a subclass says otherwise."""

    def on_message(self, frame: Message) -> None:
        if frame.fields["m"] not in messages.TO_AGENT:
            return
        _, message = codec.decode(messages.TO_AGENT, frame.fields)
        if isinstance(message, messages.Tasks):
            self.have_tasks(message.attempt_ids)
        elif isinstance(message, messages.Fetch):
            self.have_fetch(message.key)

    def have_tasks(self, ids: Any) -> None:
        one = [1] * len(ids)
        self.tell(messages.Finished(ids, one, [[LARGE]] * len(ids), [[-1]] * len(ids)))

    def have_fetch(self, key: int) -> None:
        pass


class Holding(Liar):
    """Says that every task runs, and never that one has ended."""

    def have_tasks(self, ids: Any) -> None:
        self.tell(messages.Started(ids))


class Returning(Liar):
    """Gives every task back."""

    def have_tasks(self, ids: Any) -> None:
        self.tell(messages.Recalled(ids))


class Losing(Liar):
    """Does not have the results that it has reported."""

    def have_fetch(self, key: int) -> None:
        self.tell(messages.Missing(key))


class Dripping(Liar):
    """Announces an object, and never sends its bytes."""

    def have_fetch(self, key: int) -> None:
        self.tell(messages.StreamObject(1, key, LARGE))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes the given agent the agent of every host."""

    def play(agent: Agent) -> None:
        class Launchers:
            async def of(self, host: Host) -> Agent:
                return agent

        monkeypatch.setattr(cluster_runtime, "Launchers", Launchers)

    return play


def host(trust: Any = "data") -> Host:
    return Host("liar", address="127.0.0.1", capabilities={"cpu": 1}, trust=trust)


@pytest.mark.parametrize(
    ("kind", "answer_s", "did"),
    [
        (Holding, 0.3, "held task 'int' back"), (Liar, 0.3, "held an object back"),
        (Dripping, 0.3, "held an object back"),
        (Returning, 86_400.0, "gave back tasks, or lacked results"),
        (Losing, 86_400.0, "gave back tasks, or lacked results"),
    ],
)  # fmt: skip
async def test_an_agent_that_lies_for_ever_is_not_used_any_more(
    play: Any, kind: type[Agent], answer_s: float, did: str
) -> None:
    play(kind())
    graph = Graph()
    graph.add(int)
    timings = Timings(answer_s=answer_s, grace_s=0.1)
    async with asyncio.timeout(HANG_S), Cluster([host()], timings=timings) as cluster:
        with pytest.raises(handout.HandoutError) as caught:
            await cluster.execute(graph)
        assert did in cluster.unavailable["liar"].problem
    assert "liar" in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


async def test_an_attempt_that_is_cancelled_when_it_has_ended_is_not_remembered() -> None:
    """The reports of many cancelled calls cross the messages that cancel them."""
    limit = AnswerLimit("far", 1.0, lambda why: None)
    for attempt_id in range(10):
        limit.handed_over(attempt_id, "t")
        limit.note("finished", messages.Finished([attempt_id], [1], [[1]], [[1]]))
        limit.wanted_back([attempt_id])
    assert not limit._open
    assert not limit._wanted_back
    limit.close()


async def test_a_trusted_agent_may_take_as_long_as_it_likes(play: Any) -> None:
    agent = Holding()
    play(agent)
    graph = Graph()
    graph.add(int)
    async with asyncio.timeout(HANG_S), Cluster([host("full")], timings=Timings(answer_s=0.1)) as cluster:
        with pytest.raises(handout.RunTimeoutError):
            await cluster.execute(graph, timeout_s=1.0)
        assert not cluster.unavailable
