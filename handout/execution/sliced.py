"""Does the work of a generator in an event loop, in slices between which the loop does its other work."""

from __future__ import annotations

import asyncio
import time
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

    Work that takes less than 10 ms is done in the present turn of the event loop.

    Raises:
        CancelledError: The caller was cancelled. The rest of the work is not done.
        GraphError: The work called user code that raised an error such as `SystemExit`, which is no `Exception`.
        Exception: The work raised it.
    """
    while True:
        until_s = time.thread_time() + _SLICE_S
        while time.thread_time() < until_s:
            try:
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
        await asyncio.sleep(0)
