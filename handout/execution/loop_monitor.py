"""Notices when code blocks the event loop, and logs a warning that names the code.

A blocked loop cannot receive messages. Without the warning, a user would blame the hosts for the silence.

A timer calls a function of this module in the loop at regular times. Each such call is a beat. A second thread, the
watching thread, notices when a beat is overdue.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from handout.host.thread_frames import thread_frames

__all__ = ["LoopMonitor"]

logger = logging.getLogger("handout")

#: Number of beats in ``limit_s`` seconds. The watching thread looks for an overdue beat just as often.
_BEATS = 4
_PATHS = sysconfig.get_paths()
_HANDOUT = str(Path(__file__).resolve().parents[1]) + os.sep
#: The files of Handout whose functions may be called in any thread: those that build graphs and read results. All other
#: functions need the running loop, or read what the loop's callbacks change.
_MOVABLE = (os.path.join(_HANDOUT, "graph", ""), os.path.join(_HANDOUT, "execution", "results.py"))
_INSTALLED = tuple({_PATHS["purelib"] + os.sep, _PATHS["platlib"] + os.sep})
_PYTHON = (_PATHS["stdlib"] + os.sep, "<frozen")
#: Functions of the event loop itself. The frames that such a function calls belong to a callback of the loop. The
#: frames that call such a function have only started the loop. `Handle._run` calls each callback. `Runner.run` is
#: listed too, because a loop that is written in C, such as uvloop, has no frame for `Handle._run`.
_LOOP = (asyncio.Handle._run.__code__, asyncio.Runner.run.__code__)

#: What the warning says if the thread found no code to blame.
_UNSEEN = (
    "but no code to blame was found. Either this process was stopped, or one call into an extension module kept the "
    "interpreter busy"
)


class _Culprit(NamedTuple):
    """The code that the loop's thread executed while a beat was overdue."""

    #: Time of the last beat before the overdue one, by the monotonic clock.
    beat_at: float
    #: What the warning says about the code: its owner, file and line. ``""`` if no code to blame was found.
    blame: str
    #: True if the caller's code is to blame, or calls a function of Handout in one of the `_MOVABLE` files. In that
    #: case, the warning says how to move the call into a thread.
    is_movable: bool = False


class LoopMonitor:
    """Warns each time that code has blocked the running loop for longer than ``limit_s``.

    If a beat is overdue, the watching thread records the code that the loop's thread executes at that moment. The time
    in which the loop's thread has to wait for a processor does not count, because no code of this process is to blame
    for a busy machine.

    Args:
        limit_s: Seconds that code may block the loop without a warning.
        waited_s: Returns how many seconds the calling thread has waited for a processor so far. If it is None, the
            monitor takes this number from Linux, and assumes 0 on other systems.
    """

    def __init__(self, limit_s: float, waited_s: Callable[[], float] | None = None) -> None:
        self._limit_s = limit_s
        self._waited_s = waited_s or _processor_wait_s
        self._period_s = limit_s / _BEATS
        self._thread = threading.get_ident()
        self._loop = asyncio.get_running_loop()
        #: The time of the last beat, by the monotonic clock.
        self._beat_at = time.monotonic()
        #: How many seconds the loop's thread had waited for a processor when the last beat came.
        self._waited_at_beat_s = 0.0
        self._culprit = _Culprit(0.0, "")
        self._timer: asyncio.TimerHandle | None = None
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="handout loop monitor", daemon=True)

    def start(self) -> None:
        """Start to watch. The caller must call `stop` later."""
        self._waited_at_beat_s = self._waited_s()
        self._beat()
        self._watcher.start()

    def stop(self) -> None:
        """Stop watching, and wait until the watching thread has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._ended.set()
        self._watcher.join()

    def _beat(self) -> None:
        """Record a beat. If the beat comes too late, warn. Runs in the loop's thread.

        The warning is given only here, because the length of the delay is not known before.
        """
        # The thread may have to wait for a processor right here. Such a wait then counts in both of the delays that the
        # beat lies between, so that it never looks like a blocked loop.
        waited_before_s, now, waited_after_s = self._waited_s(), time.monotonic(), self._waited_s()
        blocked_s = now - self._beat_at - self._period_s - (waited_after_s - self._waited_at_beat_s)
        if blocked_s > self._limit_s:
            self._warn(blocked_s)
        self._beat_at, self._waited_at_beat_s = now, waited_before_s
        self._timer = self._loop.call_later(self._period_s, self._beat)

    def _warn(self, blocked_s: float) -> None:
        culprit = self._culprit if self._culprit.beat_at == self._beat_at else _Culprit(self._beat_at, "")
        logger.warning(
            "The event loop was blocked for %.3g s %s. Handout could not receive messages in that time, so the hosts "
            "are not to blame for the silence. But a host that hears nothing from Handout for host_timeout_s ends its "
            "tasks.%s",
            blocked_s,
            f"by {culprit.blame}" if culprit.blame else _UNSEEN,
            " Move the blocking call into a thread: await asyncio.to_thread(...)." if culprit.is_movable else "",
        )

    def _watch(self) -> None:
        """Find the code to blame for each overdue beat. Runs in the watching thread."""
        while not self._ended.wait(self._period_s):
            beat_at = self._beat_at
            if time.monotonic() - beat_at > self._limit_s / 2 and self._culprit.beat_at != beat_at:
                self._culprit = _find_culprit(beat_at, thread_frames().get(self._thread))


def _find_culprit(beat_at: float, innermost: FrameType | None) -> _Culprit:
    """Return the code to blame for an overdue beat, given the innermost frame of the loop's thread.

    If the caller's code calls a library that blocks, the caller's code is to blame. If Handout itself calls or imports
    the code that blocks, Handout is to blame.
    """
    frames = list(_frames_of_callback(innermost))
    owners = [_owner(frame) for frame in frames]
    for frame, owner in zip(frames, owners, strict=True):
        if owner == "your code":
            return _Culprit(beat_at, f"your code at {_place(frame)}", is_movable=True)
        if owner == "Handout":
            if "your code" not in owners:
                return _Culprit(beat_at, f"Handout's own code at {_place(frame)}")
            caller = owners.index("your code")
            blame = f"Handout's own code at {_place(frame)}, called at {_place(frames[caller])}"
            # Python's own code may stand between the two: `Mapping.items` reads results.
            called = frames[max(index for index in range(caller) if owners[index] == "Handout")]
            return _Culprit(beat_at, blame, called.f_code.co_filename.startswith(_MOVABLE))
    packages = [f"{owner} at {_place(frame)}" for frame, owner in zip(frames, owners, strict=True) if owner]
    return _Culprit(beat_at, packages[0] if packages else "")


def _frames_of_callback(innermost: FrameType | None) -> Iterator[FrameType]:
    """Yield the frames of the callback that the event loop executes, innermost first."""
    frame = innermost
    while frame is not None and frame.f_code not in _LOOP:
        yield frame
        frame = frame.f_back


def _owner(frame: FrameType) -> str:
    """Return the owner of the code that a frame executes, or ``""`` if Python itself is the owner."""
    file = frame.f_code.co_filename
    if file.startswith(_HANDOUT):
        return "Handout"
    for folder in _INSTALLED:
        if file.startswith(folder):
            return f"the package {Path(file[len(folder) :]).parts[0].removesuffix('.py')}"
    return "" if file.startswith(_PYTHON) else "your code"


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_qualname})"


def _processor_wait_s() -> float:
    """Return the seconds that the calling thread has waited for a processor, or 0.0 if they are not known."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):  # not Linux, or a kernel without this statistic
        return 0.0
