"""What is left of a run whose supervisor and agent were both killed: its folders and its processes.

Nobody who could end them was told to, so the next start on that host does. A folder is locked as long as the
supervisor or the agent lives; where nobody holds the lock, nobody looks after what belongs to the folder. Processes
carry the folder's name: what was started as a program in its environment, what only forked in a mapping that it
inherited from its worker, which no closing of descriptors takes away.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterable

from . import groups, page, processes

_ROUNDS = 5
_GONE_S = 1.0


def prefix() -> str:
    """How the names of all folders of this user begin."""
    return f"handout-{os.getuid()}-"


def _boot() -> bytes:
    """What tells this start of this machine from all others; empty where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()
    except OSError:
        return b""


def lock(folder: str, about: str | None = None, group_folders: Iterable[str] = ()) -> None:
    """Lock a folder as long as this process or the agent lives: so a later one can tell that it is in use.

    Args:
        folder: The folder.
        about: The run's own folder, whose name its processes carry, where that is another one.
        group_folders: Of the run's control groups.
    """
    try:
        fd = os.open(f"{folder}/.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(fd, b"\0".join([_boot(), *map(os.fsencode, (about or folder, *group_folders))]))
    except OSError:
        # A file system without locks: what is left there stays until somebody looks.
        pass


def remove_stale(base: str) -> None:
    """End and remove what is left of runs whose agent was killed together with its supervisor.

    Only here, and since this machine started: the base may be a file system that other machines share, and whose
    locks they may not see.
    """
    boot = _boot()
    for name in os.listdir(base) if boot else ():
        if not name.startswith(prefix()):
            continue
        try:
            fd = os.open(f"{base}/{name}/.lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            said, *noted = os.read(fd, 65536).split(b"\0")
            # Others may make folders here that are called like ours, and name any run in them.
            if said == boot and os.fstat(fd).st_uid == os.getuid():
                if noted:
                    end_processes(os.fsdecode(noted[0]))
                groups.remove(path for path in map(os.fsdecode, noted[1:]) if groups.is_ours(path, prefix()))
                shutil.rmtree(f"{base}/{name}", ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(fd)


def end_processes(folder: str) -> None:
    """Kill the processes of a run that carry its mark, and what is below them, of this user.

    Left out are this process and those above it: a program that a task left behind may have started it. They are
    stopped first, from round to round, until none is new: what is stopped cannot fork out of sight.
    """
    held: dict[int, int] = {}
    try:
        for _ in range(_ROUNDS):
            fresh = {pid: fd for pid, fd in _hold(folder, held).items() if pid not in held}
            if not fresh:
                break
            held.update(fresh)
            for pid, fd in fresh.items():
                _send(pid, fd, signal.SIGSTOP)
        for pid, fd in held.items():
            _send(pid, fd, signal.SIGKILL)
        until = time.monotonic() + _GONE_S
        while held and _carriers(folder) and time.monotonic() < until:
            time.sleep(0.005)
    finally:
        for fd in held.values():
            if fd >= 0:
                os.close(fd)


def _hold(folder: str, known: dict[int, int]) -> dict[int, int]:
    """New processes of a run with descriptors of theirs, -1 where the system has none.

    Looked at twice: once a process is held its number is not given to another one, so whoever is seen again under
    it is the one that was meant.
    """
    found: dict[int, int] = {}
    for pid in _carriers(folder) - known.keys():
        try:
            found[pid] = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
        except ProcessLookupError:
            continue
        except OSError:
            found[pid] = -1
    again = _carriers(folder) if found else set()
    for pid in found.keys() - again:
        if (fd := found.pop(pid)) >= 0:
            os.close(fd)
    return found


def _carriers(folder: str) -> set[int]:
    """Processes that carry a run's mark, and what is below them."""
    parents = processes.parents()
    spared = {os.getpid()}
    above = os.getpid()
    while (above := parents.get(above, 0)) and above not in spared:
        spared.add(above)
    marks = _marked(folder) - spared
    return (marks | set(processes.descendants(marks))) - spared


def _marked(folder: str) -> set[int]:
    marks = {
        "environ": (f"HANDOUT_RUN={folder}".encode(), b"\0"),
        "maps": (b"/memfd:" + page.label(folder).encode(), b" "),
    }
    found: set[int] = set()
    user = os.getuid()
    for name in filter(str.isdigit, os.listdir("/proc") if processes.LINUX else ()):
        for file, (mark, end) in marks.items():
            try:
                if os.stat(f"/proc/{name}").st_uid != user:
                    break
                with open(f"/proc/{name}/{file}", "rb") as stream:
                    text = stream.read()
            except OSError:
                break
            if mark + end in text and (file == "maps" or mark in text.split(end)):
                found.add(int(name))
                break
    return found


def _send(pid: int, fd: int, number: int) -> None:
    try:
        if fd >= 0:
            signal.pidfd_send_signal(fd, number)
        else:
            os.kill(pid, number)
    except OSError:
        pass
