"""Handles Ctrl-C in `handout.run`. The first Ctrl-C cancels the run, and the second one ends the program at once."""

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

#: Further signals are ignored for this many seconds after the second Ctrl-C, because one key press may send several
#: signals.
_PATIENCE_S = 0.5


def run_until_interrupted(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do what `asyncio.run` does, but raise KeyboardInterrupt at once when Ctrl-C is pressed a second time.

    `asyncio.run` raises the second KeyboardInterrupt inside the callback that the loop executes at that moment. Then
    `asyncio.run` waits for all asyncio tasks. If the callback was about to complete a future, this wait never ends. So
    this function stops the loop between two callbacks, and abandons the loop's asyncio tasks.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        return asyncio.run(main())  # not the main thread, or the program handles Ctrl-C itself
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
            signal.default_int_handler(number, frame)  # the loop has not stopped, because a callback does not return

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
    """Close a loop without waiting for its asyncio tasks, because these may never end."""
    loop.set_exception_handler(lambda _, context: None)  # otherwise asyncio would report each abandoned asyncio task
    asyncio.set_event_loop(None)
    loop.close()
