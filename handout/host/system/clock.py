"""The one clock of leases and durations: it counts suspended time, and setting the system time does not move it."""

from __future__ import annotations

import time

if hasattr(time, "CLOCK_BOOTTIME"):

    def now_ns() -> int:
        """Return nanoseconds since the machine started, suspended time included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

else:  # pragma: no cover - macOS

    def now_ns() -> int:
        """Return nanoseconds of the monotonic clock."""
        return time.monotonic_ns()


def now() -> float:
    """Return `now_ns` in seconds."""
    return now_ns() / 1e9
