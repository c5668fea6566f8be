"""Finds the threads that a task has left, and that still run the user's own code.

Such a thread could change what later tasks find, so the worker must end. Packages also start threads that they keep,
for example tqdm, fsspec and pools of `concurrent.futures`. These wait for work and harm no task. If they ended the
worker, each task would import such packages anew. So a thread counts only if it runs a function of the user's own code,
which Handout has sent by value or as a module of the project. A timer that has not fired counts too.
"""

from __future__ import annotations

import _thread
import sys
import threading
import weakref
from types import FrameType
from typing import Any, Callable

from handout.host.worker import importer

__all__ = ["LeftThreads"]

#: Returns how many threads run beside the main thread. `threading.active_count` takes ten times as long.
_count: Callable[[], int] = _thread._count


class LeftThreads:
    """Tells if a task has left threads that run the user's own code."""

    def __init__(self) -> None:
        #: The threads that modules have started while they were imported.
        self._of_imports: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def snapshot(self) -> set[threading.Thread]:
        """Return the threads of this process."""
        return set(threading.enumerate()) if _count() else set()

    def keep_since(self, before: set[threading.Thread]) -> None:
        """Let the threads run that an import has started since a snapshot."""
        if _count():
            self._of_imports.update(set(threading.enumerate()) - before)

    def are_left(self) -> bool:
        """Return True if there is a thread that may change what later tasks find. Call this on the main thread."""
        if not _count():
            return False
        own = threading.get_ident()
        threads = {thread.ident: thread for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            thread = threads.get(ident)
            if ident == own or thread in self._of_imports:
                continue
            # The thread of a timer that was cancelled is just ending.
            waits = isinstance(thread, threading.Timer) and not thread.finished.is_set()
            if waits or _is_own(_scope_of(thread)) or _runs_own_code(frame):
                return True
        return False


def _scope_of(thread: threading.Thread | None) -> dict[str, Any] | None:
    """Return the globals of the function that a thread runs. A thread that has just started is not in it yet."""
    function: Any = getattr(thread, "_target", None) or getattr(type(thread), "run", None)
    return getattr(getattr(function, "__func__", function), "__globals__", None)


def _runs_own_code(frame: FrameType | None) -> bool:
    """Return True if a function of the user's own code is in a thread's stack."""
    while frame is not None:
        if _is_own(frame.f_globals):
            return True
        frame = frame.f_back
    return False


def _is_own(scope: dict[str, Any] | None) -> bool:
    """Return True if these are the globals of the user's own code.

    What has travelled by value, or was made by `exec`, belongs to no module of this host.
    """
    if scope is None:
        return False
    spec: Any = scope.get("__spec__")
    return spec is None or importer.has_sent(spec.origin)
