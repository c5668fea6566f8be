"""Functions that misbehave: they take too much memory, crash, fork too often, or never end.

The module travels to hosts as source, like a module of a user's project.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

MB = 1 << 20


def hoard(megabytes: int) -> int:
    """Take memory one MiB at a time, and free it at the end."""
    held = []
    for _ in range(megabytes):
        held.append(bytearray(b"x" * MB))
        time.sleep(0.001)
    time.sleep(1.0)  # on a busy machine, the agent's looks are further apart
    return len(held)


def _wait_until_told(ready: str, go: str) -> None:
    with open(ready, "w") as file:
        file.write(str(os.getpid()))
    os.rename(ready, ready + ".whole")
    while not os.path.exists(go):
        time.sleep(0.001)


def hoard_at_once(ready: str, go: str, megabytes: int) -> int:
    """Wait until the file `go` exists, then take all the memory at once, between two measurements by the agent."""
    _wait_until_told(ready, go)
    return len(bytearray(b"x" * (megabytes * MB)))


def forget_a_killed_child(ready: str, go: str, megabytes: int) -> int:
    """Let a child process take the memory, and ignore how the child ended."""
    _wait_until_told(ready, go)
    _run_a_hoarder(megabytes)
    return megabytes


def wait_though_killed(ready: str, go: str, megabytes: int) -> int:
    """Let a child process take the memory. After the child has ended, wait forever."""
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
    """Let a grandchild process take the memory, in a session of its own."""
    code = "import time; held = bytearray(b'x' * (%d << 20)); time.sleep(1)" % megabytes
    below = "import subprocess, sys; subprocess.run([sys.executable, '-c', %r], start_new_session=True)" % code
    subprocess.run([sys.executable, "-c", below], check=True)
    return megabytes


def fork_with_shared_pages(megabytes: int, forks: int) -> int:
    """Hold memory, and fork children that share its pages. Each page exists only once."""
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
    """Read every page of a mapped argument. Then sleep, so that the agent measures the memory of this task."""
    found = float(array.sum())
    time.sleep(0.3)
    return found


def sum_all(arrays: list[Any]) -> int:
    """Read every page of several mapped arguments. Then sleep, as `read_all` does."""
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
    """Do the same as `hoard` in a coroutine.

    A coroutine that is not CPU-intensive shares a worker with others, unless its memory cost is enforced.
    """
    return hoard(megabytes)


def hoard_shared(megabytes: int, kind: str) -> int:
    """Take shared memory one MiB at a time. It counts in full, although forks of this process would share it.

    Args:
        megabytes: The amount, in MiB.
        kind: ``mmap`` for an anonymous mapping, ``memfd`` for a file in memory, or ``posix`` for a file in /dev/shm.
    """
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
    """Take shared memory, and read every page of a mapped argument while holding it."""
    held = mmap.mmap(-1, megabytes * MB)
    for start in range(0, megabytes * MB, MB):
        held[start : start + MB] = b"x" * MB
    total = int(array.sum())
    time.sleep(0.3)  # the agent measures the memory meanwhile
    assert held[0:1] == b"x"
    return total


def share_with_forks(megabytes: int, forks: int) -> int:
    """Hold shared memory, and fork children that read it. Each page exists only once."""
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
    """Start up to `most` threads, until the system refuses one. Return the number of threads that started."""
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
    """An exception that cannot be pickled, because it holds a lock."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.lock = threading.Lock()


def raise_stubborn() -> None:
    raise Stubborn("no way back")


def interrupt() -> None:
    raise KeyboardInterrupt


def exit_hard(code: int) -> None:
    print("leaving", file=sys.stderr, flush=True)
    os._exit(code)


def die_of(number: int) -> None:
    """Send a signal to this process."""
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), number)
    time.sleep(60)


def close_everything() -> None:
    """Close descriptors that belong to the worker, such as its connection to the agent."""
    os.closerange(3, 1 << 16)
    time.sleep(60)


def become_another_program() -> None:
    """Replace the worker's program with `sleep`."""
    os.execv("/bin/sleep", ["sleep", "60"])


def hold_the_lock() -> None:
    """Make one long call into C that holds the interpreter's lock. No other Python code of the process can run."""
    sum(range(10**13))


def fork_many(path: str, count: int) -> int:
    """Act as a limited fork bomb. Each child starts its own session and forks once more, and both processes go on."""
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
    """Fork twice, and start a new session between the forks. The last process is then not a child of this one."""
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


def close_standard_descriptors() -> int:
    """Close standard input, output and error, as a library does that makes its process a daemon."""
    for fd in (0, 1, 2):
        os.close(fd)
    return os.getpid()


def write_and_print(path: str) -> list[str]:
    """Print while files are open, and return what the files contain."""
    files = [open(f"{path}.{i}", "w") for i in range(3)]  # noqa: SIM115 - they are closed below
    for file in files:
        file.write("data\n")
        file.flush()
    print("a line of progress", flush=True)
    print("another line", file=sys.stderr, flush=True)
    for file in files:
        file.close()
    return [Path(file.name).read_text(errors="replace") for file in files]


def change_the_user_and_return(megabytes: int) -> bytes:
    """Give up the superuser's rights for good, as a library does that drops privileges, and return a large result."""
    os.setuid(65534)
    return bytes(megabytes * MB)
