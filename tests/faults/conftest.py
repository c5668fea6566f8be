"""Clusters over every launcher, for faults that must look the same on all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from handout import Cluster
from tests.execution.conftest import hosts


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["local", "ssh"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """One cluster for all tests of a module: two hosts, ``plain`` and ``gpu``, that stay connected."""
    async with Cluster(hosts(request, request.param), require="all") as opened:
        yield opened
