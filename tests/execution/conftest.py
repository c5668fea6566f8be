"""Fixtures: a cluster of two hosts for each launcher. The hosts are local, or are reached over a real sshd."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from handout import Cluster, Graph, Host
from tests.sshd import OpenSsh


def hosts(request: pytest.FixtureRequest, launcher: str) -> list[Host]:
    """Return two hosts that the launcher reaches, ``plain`` and ``gpu``, with two processors each."""
    offers: dict[str, dict[str, object]] = {
        "plain": {"cpu": 2, "memory": "8 GB", "has_cuda": False, "gpu": 0},
        "gpu": {"cpu": 2, "memory": "4 GB", "has_cuda": True, "gpu": 2, "gpu_memory": "4 GB"},
    }
    if launcher == "local":
        return [Host.local(name, capabilities) for name, capabilities in offers.items()]
    server: OpenSsh = request.getfixturevalue("sshd")
    return [server.host(name, capabilities) for name, capabilities in offers.items()]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["local", "ssh"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """Yield one cluster for all tests of a module, so that its hosts are connected only once."""
    async with Cluster(hosts(request, request.param), require="all") as opened:
        yield opened


@pytest.fixture
def graph() -> Graph:
    return Graph()
