"""A link that a test has to itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.transport.rig import Rig


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    """With an agent that behaves until told otherwise."""
    rig = Rig()
    yield rig
    await rig.link.abandon()
