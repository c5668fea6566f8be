"""Uses an event loop from any thread. Code in the loop's own thread is called at once, and other threads wait."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from handout.serialization.user_objects import is_interruption

__all__ = ["ask", "is_current", "run_to_end"]

T = TypeVar("T")

#: Seconds that `run_to_end` waits for a coroutine that it has cancelled. Leaving a run takes at most 7 s.
_END_S = 10.0


def is_current(loop: asyncio.AbstractEventLoop) -> bool:
    """Return True if the event loop runs in this thread, and called the code that asks."""
    return asyncio._get_running_loop() is loop


def ask(loop: asyncio.AbstractEventLoop, function: Callable[[], T]) -> T:
    """Call a function in the thread of an event loop, and return what it returns.

    Raises:
        RuntimeError: The event loop is closed.
        Exception: The function raised it.
    """
    # A loop that its thread does not run at the moment, such as that of a test between two tests, would never answer.
    if is_current(loop) or not (loop.is_running() or loop.is_closed()):
        return function()
    answer: concurrent.futures.Future[T] = concurrent.futures.Future()

    def call() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:
            if is_interruption(error):
                raise
            answer.set_exception(error)

    loop.call_soon_threadsafe(call)
    return answer.result()


def run_to_end(loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in an event loop of another thread, and return its result.

    If this thread is interrupted meanwhile, for example by Ctrl-C, the coroutine is cancelled. This function then waits
    until the coroutine has ended, but not longer than 10 s, and raises the interruption.

    Args:
        loop: The event loop. It must not be the loop of this thread.
        make: Makes the coroutine, in the thread of the event loop.

    Raises:
        RuntimeError: The event loop is closed.
        Exception: The coroutine raised it.
    """
    over = threading.Event()

    async def run() -> T:
        try:
            return await make()
        finally:
            over.set()

    coroutine = run()
    try:
        promised = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except BaseException:
        coroutine.close()
        raise
    try:
        return promised.result()
    except BaseException:
        if promised.cancel():  # this thread was interrupted
            over.wait(_END_S)
        raise
