"""A fixture that makes a link for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.transport.rig import Rig


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    """Make a link to an agent that the test plays. The agent behaves well until the test changes it."""
    rig = Rig()
    yield rig
    await rig.link.abandon()
