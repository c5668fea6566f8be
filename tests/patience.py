"""How long a test waits for what must come, on a machine that may be busy.

:data:`HANG_S` is the bound of a wait that only a hang reaches. A bound that is a promise of Handout's own, such as the five
seconds of closing a cluster, is what the promise says on an idle machine, and is stretched on a busy one.
"""

from __future__ import annotations

import time

__all__ = ["HANG_S", "stretched"]

#: Seconds. It is below pytest's own limit for a test, whose failure would not say what was waited for.
HANG_S = 120.0

#: Seconds of CPU time over which the machine is measured: several slices of a scheduler.
_SAMPLE_S = 0.03


def stretched(limit_s: float) -> float:
    """Return how long something may take on this machine now that takes at most `limit_s` on an idle one.

    A computation on a machine with ten other busy processes takes several times its own CPU time; so does what the test
    measures.
    """
    began, until = time.monotonic(), time.thread_time() + _SAMPLE_S
    while time.thread_time() < until:
        pass
    return limit_s * max(1.0, (time.monotonic() - began) / _SAMPLE_S)
