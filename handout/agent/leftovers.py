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
import traceback
from collections.abc import Collection, Iterable
from typing import NamedTuple, NoReturn

from . import groups, page, processes

_ROUNDS = 5
_GONE_S = 1.0
#: What is left has time, those who begin have not; what it does not manage by then, the next one may.
_NICE = 10
_REMOVED_S = 60


def prefix() -> str:
    """How the names of all folders of this user begin."""
    return f"handout-{os.getuid()}-"


def _boot() -> bytes:
    """What tells this start of this machine from all others; empty where the system does not say."""
    try:
        return _read("/proc/sys/kernel/random/boot_id").strip()
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


class Leftover(NamedTuple):
    """A folder that nobody looks after, and what belongs to it."""

    folder: str
    #: Of its lock, which is held: nobody else takes it for a leftover meanwhile.
    fd: int
    #: The run's own folder, whose name its processes carry.
    run: str
    groups: list[str]


def find(base: str) -> list[Leftover]:
    """What is left below a folder of runs whose agent was killed together with its supervisor.

    Only of this machine's, and since it started: the base may be a file system that other machines share, and whose
    locks they may not see.

    Raises:
        OSError: The folder cannot be read.
    """
    boot = _boot()
    found: list[Leftover] = []
    for name in os.listdir(base) if boot else ():
        if not name.startswith(prefix()):
            continue
        folder = f"{base}/{name}"
        try:
            fd = os.open(f"{folder}/.lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            said, *noted = os.read(fd, 65536).split(b"\0")
            # Others may make folders here that are called like ours, and name any run in them.
            if said == boot and noted and os.fstat(fd).st_uid == os.getuid():
                run, *paths = map(os.fsdecode, noted)
                found.append(Leftover(folder, fd, run, [path for path in paths if groups.is_ours(path, prefix())]))
                continue
        except OSError:
            pass
        os.close(fd)
    return found


def begin_to_remove(bases: Iterable[str], report_fd: int) -> None:
    """Have a process of its own end and remove what is left below folders of runs.

    Nobody waits for it: on a machine with thousands of processes it takes seconds to look through them. It may outlive
    this process, whose run may be short, and is no child of it.

    Args:
        bases: Where the runs' folders are.
        report_fd: A descriptor that it must not hold open.
    """
    found: list[Leftover] = []
    for base in bases:
        try:
            found += find(base)
        except OSError:
            pass  # it cannot be read, or is not there
    if found:
        # Now: later, what started this process may have ended, and who started that is not found any more.
        spared = processes.ancestors(os.getpid())
        try:
            pid = os.fork()
            if pid == 0:
                os.close(report_fd)
                _remove(found, spared)
            os.waitpid(pid, 0)
        except OSError:
            pass  # there is no room for it: the next start looks again
    for leftover in found:
        os.close(leftover.fd)


def _remove(found: Collection[Leftover], spared: Collection[int]) -> NoReturn:
    """Be the process that removes what was found, for a bounded time."""
    try:
        if os.fork() == 0:
            signal.alarm(_REMOVED_S)
            os.nice(_NICE)
            end_processes({leftover.run for leftover in found}, spared)
            for leftover in found:
                groups.remove(leftover.groups)
                shutil.rmtree(leftover.folder, ignore_errors=True)
    except BaseException:
        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(0)


def end_processes(folders: Collection[str], spared: Collection[int] = ()) -> None:
    """Kill the processes of runs that carry their marks, and what is below them, of this user; not this one.

    They are stopped first, from round to round, until none is new: what is stopped cannot fork out of sight.

    Args:
        folders: The runs' own folders. They are looked for together: to look at all processes takes its time where
            there are thousands.
        spared: Processes that are left out. One of them that carries a mark is a program that a task left behind, and
            has started another run: it is left alone with all below it.
    """
    held: dict[int, int] = {}
    try:
        for _ in range(_ROUNDS):
            fresh = {pid: fd for pid, fd in _hold(folders, spared, held).items() if pid not in held}
            if not fresh:
                break
            held.update(fresh)
            for pid, fd in fresh.items():
                _send(pid, fd, signal.SIGSTOP)
        for pid, fd in held.items():
            _send(pid, fd, signal.SIGKILL)
        until = time.monotonic() + _GONE_S
        while held and _carriers(folders, spared) and time.monotonic() < until:
            time.sleep(0.005)
    finally:
        for fd in held.values():
            if fd >= 0:
                os.close(fd)


def _hold(folders: Collection[str], spared: Collection[int], known: dict[int, int]) -> dict[int, int]:
    """New processes of a run with descriptors of theirs, -1 where the system has none.

    Looked at twice: once a process is held its number is not given to another one, so whoever is seen again under
    it is the one that was meant.
    """
    found: dict[int, int] = {}
    for pid in _carriers(folders, spared) - known.keys():
        try:
            found[pid] = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
        except ProcessLookupError:
            continue
        except OSError:
            found[pid] = -1
    again = _carriers(folders, spared) if found else set()
    for pid in found.keys() - again:
        if (fd := found.pop(pid)) >= 0:
            os.close(fd)
    return found


def _carriers(folders: Collection[str], spared: Collection[int]) -> set[int]:
    """Processes that carry the mark of one of these runs, and what is below them."""
    marked = _marked(folders)
    parents = processes.parents()  # after that: whoever is marked is known here, too, or has ended
    starters = marked.intersection(spared)
    left_out = {os.getpid(), *spared, *processes.descendants(starters, parents)}
    return {*marked, *processes.descendants(marked, parents)} - left_out


def _marked(folders: Collection[str]) -> set[int]:
    variables = {f"HANDOUT_RUN={folder}".encode() for folder in folders}
    pages = [b"/memfd:" + page.label(folder).encode() + b" " for folder in folders]
    found: set[int] = set()
    user = os.getuid()
    for name in filter(str.isdigit, os.listdir("/proc") if processes.LINUX else ()):
        try:
            if os.stat(f"/proc/{name}").st_uid != user:
                continue
            if not variables.isdisjoint(_read(f"/proc/{name}/environ").split(b"\0")):
                found.add(int(name))
                continue
            maps = _read(f"/proc/{name}/maps")
        except OSError:
            continue
        if any(mark in maps for mark in pages):
            found.add(int(name))
    return found


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _send(pid: int, fd: int, number: int) -> None:
    try:
        if fd >= 0:
            signal.pidfd_send_signal(fd, number)
        else:
            os.kill(pid, number)
    except OSError:
        pass
