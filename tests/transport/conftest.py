"""A link for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.transport.rig import Rig


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    """A link to an agent that behaves well until the test changes it."""
    rig = Rig()
    yield rig
    await rig.link.abandon()
