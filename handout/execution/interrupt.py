"""Handles Ctrl-C and SIGTERM in `handout.run`: the first signal cancels the run, the second ends the program."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import FrameType
from typing import Any, Final, Generic, NoReturn, TypeVar

__all__ = ["run_until_interrupted"]

T = TypeVar("T")

#: Further signals are ignored for this many seconds after the second one, because one key press may send several
#: signals.
_PATIENCE_S = 0.5
#: The signals that are handled, each with the handler that a program has if it does not handle the signal itself.
_DEFAULTS: Final[Mapping[signal.Signals, Any]] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


def run_until_interrupted(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do what `asyncio.run` does, but end gracefully at Ctrl-C and SIGTERM, and at once at the second of these signals.

    `asyncio.run` raises the second KeyboardInterrupt inside the callback that the loop executes at that moment. Then
    `asyncio.run` waits for all asyncio tasks. If the callback was about to complete a future, this wait never ends. So
    this function stops the loop between two callbacks, and abandons the loop's asyncio tasks.

    A signal that the program handles itself is left alone.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
        SystemExit: SIGTERM came. The exit status is 143, as a shell reports the end by this signal. The default action
            of the signal is not repeated after the clean-up, because it would skip the program's ``finally`` blocks.
    """
    taken = [number for number, default in _DEFAULTS.items() if signal.getsignal(number) is default]
    if threading.current_thread() is not threading.main_thread() or not taken:
        return asyncio.run(main())
    return _Interruptible(main, taken).run()


class _Interruptible(Generic[T]):
    """One run of an event loop that signals may end.

    Args:
        main: Makes the coroutine that the loop runs.
        taken: The signals that end the run.
    """

    def __init__(self, main: Callable[[], Coroutine[Any, Any, T]], taken: Sequence[signal.Signals]) -> None:
        self._main = main
        self._taken = taken
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._running: asyncio.Task[T] | None = None
        #: The first signal that came.
        self._first: int | None = None
        self._count = 0
        self._stopping_since = 0.0

    def run(self) -> T:
        for number in self._taken:
            signal.signal(number, self._signalled)
        try:
            result = self._runner.run(self._noted())
        except asyncio.CancelledError:
            if self._first is not None:
                _end(self._first)
            raise
        except RuntimeError:
            if self._first is not None and self._count > 1:  # the loop was stopped
                _end(self._first)
            raise
        finally:
            for number in self._taken:
                signal.signal(number, _DEFAULTS[number])
            if self._count > 1:
                _abandon(self._loop)
            else:
                self._runner.close()
        if self._first is not None:  # the signal came too late to cancel the run
            _end(self._first)
        return result

    async def _noted(self) -> T:
        self._running = asyncio.current_task()
        return await self._main()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._first is None:
            self._first = number
        if self._count == 1 and self._running is not None:
            self._loop.call_soon_threadsafe(self._running.cancel)
        elif self._count == 2 and self._running is not None:
            self._stopping_since = time.monotonic()
            self._loop.call_soon_threadsafe(self._loop.stop)
        elif time.monotonic() - self._stopping_since > _PATIENCE_S:
            _end(number)  # the loop has not stopped, because a callback does not return


def _end(number: int) -> NoReturn:
    """End the program as one of the signals asks for."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt from None
    raise SystemExit(128 + number) from None


def _abandon(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop without waiting for its asyncio tasks, because these may never end."""
    loop.set_exception_handler(lambda _, context: None)  # otherwise asyncio would report each abandoned asyncio task
    asyncio.set_event_loop(None)
    loop.close()
