"""The one clock of leases and durations: it goes on while a machine is suspended, and no one can set it."""

from __future__ import annotations

import time

if hasattr(time, "CLOCK_BOOTTIME"):

    def now_ns() -> int:
        """Nanoseconds since the machine started, suspended time included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

else:  # pragma: no cover - macOS

    def now_ns() -> int:
        """Nanoseconds of the monotonic clock."""
        return time.monotonic_ns()


def now() -> float:
    """The same in seconds."""
    return now_ns() / 1e9
