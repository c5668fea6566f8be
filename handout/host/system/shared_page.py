"""The page of memory that a worker shares with the agent: the running task, its start, and the recalled tasks.

The page holds aligned 64-bit words, and each word is written as a whole by one side. A worker announces a task's number
*before* it reads whether the agent has recalled that number. The agent recalls numbers *before* it reads which number
is announced, and reads `SETTLE_S` later. So either the worker sees the recall, or the agent sees that the task started.
"""

from __future__ import annotations

import mmap
import os
import signal
import tempfile

#: Number of the task that the worker announced last, and nanoseconds of `clock.now_ns` at that moment. The number never
#: decreases.
ANNOUNCED, STARTED = 0, 1
#: The worker must not start tasks with numbers from the first word to the second, both included.
RECALLED_FROM, RECALLED_TO = 2, 3
#: Where the worker writes large results: 0 in memory, 1 on disk.
SPILL = 4
#: 1 while the worker waits for a task.
IDLE = 5

#: Signals to a worker. On SAMPLE_SIGNAL it prints the stack of every thread. On FLUSH_SIGNAL it sends the results that
#: it holds back.
_FIRST = getattr(signal, "SIGRTMIN", None)
SAMPLE_SIGNAL: int = _FIRST + 6 if _FIRST is not None else signal.SIGUSR1
FLUSH_SIGNAL: int = _FIRST + 5 if _FIRST is not None else signal.SIGUSR2

#: A number that no task has.
NEVER = (1 << 63) - 1
#: Seconds between the agent's recall and its read of the announced number. A store becomes visible to other processors
#: within microseconds.
SETTLE_S = 0.001


def page_name(folder: str) -> str:
    """Return the name of the pages of the run with this folder. A process that maps one belongs to the run."""
    return f"handout-page-{os.path.basename(folder)[:200]}"


def create(folder: str) -> tuple[int, memoryview]:
    """Make a page. Return a descriptor to pass to the worker, and the agent's view of the page."""
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
    """Return a view of the page that a descriptor stands for."""
    return memoryview(mmap.mmap(fd, mmap.PAGESIZE)).cast("Q")
