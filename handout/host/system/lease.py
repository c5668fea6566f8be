"""Until when user code may run on this host: a page of memory that the agent writes and the supervisor reads."""

from __future__ import annotations

import mmap

from handout.host.system.clock import now_ns

_DEADLINE, _LINGER = 0, 1


class Lease:
    """Shared by whoever is forked after it was made. Its words are aligned, so none is seen half written.

    Args:
        timeout_s: It ends so long after now, unless it is extended.
        linger_s: Seconds after its end that what has been computed is still wanted.
    """

    def __init__(self, timeout_s: float, linger_s: float) -> None:
        self._page = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self._page[_LINGER] = int(linger_s * 1e9)
        self._page[_DEADLINE] = now_ns() + int(timeout_s * 1e9)

    @property
    def deadline_ns(self) -> int:
        """When it ends, in nanoseconds of the clock."""
        return self._page[_DEADLINE]

    @property
    def linger_ns(self) -> int:
        """Nanoseconds of the lingering."""
        return self._page[_LINGER]

    def extend(self, deadline_s: float) -> None:
        """Let it end then, in seconds of the clock."""
        self._page[_DEADLINE] = int(deadline_s * 1e9)
