"""Finishes a clean-up even if the surrounding asyncio task is cancelled, so that no process is left on a host."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

__all__ = ["uninterrupted"]

T = TypeVar("T")


async def uninterrupted(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine to its end. If a cancellation comes meanwhile, raise the cancellation only after that end.

    Args:
        coroutine: Must be bounded in time.

    Raises:
        CancelledError: The surrounding asyncio task was cancelled meanwhile.
    """
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    # A cancellation by asyncio stops only one await. But in a cancelled scope, anyio cancels every further await too,
    # unless there is a shield.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # reads the exception, so that asyncio does not log it
    raise cancelled
