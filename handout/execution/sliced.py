"""Does the work of a generator in an event loop, in slices between which the loop does its other work."""

from __future__ import annotations

import asyncio
import contextvars
import time
import weakref
from collections import deque
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from handout.errors import GraphError
from handout.serialization.exceptions import message
from handout.serialization.user_objects import is_interruption, short_name
from handout.slices import Slices

__all__ = ["sliced"]

T = TypeVar("T")

#: Seconds of CPU time that works may use in one turn of the event loop.
_SLICE_S: Final = 0.01
#: At most this many works end in one turn of the event loop, because what their callers do next takes time, too.
_MOST_ENDS: Final = 16


async def sliced(work: Slices[T]) -> T:
    """Do the work, and return its result. After each 10 ms of CPU time, the event loop gets a turn.

    All works in an event loop share the 10 ms. Otherwise, each of 2,000 short works that begin together would end in
    its first 10 ms, and together they would block the loop for a second. Works that wait for the next turn go on in the
    order in which they came. A long work goes to the end of the queue after each of its slices, so that short works
    need not wait for its end.

    Work that ends within the 10 ms is done in the present turn of the event loop, unless other works wait.

    Raises:
        CancelledError: The caller was cancelled. The rest of the work is not done.
        GraphError: The work called user code that raised an error such as `SystemExit`, which is no `Exception`.
        Exception: The work raised it.
    """
    loop = asyncio.get_running_loop()
    works = _works.get(loop)
    if works is None:
        works = _works[loop] = _Works()
    return await works.begin(work)


class _Waiting(NamedTuple):
    """A work that waits for the next turn of the event loop."""

    work: Slices[Any]
    #: The context variables of the caller, which user code may read.
    context: contextvars.Context
    #: Gets the result. It is done already if the caller was cancelled.
    ended: asyncio.Future[Any]


class _Works:
    """The works that are being done in an event loop."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        #: Seconds of CPU time that works may still use in this turn of the event loop.
        self._left_s = _SLICE_S
        #: How many works may still end in this turn.
        self._left = _MOST_ENDS
        #: True if the event loop will call `_begin_turn` in its next turn.
        self._is_due = False

    def begin(self, work: Slices[T]) -> asyncio.Future[T]:
        """Begin a work now if no other work waits, and otherwise when its turn comes. The future gets its result."""
        ended: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._ask_for_turn()
        if self._waiting or not self._left or not self._settle(ended, self._advance(work)):
            self._waiting.append(_Waiting(work, contextvars.copy_context(), ended))
        return ended

    def _ask_for_turn(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_due, self._left_s, self._left = False, _SLICE_S, _MOST_ENDS
        while self._waiting and self._left_s > 0 and self._left:
            waiting = self._waiting.popleft()
            if waiting.ended.done():
                continue
            end = waiting.context.run(self._advance, waiting.work)
            if not self._settle(waiting.ended, end):
                self._waiting.append(waiting)
        if self._waiting:
            self._ask_for_turn()

    def _advance(self, work: Slices[T]) -> _End[T] | None:
        """Do the work until it ends or the time of this turn is used up. Return None if it has not ended."""
        began_s = time.thread_time()
        try:
            while time.thread_time() - began_s < self._left_s:
                next(work)
        except StopIteration as end:
            return _End(end.value, None)
        except BaseException as error:
            # A `SystemExit` of user code would end the loop with all other runs.
            passes = issubclass(type(error), Exception) or is_interruption(error)
            return _End(None, error if passes else _refused(error))
        finally:
            self._left_s -= time.thread_time() - began_s
        return None

    def _settle(self, ended: asyncio.Future[T], end: _End[T] | None) -> bool:
        """Tell the caller of a work how it has ended. Return False if it has not ended."""
        if end is None:
            return False
        self._left -= 1
        if not ended.done():
            if end.error is None:
                ended.set_result(cast(T, end.result))
            else:
                ended.set_exception(end.error)
        elif end.error is not None and not issubclass(type(end.error), Exception):
            raise end.error  # user code that the work called has cancelled the caller, and then a signal came
        return True


class _End(NamedTuple, Generic[T]):
    """How a work has ended."""

    result: T | None
    error: BaseException | None


def _refused(error: BaseException) -> GraphError:
    refused = GraphError(
        f"Code of the graph's functions or arguments raised {short_name(error)}: {message(error)}.",
        remedy="Correct the code that the traceback of the cause shows. Handout ran it to prepare the run.",
    )
    refused.__cause__ = error
    return refused


_works: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Works] = weakref.WeakKeyDictionary()
