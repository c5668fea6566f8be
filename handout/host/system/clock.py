"""The one clock by which leases and the durations of tasks are measured. It does not jump when the system time is set.

On Linux this clock also counts the time during which the machine was suspended.
"""

from __future__ import annotations

import time

if hasattr(time, "CLOCK_BOOTTIME"):

    def now_ns() -> int:
        """Return the nanoseconds since the machine started. They include the time during which it was suspended."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

else:  # pragma: no cover - macOS

    def now_ns() -> int:
        """Return the time of the monotonic clock in nanoseconds."""
        return time.monotonic_ns()


def now() -> float:
    """Return the time of `now_ns` in seconds."""
    return now_ns() / 1e9
