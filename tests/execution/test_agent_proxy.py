"""The messages to one host stay below the size limit of a frame. The test plays the agent that receives them."""

from __future__ import annotations

from handout.execution.membership.agent_proxy import AgentProxy
from handout.transport.agent_link import AgentLink
from handout.transport.timings import Timings
from tests.transport.played import Agent


async def test_more_small_objects_than_a_frame_holds_travel_in_several() -> None:
    agent = Agent()
    link = AgentLink("far", None, agent, Timings(), lambda frames: None, lambda suspected: None)
    await link.open()
    blob = bytes(1 << 20)
    AgentProxy("far", link).put_many(list(range(70)), [blob] * 70)
    await agent.until(lambda: len(agent.objects) == 70)
    assert agent.objects == dict.fromkeys(range(70), 1 << 20)
    assert 1 < agent.heard.count("objects") < 70
    await link.abandon()
