"""Notices when the caller's event loop is blocked, and by what: hosts must not be blamed for it."""

from __future__ import annotations

import asyncio
import logging
import sys
import sysconfig
import threading
import time
from pathlib import Path
from types import FrameType

__all__ = ["LoopMonitor"]

logger = logging.getLogger("handout")

#: Looks, and beats, in the time that is too long.
_BEATS = 4
_PATHS = sysconfig.get_paths()
#: Code that is not the caller's own.
_NOT_THEIRS = tuple(
    {_PATHS["stdlib"], _PATHS["purelib"], _PATHS["platlib"], str(Path(__file__).resolve().parents[1]), "<frozen"}
)


class LoopMonitor:
    """Warns, once for each time, that the running loop was blocked for longer than ``limit_s``.

    The loop beats; a thread that finds a beat overdue looks where the loop's thread is.

    Args:
        limit_s: Seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._period_s = limit_s / _BEATS
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        #: When the loop last beat.
        self._beat_at = time.monotonic()
        #: Where it was found, and the beat that it had last made by then.
        self._found = (0.0, "")
        self._timer: asyncio.TimerHandle | None = None
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="handout loop watch", daemon=True)

    def start(self) -> None:
        """Watch from now on; :meth:`stop` must follow."""
        self._beat()
        self._watcher.start()

    def stop(self) -> None:
        """Watch no more: the thread is gone when this returns."""
        if self._timer is not None:
            self._timer.cancel()
        self._ended.set()
        self._watcher.join()

    def _beat(self) -> None:
        """On the loop: say so where this comes too late, once it is over and its length is known."""
        now = time.monotonic()
        late_s = now - self._beat_at - self._period_s
        if late_s > self._limit_s:
            beat_at, place = self._found
            logger.warning(
                "The event loop was blocked for %.3g s %s. Hosts were not heard meanwhile, and were not taken for "
                "silent; longer than host_timeout_s, and they end what runs there. Put what blocks into a thread: "
                "await asyncio.to_thread(...).",
                late_s,
                f"at {place}"
                if beat_at == self._beat_at
                else "where nobody could look: this process was stopped, "
                "or its interpreter was held by one call of an extension module",
            )
        self._beat_at = now
        self._timer = self._loop.call_later(self._period_s, self._beat)

    def _watch(self) -> None:
        """In the thread: look once for each beat that is overdue."""
        while not self._ended.wait(self._period_s):
            beat_at = self._beat_at
            if time.monotonic() - beat_at > self._limit_s / 2 and self._found[0] != beat_at:
                self._found = (beat_at, _place(sys._current_frames().get(self._thread)))


def _place(innermost: FrameType | None) -> str:
    """``file:line (function)`` of the caller's own code that a thread is in; of any where none of it is."""
    frame = innermost
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THEIRS):
        # What called the loop has nothing to do with what the loop called.
        frame = None if frame.f_code is asyncio.Handle._run.__code__ else frame.f_back
    frame = frame or innermost
    if frame is None:
        return "an unknown place"
    return f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_qualname})"
