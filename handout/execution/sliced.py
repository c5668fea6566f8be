"""Does the work of a generator in an event loop, in slices between which the loop does its other work."""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import Final, TypeVar

from handout.errors import GraphError
from handout.serialization.exceptions import message
from handout.serialization.user_objects import short_name
from handout.slices import Slices

__all__ = ["sliced"]

T = TypeVar("T")

#: Seconds of CPU time after which the event loop gets its turn.
_SLICE_S: Final = 0.01


async def sliced(work: Slices[T]) -> T:
    """Do the work, and return its result. After each 10 ms of CPU time, the event loop gets a turn.

    All works in an event loop share the 10 ms. Otherwise, each of 2,000 short works that begin together would end in
    its first 10 ms, and together they would block the loop for a second. When the 10 ms are used up, the works go on in
    the order in which they asked. So a long work lets all others go on after each of its slices.

    Work that ends within the 10 ms is done in the present turn of the event loop, unless other works wait.

    Raises:
        CancelledError: The caller was cancelled. The rest of the work is not done.
        GraphError: The work called user code that raised an error such as `SystemExit`, which is no `Exception`.
        Exception: The work raised it.
    """
    shared = _shared_times.setdefault(asyncio.get_running_loop(), _SharedTime())
    while True:
        async with shared.lock:
            if shared.left_s <= 0:
                await asyncio.sleep(0)
                shared.left_s = _SLICE_S
            began_s = time.thread_time()
            try:
                while time.thread_time() - began_s < shared.left_s:
                    next(work)
            except StopIteration as end:
                result: T = end.value
                return result
            except (Exception, KeyboardInterrupt):
                raise
            except BaseException as error:  # for example `SystemExit`, which would end the loop with all other runs
                raise GraphError(
                    f"Code of the graph's functions or arguments raised {short_name(error)}: {message(error)}.",
                    remedy="Correct the code that the traceback of the cause shows. Handout ran it to prepare the run.",
                ) from error
            finally:
                shared.left_s -= time.thread_time() - began_s


class _SharedTime:
    """The CPU time that the works in one event loop may still use before the loop gets its turn."""

    def __init__(self) -> None:
        #: Held by the work that uses the time. It is passed on in the order in which the works asked for it.
        self.lock = asyncio.Lock()
        self.left_s = _SLICE_S


_shared_times: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _SharedTime] = weakref.WeakKeyDictionary()
