"""Calling what blocks in a thread, so that nothing of it goes on once the caller has been cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from handout.remote.uninterrupted import uninterrupted

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Call a function in a thread; cancelled, even again, this raises once the function is not running any more.

    A function that still waits for a thread then is not called: the caller's own work may have them all.

    Args:
        function: Bounded in time by itself.
    Raises:
        CancelledError: This was cancelled meanwhile.
        Exception: What the function raised.
    """
    begun, called_off = threading.Event(), threading.Event()

    def call() -> T | None:
        begun.set()
        # Either it is seen here that nobody wants it any more, or it is seen there that this has begun.
        return None if called_off.is_set() else function()

    calling = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        await asyncio.wait({calling})
    except asyncio.CancelledError:
        called_off.set()
        if not begun.is_set():
            calling.cancel()
        try:
            await uninterrupted(asyncio.wait({calling}))
        finally:
            if not calling.cancelled():
                calling.exception()  # it was looked at: the cancellation matters more
        raise
    return calling.result()  # type: ignore[return-value]  # it was called: nobody had called it off
