"""Cleaning up where the task around is cancelled, even twice: no process may stay behind on a host."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

__all__ = ["uninterrupted"]

T = TypeVar("T")


async def uninterrupted(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await something to its end; a cancellation that comes meanwhile is raised then.

    It must be bounded in time by itself.

    Raises:
        CancelledError: The task around was cancelled meanwhile.
    """
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    # The scope is for anyio, which would cancel every await in here again and again; asyncio does it once each time.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # it was looked at: the cancellation matters more
    raise cancelled
