"""The event loop of an open cluster, for code in any thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from handout.errors import HandoutError, HostError
from handout.serialization.user_objects import is_interruption

__all__ = ["OpenLoop", "not_open"]

T = TypeVar("T")

#: Seconds that `run_to_end` waits for a coroutine that it has cancelled. Leaving a run takes at most 7 s.
_END_S = 10.0


class OpenLoop:
    """The event loop of a cluster, from one opening of the cluster to its close.

    A function that another thread passes to an event loop is lost, without an error, if the event loop ends before it
    comes to the function. So all functions of other threads take this way. It is shut some turns before the event loop
    ends.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        #: Reentrant, because a signal handler may use the cluster, too.
        self._lock = threading.RLock()
        self._is_shut = False
        self._process = os.getpid()

    @property
    def is_forked(self) -> bool:
        """True in a process that was forked from the one that opened the cluster. The event loop runs only there."""
        return os.getpid() != self._process

    @property
    def is_current(self) -> bool:
        """True if the event loop runs in this thread, and called the code that asks."""
        return asyncio._get_running_loop() is self.loop

    def shut(self) -> None:
        """Take no more functions. The event loop must have some more turns, for the functions that were taken."""
        with self._lock:
            self._is_shut = True

    def _pass_on(self, give: Callable[[], T]) -> T:
        """Call a function that gives something to the event loop.

        Raises:
            HostError: The cluster is not open.
        """
        if self.is_forked:  # before the lock, which another thread may have held when this process was forked
            raise HostError(
                "This process was forked from the one that opened the cluster, and the connections to hosts are there.",
                remedy="Use the cluster in that process, or open another cluster in this one.",
            )
        with self._lock:
            if self._is_shut:
                raise not_open()
            try:
                return give()
            except RuntimeError as error:
                raise not_open() from error  # the loop was closed, and the cluster was not

    def post(self, function: Callable[[], object]) -> None:
        """Have the event loop call a function soon.

        Raises:
            HostError: The cluster is not open.
        """
        self._pass_on(lambda: self.loop.call_soon_threadsafe(function))

    def ask(self, function: Callable[[], T]) -> T:
        """Call a function in the thread of the event loop, and return what it returns. Other threads wait for that.

        Raises:
            HostError: The cluster is not open.
            Exception: The function raised it.
        """
        # A loop that its thread does not run at the moment, such as that of a test between two tests, would never
        # answer.
        if self.is_current or not (self.loop.is_running() or self.loop.is_closed()):
            return function()
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def call() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:
                if is_interruption(error):
                    raise
                answer.set_exception(error)

        self.post(call)
        return answer.result()

    def run_to_end(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the event loop, and return its result. The caller must be in another thread.

        If this thread is interrupted meanwhile, for example by Ctrl-C, the coroutine is cancelled. This method then
        waits until the coroutine has ended, but not longer than 10 s, and raises the interruption.

        Args:
            make: Makes the coroutine, in the thread of the event loop.

        Raises:
            HostError: The cluster is not open.
            HandoutError: The event loop has ended before the coroutine.
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
            promised = self._pass_on(lambda: asyncio.run_coroutine_threadsafe(coroutine, self.loop))
        except BaseException:
            coroutine.close()
            raise
        try:
            return promised.result()
        except concurrent.futures.CancelledError:
            raise HandoutError(
                "The event loop of the cluster ended before this call did.",
                remedy="Close the cluster after its runs have ended.",
            ) from None
        except BaseException:
            if promised.cancel():  # this thread was interrupted
                over.wait(_END_S)
            raise


def not_open() -> HostError:
    """Return the error for a cluster that is not open."""
    return HostError(
        "This cluster is not open.",
        remedy="Use `async with Cluster(...)` or await open(), and in code that is not async `with Cluster(...)`.",
    )
