"""The page of memory that a worker shares with the agent: the running task, its start, and the recalled tasks.

The page consists of aligned 64-bit words. Only one side writes a word, and it writes the whole word at once.

The worker first announces the number of a task on the page. *Then* it checks whether the agent has recalled the task.
The agent first writes the numbers of the recalled tasks. *Then* it waits for `SETTLE_S`, and reads which number the
worker has announced. So either the worker sees the recall, or the agent sees that the task has started.
"""

from __future__ import annotations

import mmap
import os
import signal
import tempfile

# The constants up to `IDLE` are indexes of words on the page.

#: The number of the task that the worker announced last, and the time of that announcement in nanoseconds of
#: `clock.now_ns`. The number never decreases.
ANNOUNCED, STARTED = 0, 1
#: The lowest and the highest number of the recalled tasks. The worker starts no task with a number in this range.
RECALLED_FROM, RECALLED_TO = 2, 3
#: Where the worker writes large results. 0: into memory. 1: to disk.
SPILL = 4
#: 1 while the worker waits for a task.
IDLE = 5

#: Signals to a worker. On SAMPLE_SIGNAL the worker prints the stack of every thread. On FLUSH_SIGNAL it sends the
#: results that it has gathered.
_FIRST = getattr(signal, "SIGRTMIN", None)
SAMPLE_SIGNAL: int = _FIRST + 6 if _FIRST is not None else signal.SIGUSR1
FLUSH_SIGNAL: int = _FIRST + 5 if _FIRST is not None else signal.SIGUSR2

#: A number that no task has. As the lowest recalled number, it means that no task is recalled.
NEVER = (1 << 63) - 1
#: Seconds that the agent waits after a recall before it reads the announced number. A processor sees within
#: microseconds what another processor has written to memory.
SETTLE_S = 0.001


def page_name(folder: str) -> str:
    """Return the name of a run's shared pages. A process that has mapped such a page belongs to the run.

    Args:
        folder: The run's private folder.
    """
    return f"handout-page-{os.path.basename(folder)[:200]}"


def create(folder: str) -> tuple[int, memoryview]:
    """Make a page. Return a descriptor to pass to the worker, and the agent's view of the page.

    Args:
        folder: The run's private folder.
    """
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
    """Map the page that a descriptor refers to, and return a view of its words."""
    return memoryview(mmap.mmap(fd, mmap.PAGESIZE)).cast("Q")
