"""The lease, which tells until when user code may run on this host.

The agent extends the lease when it hears from the controller. When the lease ends, the supervisor kills the workers.
"""

from __future__ import annotations

import mmap

from handout.host.system.clock import now_ns

_DEADLINE, _LINGER = 0, 1


class Lease:
    """The lease, in a page of memory that this process shares with the processes that it forks later.

    The page contains two values. Each is an aligned 64-bit word, so a reader never sees a half-written value.

    Args:
        timeout_s: Seconds from now until the lease ends, unless the agent extends it.
        linger_s: Seconds after the end of the lease during which the agent keeps finished results for the controller.
    """

    def __init__(self, timeout_s: float, linger_s: float) -> None:
        self._page = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self._page[_LINGER] = int(linger_s * 1e9)
        self._page[_DEADLINE] = now_ns() + int(timeout_s * 1e9)

    @property
    def deadline_ns(self) -> int:
        """The end of the lease, in nanoseconds of `clock.now_ns`."""
        return self._page[_DEADLINE]

    @property
    def linger_ns(self) -> int:
        """Nanoseconds after the end of the lease during which the agent keeps finished results."""
        return self._page[_LINGER]

    def extend(self, deadline_s: float) -> None:
        """Set the end of the lease to ``deadline_s``, a time in seconds on the clock of `clock.now`."""
        self._page[_DEADLINE] = int(deadline_s * 1e9)
