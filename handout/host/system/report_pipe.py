"""The pipe on which the supervisor and the agent report the start of the agent to `handout.host.boot`."""

from __future__ import annotations

import os
import stat


def end(fd: int) -> None:
    """Redirect the pipe's descriptor to /dev/null, because this process has no more to report.

    If the descriptor were closed, a new file could get the same number, and would receive a report that is still
    written to this number, as after an error.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd, inheritable=False)
    os.close(null)


def has_ended(fd: int) -> bool:
    """Return True if `end` was called for the pipe in this process."""
    return stat.S_ISCHR(os.fstat(fd).st_mode)
