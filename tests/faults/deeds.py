"""Functions that do what no function should: a user's own module, which travels by source."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
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


def _wait_until_told(ready: str, go: str) -> None:
    with open(ready, "w") as file:
        file.write(str(os.getpid()))
    os.rename(ready, ready + ".whole")
    while not os.path.exists(go):
        time.sleep(0.001)


def hoard_at_once(ready: str, go: str, megabytes: int) -> int:
    """Takes all of it at once when told to, faster than the agent looks."""
    _wait_until_told(ready, go)
    return len(bytearray(b"x" * (megabytes * MB)))


def forget_a_killed_child(ready: str, go: str, megabytes: int) -> int:
    """A child takes it, and the task ignores how the child ended."""
    _wait_until_told(ready, go)
    _run_a_hoarder(megabytes)
    return megabytes


def wait_though_killed(ready: str, go: str, megabytes: int) -> int:
    """A child takes it, and the task waits for an answer that never comes."""
    _wait_until_told(ready, go)
    _run_a_hoarder(megabytes)
    with open(ready + ".after", "w"):
        pass
    while True:
        time.sleep(1)


def _run_a_hoarder(megabytes: int) -> None:
    code = "held = bytearray(b'x' * (%d << 20))" % megabytes
    subprocess.run([sys.executable, "-c", code], check=False)


def hoard_in_a_grandchild(megabytes: int) -> int:
    """Takes it two processes away, in another session."""
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


def sum_all(arrays: list[Any]) -> int:
    """Touches every page of several."""
    found = int(sum(array.sum() for array in arrays))
    time.sleep(0.3)
    return found


def leave_file(path: str, megabytes: int, then: int) -> int:
    with open(path, "wb") as file:
        for _ in range(megabytes):
            file.write(bytes(MB))
    return then


def size_of(path: Any) -> int:
    return os.path.getsize(path)


async def hoard_nicely(megabytes: int) -> int:
    """A coroutine that costs no processor: it would share a process with others."""
    return hoard(megabytes)


def hoard_shared(megabytes: int, kind: str) -> int:
    """The same in memory that forks would share: it is no less memory for that."""
    if kind == "mmap":
        held = mmap.mmap(-1, megabytes * MB)
    else:
        fd = (
            os.memfd_create("held")
            if kind == "memfd"
            else os.open(f"/dev/shm/held-{os.getpid()}", os.O_CREAT | os.O_RDWR)
        )
        os.ftruncate(fd, megabytes * MB)
        held = mmap.mmap(fd, megabytes * MB)
        os.close(fd)
        if kind == "posix":
            os.unlink(f"/dev/shm/held-{os.getpid()}")
    for start in range(0, megabytes * MB, MB):
        held[start : start + MB] = b"x" * MB
        time.sleep(0.001)
    time.sleep(0.3)
    return megabytes


def read_beside_shared(array: Any, megabytes: int) -> int:
    """Reads all of an object, and holds shared memory and anonymous memory as well, a little of each."""
    hoard_shared(megabytes, "mmap")
    return int(array.sum())


def share_with_forks(megabytes: int, forks: int) -> int:
    """Shared memory that children read: each page is there once."""
    held = mmap.mmap(-1, megabytes * MB)
    for start in range(0, len(held), MB):
        held[start : start + MB] = b"x" * MB
    pids = []
    for _ in range(forks):
        pid = os.fork()
        if pid == 0:
            assert held.find(b"y") == -1
            time.sleep(0.5)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return megabytes


def start_threads(most: int) -> int:
    """Starts threads until the system allows no more; how many there were."""
    over = threading.Event()
    found = 0
    try:
        for _ in range(most):
            threading.Thread(target=over.wait, daemon=True).start()
            found += 1
    except RuntimeError:
        pass
    finally:
        over.set()
    return found


class Stubborn(Exception):
    """An exception that cannot be made again from its arguments."""

    def __init__(self, what: str, *, code: int) -> None:
        super().__init__(what)
        self.code = code


def raise_stubborn() -> None:
    raise Stubborn("no way back", code=3)


def interrupt() -> None:
    raise KeyboardInterrupt


def exit_hard(code: int) -> None:
    print("leaving", file=sys.stderr, flush=True)
    os._exit(code)


def die_of(number: int) -> None:
    """Sends a signal to its own process."""
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), number)
    time.sleep(60)


def close_everything() -> None:
    """Close descriptors that are not its own."""
    os.closerange(3, 1 << 16)
    time.sleep(60)


def become_another_program() -> None:
    """Replace the worker's process."""
    os.execv("/bin/sleep", ["sleep", "60"])


def hold_the_lock() -> None:
    """One call into C that keeps the interpreter's lock until it is over: no Python code runs meanwhile."""
    sum(range(10**13))


def fork_many(path: str, count: int) -> int:
    """A bounded fork bomb: children that fork once more, leave the session, and stay."""
    made = 0
    for _ in range(count):
        try:
            if os.fork() == 0:
                os.setsid()
                try:
                    os.fork()
                finally:
                    with open(path, "a", encoding="utf-8") as file:
                        file.write(f"{os.getpid()}\n")
                    time.sleep(600)
                    os._exit(0)
        except OSError:
            break
        made += 1
    return made


def return_a_lock() -> dict[str, list[Any]]:
    return {"model": [1, threading.Lock()]}


async def make_later(size: int) -> bytes:
    return bytes(size)


def become_a_daemon(path: str) -> str:
    """Forks twice and leaves the session between the forks, so that no ancestor knows the process."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open(path + ".part", "w", encoding="utf-8") as file:
                file.write(str(os.getpid()))
            os.rename(path + ".part", path)
            time.sleep(600)
        os._exit(0)
    while not os.path.exists(path):
        time.sleep(0.005)
    return "left"
