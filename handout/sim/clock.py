"""Virtual time: an event loop whose clock jumps to the next timer, so that waiting takes no real time."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from handout.errors import InternalError

__all__ = ["Clock", "VirtualLoop"]

#: Turns of the loop that a simulation may take while the clock stands still. More turns mean an endless loop.
_MAX_TURNS_AT_ONCE = 2_000


class _JumpingSelector(selectors.SelectSelector):
    """A selector that watches no file. Instead of waiting for some time, it moves the virtual clock on by that time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        #: The virtual time by which the simulation must have ended, and a function that returns the message of the
        #: error if it has not.
        self.limit: tuple[float, Callable[[], str]] = (math.inf, str)
        #: Called when no callback is ready and no timer is set.
        self.on_idle: Callable[[], None] = lambda: None
        #: Turns of the loop since the clock last moved. `watch_no_more` makes this number so low that it never
        #: reaches the limit.
        self._turns_at_once = 0

    def watch_no_more(self) -> None:
        """Stop all checks, so that the remaining asyncio tasks can end without an error."""
        self.limit, self.on_idle = (math.inf, str), lambda: None
        self._turns_at_once = -1 << 60

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Move the clock on by ``timeout`` seconds, and return at once."""
        if timeout is None:
            self.on_idle()
        elif timeout > 0:
            self.now += timeout
            self._turns_at_once = min(self._turns_at_once, 0)
            if self.now > self.limit[0]:
                raise InternalError(self.limit[1]())
        self._turns_at_once += 1
        if self._turns_at_once > _MAX_TURNS_AT_ONCE:
            raise InternalError(
                f"R2: the event loop ran {_MAX_TURNS_AT_ONCE} turns while the clock stood still, so a loop never ends"
            )
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in virtual time. Code runs in it as in a real event loop.

    An asyncio event loop asks its selector to wait until the next timer is due. The selector of this loop returns at
    once and moves the virtual clock on instead.
    """

    def __init__(self) -> None:
        self.virtual = _JumpingSelector()
        super().__init__(self.virtual)
        self._failure: BaseException | None = None
        #: True while `play` cancels the remaining asyncio tasks. An error does not stop the loop then, so that all of
        #: these tasks can end.
        self._cancelling = False
        self.set_exception_handler(self._on_error)

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self.virtual.now

    def play(self, main: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine to its end, then cancel the asyncio tasks that still run, and close the loop.

        Raises:
            Exception: The first error of the coroutine, or of any callback.
        """
        task = self.create_task(main)
        task.add_done_callback(self._end)
        try:
            self.run_forever()
            if self._failure is None:
                task.result()
        finally:
            task.remove_done_callback(self._end)  # the end of ``task`` must not stop the loop any more
            try:
                self._cancel_all()
            finally:
                self.close()
        if self._failure is not None:
            raise self._failure

    def _end(self, main: asyncio.Task[None]) -> None:
        self.stop()

    def _cancel_all(self) -> None:
        self.virtual.watch_no_more()
        self._cancelling = True
        left = asyncio.all_tasks(self)
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        if self._failure is None:
            self._failure = context.get("exception") or InternalError(str(context["message"]))
        if not self._cancelling:
            self.stop()


class Clock:
    """Calls functions at virtual times.

    Args:
        loop: The virtual event loop.
    """

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    @property
    def now(self) -> float:
        """Seconds since the start of the simulation."""
        return self._loop.time()

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Call ``action`` at the virtual time ``when``, or in the loop's next turn if ``when`` has passed."""
        self._loop.call_at(when, action)

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Call ``action`` after ``delay_s`` virtual seconds, or in the loop's next turn if ``delay_s`` is 0 or less."""
        if delay_s > 0:
            self._loop.call_later(delay_s, action)
        else:
            self._loop.call_soon(action)
