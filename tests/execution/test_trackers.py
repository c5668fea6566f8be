"""Trackers that do not do what they should, on this machine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import handout
from handout import Cluster, Graph, Host, Inventory
from handout.remote.timings import Timings
from tests import work


def one() -> Graph:
    graph = Graph()
    graph.add(work.identity, 1, id="one")
    return graph


@pytest.mark.parametrize("error", [RuntimeError("no such mount"), asyncio.CancelledError("no such mount")])
async def test_a_tracker_that_raises_keeps_its_host_out_by_name(error: BaseException) -> None:
    async def broken(host: handout.LiveHost) -> dict[str, Any]:
        raise error

    inventory = Inventory([Host.local("here")], tracker=broken)
    async with asyncio.timeout(30):
        with pytest.raises(handout.HostError, match=rf"'here': {type(error).__name__}: no such mount"):
            await handout.execute(one(), inventory=inventory)


async def test_a_tracker_that_never_answers_keeps_its_host_out_by_name() -> None:
    async def stuck(host: handout.LiveHost) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    cluster = Cluster(Inventory([Host.local("here")], tracker=stuck), timings=Timings().scaled(0.02))
    async with asyncio.timeout(30):
        with pytest.raises(handout.HostError, match=r"tracker failed for host 'here': no answer within 0\.6 s"):
            await cluster.open()


async def test_a_tracker_that_answers_nonsense_keeps_its_host_out_by_name() -> None:
    async def odd(host: handout.LiveHost) -> Any:
        return 7

    inventory = Inventory([Host.local("here")], tracker=odd)
    async with asyncio.timeout(30):
        with pytest.raises(handout.HandoutError, match="7"):
            await handout.execute(one(), inventory=inventory)
