"""A thread that calls the callbacks of a library, which may take long or wait for ever."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Final

__all__ = ["CallbackThread"]

#: Seconds that `end` waits for the thread.
_END_S: Final = 1.0


class CallbackThread:
    """Calls functions one after another in a thread of its own, which starts with the first of them.

    The event loop of a cluster must not call them: while user code runs there, the controller hears no host. The thread
    does not keep the program from ending.

    Args:
        name: The name of the thread.
        failed: Called in the thread with whatever a function raises.
    """

    def __init__(self, name: str, failed: Callable[[BaseException], object]) -> None:
        self._failed = failed
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._lock = threading.Lock()
        self._has_ended = False
        self._queue: queue.SimpleQueue[tuple[Callable[[Any], object], Any] | None] = queue.SimpleQueue()

    def call(self, function: Callable[[Any], object], argument: Any) -> None:
        """Call a function soon, unless `end` was called. Any thread may use this method."""
        with self._lock:
            if self._has_ended:
                return
            if self._thread.ident is None:
                self._thread.start()
            self._queue.put((function, argument))

    def end(self) -> None:
        """Call no more functions. Wait for at most 1 s until the present one has returned."""
        with self._lock:
            first, self._has_ended = not self._has_ended, True
            if not first or self._thread.ident is None:
                return
            self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(_END_S)

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            if self._has_ended:
                return
            function, argument = entry
            try:
                function(argument)
            except BaseException as error:  # a KeyboardInterrupt here did not come from the user's keyboard either
                self._failed(error)
            del entry, function, argument  # the thread must not keep results alive while it waits
