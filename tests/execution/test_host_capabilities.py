"""The capabilities that a cluster uses for a host if the tracker fails, or if the agent reports nonsense."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import handout
from handout import Capabilities, Cluster, Graph, Host, Inventory
from handout.errors import BootstrapError
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.membership.host_capabilities import HostCapabilities, read_probe
from handout.transport.agent_link import AgentLink
from handout.transport.timings import Timings
from tests import work
from tests.patience import HANG_S
from tests.transport.played import Agent


class MuteError(Exception):
    """An exception that raises another one when it is turned into text."""

    def __str__(self) -> str:
        raise ValueError("no text")


class MuteHostError(handout.HostError):
    """An error of Handout that raises another exception when it is turned into text."""

    def __str__(self) -> str:
        raise ValueError("no text")


def one() -> Graph:
    graph = Graph()
    graph.add(work.identity, 1, id="one")
    return graph


@pytest.mark.parametrize("error", [RuntimeError("no such mount"), asyncio.CancelledError("no such mount")])
async def test_a_tracker_that_raises_keeps_its_host_out_by_name(error: BaseException) -> None:
    async def broken(host: handout.LiveHost) -> dict[str, Any]:
        raise error

    inventory = Inventory([Host.local("here")], tracker=broken)
    async with asyncio.timeout(HANG_S):
        with pytest.raises(
            handout.HostError, match=rf"tracker 'broken' failed for host 'here': {type(error).__name__}: no such mount"
        ):
            await handout.execute(one(), inventory=inventory)


async def test_a_tracker_that_never_answers_keeps_its_host_out_by_name() -> None:
    async def stuck(host: handout.LiveHost) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    cluster = Cluster(Inventory([Host.local("here")], tracker=stuck), timings=Timings().scaled(0.1))
    async with asyncio.timeout(HANG_S):
        with pytest.raises(handout.HostError, match=r"tracker 'stuck' failed for host 'here': no answer within 3 s"):
            await cluster.open()


async def test_a_tracker_that_answers_while_the_cluster_is_closed_breaks_nothing() -> None:
    asked, answers = asyncio.Event(), asyncio.Event()

    async def slow(host: handout.LiveHost) -> dict[str, Any]:
        asked.set()
        await answers.wait()
        return {}

    cluster = Cluster(Inventory([Host.local("here")], tracker=slow))
    opening = asyncio.ensure_future(cluster.open())
    async with asyncio.timeout(HANG_S):
        await asked.wait()
        closing = asyncio.ensure_future(cluster.close())
        await asyncio.sleep(0)
        answers.set()
        await closing
        with pytest.raises(handout.HandoutError, match="closed while it was being opened"):
            await opening


async def test_a_tracker_that_answers_nonsense_keeps_its_host_out_by_name() -> None:
    async def odd(host: handout.LiveHost) -> Any:
        return 7

    inventory = Inventory([Host.local("here")], tracker=odd)
    async with asyncio.timeout(HANG_S):
        with pytest.raises(
            handout.HostError, match=r"tracker 'odd' answered for host 'here' with .* cannot be read: 7 cannot be"
        ):
            await handout.execute(one(), inventory=inventory)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no such mount"),
        asyncio.CancelledError("a task of its own"),
        pytest.fail.Exception("of a test tool"),
        BaseExceptionGroup("", [asyncio.CancelledError()]),
        MuteError(),
        MuteHostError(),
    ],
)
async def test_a_tracker_that_fails_later_changes_nothing_and_is_asked_again(error: BaseException) -> None:
    answers: list[dict[str, Any] | BaseException] = [{"cpu": 4}, error, {"cpu": 4}, {"cpu": 2}, error, {"cpu": 2}]
    asked_often = asyncio.Event()

    async def tracker(host: handout.LiveHost) -> dict[str, Any]:
        if not answers:
            asked_often.set()
            return {"cpu": 2}
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    link = AgentLink("here", None, Agent(), Timings(), lambda frames: None, lambda suspected: None)
    offering = HostCapabilities(Host.local("here"), Capabilities(cpu=8), AgentProxy("here", link), tracker, 0.001)
    told = [await offering.first(link, 5.0)]
    following = asyncio.ensure_future(offering.follow(told.append))
    async with asyncio.timeout(HANG_S):
        await asyncio.wait({following, asyncio.ensure_future(asked_often.wait())}, return_when="FIRST_COMPLETED")
    assert not following.done()
    assert [offered.cpu for offered in told] == [4, 2]
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


@pytest.mark.parametrize("error", [MuteError(), MuteHostError()])
async def test_a_tracker_that_raises_what_cannot_be_printed_keeps_its_host_out(error: Exception) -> None:
    async def broken(host: handout.LiveHost) -> dict[str, Any]:
        raise error

    inventory = Inventory([Host.local("here"), Host.local("there")], tracker=broken)
    async with asyncio.timeout(HANG_S):
        with pytest.raises(handout.HostError, match=r"2 of 2 hosts cannot be used.*no text: str\(\) raised ValueError"):
            await handout.execute(one(), inventory=inventory)


async def test_a_tracker_that_hangs_later_is_told_of_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    asked = 0

    async def tracker(host: handout.LiveHost) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked == 2:
            await asyncio.Event().wait()
        return {"cpu": asked}

    link = AgentLink("here", None, Agent(), Timings(), lambda frames: None, lambda suspected: None)
    offering = HostCapabilities(Host.local("here"), Capabilities(cpu=8), AgentProxy("here", link), tracker, 0.001)
    told = asyncio.Queue[Capabilities]()
    assert (await offering.first(link, 0.05)).cpu == 1
    following = asyncio.ensure_future(offering.follow(told.put_nowait))
    async with asyncio.timeout(HANG_S):
        assert (await told.get()).cpu == 3
    assert (
        "keeps its last capabilities: The tracker 'tracker' failed for host 'here': no answer within 0.05 s"
        in caplog.text
    )
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


async def test_without_a_tracker_there_is_nothing_to_follow() -> None:
    link = AgentLink("here", None, Agent(), Timings(), lambda frames: None, lambda suspected: None)
    offering = HostCapabilities(
        Host.local("here", {"cpu": 2}), Capabilities(cpu=8), AgentProxy("here", link), None, 60.0
    )
    assert (await offering.first(link, 5.0)).cpu == 2
    async with asyncio.timeout(HANG_S):
        await offering.follow(lambda offered: pytest.fail("reported a change without a tracker"))


@pytest.mark.parametrize("found", [{"cpu": "many"}, {"memory": -1}, {"cpu": float("inf")}])
def test_what_an_agent_finds_and_means_nothing_keeps_its_host_out_by_name(found: dict[str, Any]) -> None:
    with pytest.raises(BootstrapError, match="agent on host 'far' reported capabilities that cannot be read"):
        read_probe("far", found)
