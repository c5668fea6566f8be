"""Functions that replace a function for one attempt, so that `handout.testing.Faults` brings about a fault in it.

The controller sends such a function in place of the task's own one, with the task's own arguments. So neither agents
nor workers have code for faults.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import types
from typing import Any

from handout.serialization import calls, pickling

__all__ = ["HOLD_S", "FaultyFunction"]

#: A worker is killed when the task's function returns, but at the latest after this many seconds.
_KILL_AFTER_S = 0.2
#: An attempt that waits for its fault waits for this many seconds at most. Then the function's result counts.
HOLD_S = 120.0
#: An attempt during which the link is cut takes at least this many seconds, so that the agent reports its start.
_LINGER_S = 1.0


class FaultyFunction:
    """A function of a task, with a fault.

    Args:
        kind: ``raise``: raise the error and do not call the function. ``die``: call the function, and kill the process
            meanwhile. ``hold``: call the function, and then wait for the end of the process. ``linger``: call the
            function, and take a while.
        function: The pickled function of the task.
        error: The pickled exception of the kind ``raise``.
    """

    def __init__(self, kind: str, function: bytes, error: bytes = b"") -> None:
        self._kind = kind
        self._function = function
        self._error = error
        #: Classes that must stay as long as the function; see `calls.Accompanied`.
        self._companions: Any = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._kind == "raise":
            raise pickling.loads(self._error)
        began = time.monotonic()
        if self._kind == "die":
            threading.Thread(target=_die, args=[_KILL_AFTER_S], daemon=True).start()
        value = self._load()(*args, **kwargs)
        if type(value) is types.CoroutineType:
            value = asyncio.run(value)
        if self._kind == "die":
            _die(0.0)
        elif self._kind == "hold":
            time.sleep(HOLD_S)
        elif self._kind == "linger":
            time.sleep(max(0.0, began + _LINGER_S - time.monotonic()))
        return value

    def _load(self) -> Any:
        loaded = pickling.loads(self._function)
        if type(loaded) is calls.Accompanied:
            loaded, self._companions = loaded
        return loaded


def _die(after_s: float) -> None:
    time.sleep(after_s)
    os.kill(os.getpid(), signal.SIGKILL)
