"""Calling what blocks in a thread: so that it has ended when the caller has, or so that nobody has to wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from handout.transport.uninterrupted import uninterrupted

__all__ = ["call_in_daemon_thread", "ended_within", "in_thread"]

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
            # It is not done where the loop is shutting down: then that waits for the threads.
            if calling.done() and not calling.cancelled():
                calling.exception()  # it was looked at: the cancellation matters more
        raise
    return calling.result()  # type: ignore[return-value]  # it was called: nobody had called it off


def call_in_daemon_thread(function: Callable[[], T], name: str) -> Future[T]:
    """Begin to call a function in a thread of its own, which does not keep the program from ending.

    For what may never return, as on a disk that does not answer. Nothing calls it off; what it returned or raised is in
    the future, also where the loop has ended meanwhile.

    Raises:
        RuntimeError: The system has no thread left.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # whoever waits for it and is cancelled does not cancel it

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, name=name, daemon=True).start()
    return future


async def ended_within(future: Future[T], within_s: float) -> bool:
    """Whether a call has ended, after that many seconds at most.

    Raises:
        Exception: What it raised.
    """
    try:
        async with asyncio.timeout(within_s):
            await asyncio.wrap_future(future)
    except TimeoutError:
        if not future.done():
            return False
        future.result()
    return True
