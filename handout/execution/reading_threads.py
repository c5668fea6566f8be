"""Threads that unpickle results beside the event loop, because unpickling runs user code, which may never return."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar, cast

__all__ = ["ReadingThreads"]

T = TypeVar("T")

#: At most this many functions are called at one time. More threads would only wait for the interpreter's lock.
_MOST: Final = 4
#: Seconds after which a call that has not ended counts no more, so that another thread takes its place.
PATIENCE_S: Final = 5.0
#: Seconds that a thread waits for a further function before it ends.
_IDLE_S: Final = 1.0
#: Seconds that `close` waits for each thread that has nothing to do.
_END_S: Final = 1.0


class _Work(NamedTuple):
    """A function that a thread has to call."""

    function: Callable[[], object]
    #: The context variables of the caller.
    context: contextvars.Context
    #: Gets the result and None, or None and the exception. It is cancelled if the caller was cancelled.
    ended: asyncio.Future[tuple[Any, BaseException | None]]


class _ReadingThread:
    """A thread, and what it does. The lock of `ReadingThreads` guards the attributes."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.is_busy = False
        #: When the present call began, in seconds of the monotonic clock.
        self.since = 0.0
        #: True once another thread took the place of this one, which ends after its call.
        self.is_given_up = False


class ReadingThreads:
    """Calls functions in threads, at most 4 at one time. A call that takes long counts only for its first 5 s.

    So functions that never return delay the others, but do not stop them. A thread waits a second for further
    functions, because starting a thread for each would take ten times as long. The threads do not keep the program from
    ending.

    Args:
        loop: The event loop. Only code that it runs may use this object.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        #: Guards the attributes below, and tells the threads that they have changed.
        self._changed = threading.Condition()
        self._waiting: deque[_Work] = deque()
        #: The threads that were not given up.
        self._readers: set[_ReadingThread] = set()
        self._is_closed = False
        #: Calls `_look`, while a function is called or waits. Only the event loop uses it.
        self._timer: asyncio.TimerHandle | None = None

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function in a thread, with the context variables of the caller.

        If the caller is cancelled, it does not wait for the end of the call. A call that has not begun is not made.

        Raises:
            BaseException: The function raised it.
            RuntimeError: The system has no thread left.
        """
        work = _Work(function, contextvars.copy_context(), self._loop.create_future())
        with self._changed:
            self._waiting.append(work)
            self._changed.notify()
        self._start_threads()
        self._watch()
        result, error = await work.ended
        if error is not None:
            raise error
        return cast(T, result)

    def _start_threads(self) -> None:
        """Start threads for the functions that no thread is free for."""
        with self._changed:
            missing = len(self._waiting) - sum(not each.is_busy for each in self._readers)
            for _ in range(min(missing, _MOST - len(self._readers))):
                reader = _ReadingThread()
                reader.thread = threading.Thread(target=self._run, args=(reader,), name="handout reading", daemon=True)
                try:
                    reader.thread.start()
                except RuntimeError as error:
                    while self._waiting and not self._readers:
                        _settle(self._waiting.popleft().ended, None, error)
                    return
                self._readers.add(reader)

    def _run(self, reader: _ReadingThread) -> None:
        """Call the functions that wait. This method runs in a thread of its own."""
        while (work := self._next(reader)) is not None:
            result: Any = None
            error: BaseException | None = None
            if not work.ended.cancelled():
                try:
                    result = work.context.run(work.function)
                except BaseException as raised:  # raised again in the caller
                    error = raised
            reader.is_busy = (
                False  # it needs no lock, but must come before the caller learns of the end and closes the threads
            )
            try:
                self._loop.call_soon_threadsafe(_settle, work.ended, result, error)
            except RuntimeError:
                pass  # the loop is closed, so that nothing waits for the result any more
            del work, result, error  # the thread must not keep results alive while it waits

    def _next(self, reader: _ReadingThread) -> _Work | None:
        """Wait for the next function, but not for long. Return None if the thread has to end."""
        with self._changed:
            if not (self._waiting or self._is_closed or reader.is_given_up):
                self._changed.wait(_IDLE_S)
            if reader.is_given_up or not self._waiting:
                self._readers.discard(reader)
                return None
            reader.is_busy, reader.since = True, time.monotonic()
            return self._waiting.popleft()

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(PATIENCE_S, self._look)

    def _look(self) -> None:
        """Give up the threads whose call takes long, and have others take their places."""
        self._timer = None
        with self._changed:
            late = time.monotonic() - PATIENCE_S
            for reader in [each for each in self._readers if each.is_busy and each.since <= late]:
                reader.is_given_up = True
                self._readers.discard(reader)
            is_idle = not (self._waiting or any(each.is_busy for each in self._readers))
        if not is_idle:
            self._start_threads()
            self._watch()

    def close(self) -> None:
        """End the threads as soon as no function waits for them. Functions that are passed later are still called."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            idle = [each.thread for each in self._readers if not each.is_busy]
        for thread in idle:
            assert thread is not None
            thread.join(_END_S)


def _settle(ended: asyncio.Future[tuple[Any, BaseException | None]], result: Any, error: BaseException | None) -> None:
    if not ended.done():  # it is done if the caller was cancelled
        ended.set_result((result, error))
