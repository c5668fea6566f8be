"""The frames that the threads of this process execute."""

from __future__ import annotations

import gc
import sys
from types import FrameType

__all__ = ["thread_frames"]


def thread_frames() -> dict[int, FrameType]:
    """Return the innermost frame of each thread, by the thread's identifier.

    Up to version 3.11, CPython makes these frame objects while it holds the lock of its list of threads. If a garbage
    collection begins there, it lets other threads run. One of them may wait for the lock, and then no thread runs any
    more (https://github.com/python/cpython/issues/106883). So no collection may begin.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if enabled:
            gc.enable()
