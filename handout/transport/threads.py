"""Calls blocking functions in threads.

`in_thread` waits until the function has ended. `call_in_daemon_thread` does not wait.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from handout.transport.shielded import uninterrupted

__all__ = ["call_in_daemon_thread", "ended_within", "in_thread"]

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Call a function in a thread. A caller that is cancelled, even repeatedly, waits until the function has ended.

    If no thread has begun with the call when the cancellation comes, the function is not called and the caller does not
    wait, because other work of the program may occupy all threads for a long time.

    Args:
        function: Must be bounded in time.

    Raises:
        CancelledError: The caller was cancelled.
        Exception: The function raised it.
    """
    begun, cancelled = threading.Event(), threading.Event()

    def call() -> T | None:
        begun.set()
        # `begun` is set before `cancelled` is read, so that either this thread sees `cancelled`, or the caller sees
        # `begun`.
        return None if cancelled.is_set() else function()

    calling = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        await asyncio.wait({calling})
    except asyncio.CancelledError:
        cancelled.set()
        if not begun.is_set():
            calling.cancel()
        try:
            await uninterrupted(asyncio.wait({calling}))
        finally:
            # If the loop is shutting down, the call may not have ended. asyncio itself then waits for the threads.
            if calling.done() and not calling.cancelled():
                calling.exception()  # reads the exception, so that asyncio does not log it
        raise
    return calling.result()  # type: ignore[return-value]  # None only if cancelled, which raises above


def call_in_daemon_thread(function: Callable[[], T], name: str) -> Future[T]:
    """Call a function in a new daemon thread. Such a thread does not keep the program from ending.

    This is meant for functions that may never return, such as a read from a disk that does not answer. The call cannot
    be cancelled. The returned future gets the function's result or exception, even if the event loop has ended by then.

    Raises:
        RuntimeError: The system has no thread left.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # otherwise the cancellation of a waiter would cancel the future

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, name=name, daemon=True).start()
    return future


async def ended_within(future: Future[T], within_s: float) -> bool:
    """Wait for a call that `call_in_daemon_thread` began.

    Returns: True if the call has ended, or False if it still runs after ``within_s`` seconds.
    Raises:
        Exception: The function raised it.
    """
    try:
        async with asyncio.timeout(within_s):
            await asyncio.wrap_future(future)
    except TimeoutError:
        if not future.done():
            return False
        future.result()
    return True
