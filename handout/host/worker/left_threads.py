"""Finds the threads that a task has left, and that still run the user's own code.

Such a thread could change what later tasks find, so the worker must end. Packages also start threads that they keep,
for example tqdm, fsspec and pools of `concurrent.futures`. These wait for work and harm no task. If they ended the
worker, each task would import such packages anew. So a thread counts only if it runs a function of the user's own code,
which Handout has sent by value or as a module of the project. A timer that has not fired counts too.
"""

from __future__ import annotations

import _thread
import threading
from types import FrameType
from typing import Any, Callable

from handout.host.thread_frames import thread_frames
from handout.host.worker import importer

__all__ = ["LeftThreads"]

#: Returns how many threads run beside the main thread. `threading.active_count` takes ten times as long.
_count: Callable[[], int] = _thread._count


#: Namespaces that are not the user's own, by ``id``. Each check looks at every frame of every thread, but most frames
#: run code of the same few modules. This dictionary keeps them alive, so that no other object gets such an id.
_foreign: dict[int, dict[str, Any]] = {}


class LeftThreads:
    """Tells if a task has left threads that run the user's own code."""

    def __init__(self) -> None:
        #: The threads that modules have started while they were imported.
        self._of_imports: set[threading.Thread] = set()
        #: The threads that packages have started. A thread of a pool may run the user's own code later.
        self._of_packages: set[threading.Thread] = set()

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
        self._of_imports.intersection_update(threads.values())
        self._of_packages.intersection_update(threads.values())
        for ident, frame in thread_frames().items():
            thread = threads.get(ident)
            if ident == own or thread in self._of_imports:
                continue
            if thread is not None and thread not in self._of_packages:
                if _is_started_by_own_code(thread):
                    return True
                self._of_packages.add(thread)
            if _runs_own_code(frame):
                return True
        return False


def _is_started_by_own_code(thread: threading.Thread) -> bool:
    """Return True if a thread was started to run the user's own code, or is a timer that has not fired.

    The thread of a timer that was cancelled is just ending.
    """
    if isinstance(thread, threading.Timer) and not thread.finished.is_set():
        return True
    # A thread that has just started has not called its function yet, so its stack does not show the function.
    function: Any = getattr(thread, "_target", None) or getattr(type(thread), "run", None)
    return _is_own(getattr(getattr(function, "__func__", function), "__globals__", None))


def _runs_own_code(frame: FrameType | None) -> bool:
    """Return True if a function of the user's own code is in a thread's stack."""
    while frame is not None:
        scope = frame.f_globals
        if id(scope) not in _foreign:
            if _is_own(scope):
                return True
            _foreign[id(scope)] = scope
        frame = frame.f_back
    return False


def _is_own(scope: dict[str, Any] | None) -> bool:
    """Return True if these are the globals of the user's own code.

    Globals without a ``__spec__`` belong to code that Handout has sent by value or that `exec` has run, because the
    import system sets a ``__spec__`` in each module that it loads.
    """
    if scope is None:
        return False
    spec: Any = scope.get("__spec__")
    return spec is None or importer.has_sent(spec.origin)
