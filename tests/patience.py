"""Time limits for tests, on a machine that may be busy.

`HANG_S` is for waits that reach their limit only if the code hangs. Handout also promises some limits, such as five
seconds for closing a cluster. A promise holds on an idle machine. `stretched` returns the longer limit for a busy one.
"""

from __future__ import annotations

import time

__all__ = ["HANG_S", "stretched"]

#: Seconds. This is less than pytest's limit for a test, because pytest's message does not say what the test waited for.
HANG_S = 120.0

#: Seconds of CPU time that one measurement of the machine takes: several time slices of the system's scheduler.
_SAMPLE_S = 0.03


def stretched(limit_s: float) -> float:
    """Return the limit on this machine now for an action that takes at most `limit_s` on an idle machine.

    Beside ten other busy processes, a computation takes several times its CPU time, and so does the action that the
    test measures. The function measures this factor with a short computation.
    """
    began, until = time.monotonic(), time.thread_time() + _SAMPLE_S
    while time.thread_time() < until:
        pass
    return limit_s * max(1.0, (time.monotonic() - began) / _SAMPLE_S)
