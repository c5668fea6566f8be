"""Finish a clean-up even if the surrounding task is cancelled, because no process may be left on a host."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

__all__ = ["uninterrupted"]

T = TypeVar("T")


async def uninterrupted(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine to its end, and raise a cancellation that came meanwhile only then.

    Args:
        coroutine: Must be bounded in time.

    Raises:
        CancelledError: The surrounding task was cancelled meanwhile.
    """
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    # Within a cancelled scope anyio cancels every await again and again; the shield stops that. asyncio cancels once.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # read, so that asyncio does not log it: the cancellation is raised instead
    raise cancelled
