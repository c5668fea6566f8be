"""The page of memory that a worker shares with the agent. It tells which task runs, and which tasks are recalled.

The agent sends tasks to a worker in advance, and numbers them from 1. To recall a task means that the agent takes the
task back before the worker starts it.

The page consists of aligned 64-bit words. Each word is written by the agent alone or by the worker alone, and is always
written as a whole.

The worker first announces the number of a task on the page. *Then* it checks whether the agent has recalled the task.
The agent first writes the numbers of the recalled tasks. *Then* it waits for `SETTLE_S`, and reads which number the
worker has announced. So either the worker sees the recall, or the agent sees that the task has started.
"""

from __future__ import annotations

import mmap
import os
import signal
import tempfile

# The constants up to `WATCHED` are indexes of words on the page.

#: `ANNOUNCED`: the number of the task that the worker announced last. This number never decreases. `STARTED`: the time
#: of the announcement in nanoseconds of `clock.now_ns`.
ANNOUNCED, STARTED = 0, 1
#: `RECALLED_FROM`: the lowest number of the recalled tasks. `RECALLED_TO`: their highest number. The worker starts no
#: task with a number in this range.
RECALLED_FROM, RECALLED_TO = 2, 3
#: 1 if the worker must write large results to disk. 0 if the worker first tries the folder in memory.
SPILL = 4
#: 1 while the worker waits for a task.
IDLE = 5
#: 1 while a program watches a run. If it is 0, the worker sends no reports of tasks.
WATCHED = 6

#: The first real-time signal; None if the system has no such signals.
_FIRST = getattr(signal, "SIGRTMIN", None)
#: On this signal, a worker prints the stack of every thread.
SAMPLE_SIGNAL: int = _FIRST + 6 if _FIRST is not None else signal.SIGUSR1
#: On this signal, a worker sends to the agent the results that it has gathered.
FLUSH_SIGNAL: int = _FIRST + 5 if _FIRST is not None else signal.SIGUSR2

#: A number that no task has. If `RECALLED_FROM` has this value, no task is recalled.
NEVER = (1 << 63) - 1
#: Seconds that the agent waits after a recall before it reads the announced number. They suffice, because a processor
#: sees within microseconds what another processor has written to memory.
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
    try:
        os.ftruncate(fd, mmap.PAGESIZE)
        view = attach(fd)
    except OSError:
        os.close(fd)
        raise
    view[RECALLED_FROM] = NEVER
    return fd, view


def attach(fd: int) -> memoryview:
    """Map the page that a descriptor refers to, and return a view of its words."""
    return memoryview(mmap.mmap(fd, mmap.PAGESIZE)).cast("Q")


def detach(view: memoryview) -> None:
    """Unmap a page. Its mapping has a descriptor of its own, which would stay open as long as the view."""
    mapping = view.obj
    assert isinstance(mapping, mmap.mmap)
    view.release()
    mapping.close()
