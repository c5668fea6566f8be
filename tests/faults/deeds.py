"""Functions that do what no function should: a user's own module, which travels by source."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

MB = 1 << 20


def hoard(megabytes: int) -> int:
    """Takes memory bit by bit, and gives it back at its end."""
    held = []
    for _ in range(megabytes):
        held.append(bytearray(b"x" * MB))
        time.sleep(0.001)
    time.sleep(0.3)
    return len(held)


def hoard_in_a_grandchild(megabytes: int) -> int:
    """The same, two processes away, in a session of its own."""
    code = "import time; held = bytearray(b'x' * (%d << 20)); time.sleep(1)" % megabytes
    below = "import subprocess, sys; subprocess.run([sys.executable, '-c', %r], start_new_session=True)" % code
    subprocess.run([sys.executable, "-c", below], check=True)
    return megabytes


def fork_with_shared_pages(megabytes: int, forks: int) -> int:
    """Children that read what their parent holds: each page is there once, however many can see it."""
    held = [bytearray(b"x" * MB) for _ in range(megabytes)]
    pids = []
    for _ in range(forks):
        pid = os.fork()
        if pid == 0:
            time.sleep(0.5)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return len(held)


def read_all(array: Any) -> float:
    """Touches every page of what was mapped for it, for long enough to be looked at."""
    found = float(array.sum())
    time.sleep(0.3)
    return found


async def hoard_nicely(megabytes: int) -> int:
    """A coroutine that costs no processor: it would share a process with others."""
    return hoard(megabytes)
