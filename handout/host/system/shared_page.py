"""The page of memory that a worker shares with the agent: what runs, since when, and what must not start.

Aligned 64-bit words, each written whole by one side. A worker announces a task's number *before* it looks
whether that number has been revoked; the agent revokes *before* it looks what was announced, a moment later
(:data:`SETTLE_S`). So either the worker sees that its task was revoked, or the agent sees that it has started.
"""

from __future__ import annotations

import mmap
import os
import signal
import tempfile

#: Number of the task that was started last, or was looked at; when that was, in nanoseconds. Never goes back.
ANNOUNCED, STARTED = 0, 1
#: Numbers from the first to the second, both included, must not start.
RECALLED_FROM, RECALLED_TO = 2, 3
#: Where large results are to be written: 0 in memory, 1 on disk.
SPILL = 4
#: 1 while the worker waits for something to do.
IDLE = 5

#: Signals to a worker: write down where every thread is; send what results are held back.
_FIRST = getattr(signal, "SIGRTMIN", None)
SAMPLE_SIGNAL: int = _FIRST + 6 if _FIRST is not None else signal.SIGUSR1
FLUSH_SIGNAL: int = _FIRST + 5 if _FIRST is not None else signal.SIGUSR2

#: No task has this number.
NEVER = (1 << 63) - 1
#: How long the agent waits before it believes what it reads after a revocation. A store becomes visible to
#: other processors within microseconds.
SETTLE_S = 0.001


def page_name(folder: str) -> str:
    """What the pages of a run are called: by it, whoever has one mapped is known as one of its processes."""
    return f"handout-page-{os.path.basename(folder)[:200]}"


def create(folder: str) -> tuple[int, memoryview]:
    """A new page: a descriptor to hand to the worker, and this side's view."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(page_name(folder), os.MFD_CLOEXEC)
    else:  # pragma: no cover - macOS
        fd, path = tempfile.mkstemp(dir=folder)
        os.unlink(path)
    os.ftruncate(fd, mmap.PAGESIZE)
    view = attach(fd)
    view[RECALLED_FROM] = NEVER
    return fd, view


def attach(fd: int) -> memoryview:
    """The page behind a descriptor."""
    return memoryview(mmap.mmap(fd, mmap.PAGESIZE)).cast("Q")
