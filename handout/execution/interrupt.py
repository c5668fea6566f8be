"""Ctrl-C for programs that have no loop of their own: once it ends a run in order, twice at once."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

__all__ = ["run_until_interrupted"]

T = TypeVar("T")

#: Ctrl-C within this time after the second one says nothing new.
_PATIENCE_S = 0.5


def run_until_interrupted(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """`asyncio.run`, which a second Ctrl-C ends whatever is still being waited for.

    `asyncio.run` raises the second KeyboardInterrupt wherever the loop is just then, and waits for all tasks after
    that: a future that was torn in the middle keeps it waiting for good. Here the loop stops between two callbacks, and
    is left as it is.

    Raises:
        KeyboardInterrupt: See above.
    """
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        return asyncio.run(main())  # who has a handler of their own decides what it means
    runner = asyncio.Runner()
    loop = runner.get_loop()
    interrupts, stopping_since = 0, 0.0
    running: asyncio.Task[T] | None = None

    def interrupted(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts, stopping_since
        interrupts += 1
        if interrupts == 1 and running is not None:
            loop.call_soon_threadsafe(running.cancel)
        elif interrupts == 2 and running is not None:
            stopping_since = time.monotonic()
            loop.call_soon_threadsafe(loop.stop)
        elif time.monotonic() - stopping_since > _PATIENCE_S:
            signal.default_int_handler(number, frame)  # there is code that keeps the loop from coming to it

    async def noted() -> T:
        nonlocal running
        running = asyncio.current_task()
        return await main()

    signal.signal(signal.SIGINT, interrupted)
    try:
        return runner.run(noted())
    except asyncio.CancelledError:
        if interrupts:
            raise KeyboardInterrupt from None
        raise
    except RuntimeError:
        if interrupts > 1:  # the loop was stopped
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if interrupts > 1:
            _abandon(loop)
        else:
            runner.close()


def _abandon(loop: asyncio.AbstractEventLoop) -> None:
    """Leave a loop as it is: what its tasks wait for may never come."""
    loop.set_exception_handler(lambda _, context: None)  # tasks that are not awaited any more
    asyncio.set_event_loop(None)
    loop.close()
