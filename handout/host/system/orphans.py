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
import stat
import time
import traceback
from collections.abc import Collection, Iterable
from itertools import islice
from typing import NamedTuple, NoReturn

from handout.host.system import cgroups, processes, shared_page

_LOCK = ".lock"
#: A lock that is free is held by whoever looks whether it is, for a moment.
_LOOKED_S = 0.5
_ROUNDS = 5
_GONE_S = 1.0
#: Leftovers and processes that are held at a time: each takes a descriptor.
_MOST_HELD = 32
#: How often as many processes are ended: a fork bomb may leave thousands.
_BATCHES = 200
#: What is left has time, those who begin have not; what it does not manage by then, the next one may.
_NICE = 10
_REMOVED_S = 60


def folder_prefix() -> str:
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
        fd = os.open(f"{folder}/{_LOCK}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + _LOOKED_S
        while not _locked(fd) and time.monotonic() < until:
            time.sleep(0.005)
        os.write(fd, b"\0".join([_boot(), *map(os.fsencode, (about or folder, *group_folders))]))
    except OSError:
        # A file system without locks: what is left there stays until somebody looks.
        pass


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Orphan(NamedTuple):
    """A folder that nobody looks after, and what belongs to it."""

    folder: str
    #: Of its lock, which is held: nobody else takes it for a leftover meanwhile.
    fd: int
    #: The run's own folder, whose name its processes carry.
    run: str
    groups: list[str]


def find(bases: Iterable[str], known: Collection[str] = ()) -> list[Orphan]:
    """What is left below folders of runs whose agent was killed together with its supervisor; not all of it at once.

    Only of this machine's, and since it started: a base may be a file system that other machines share, and whose
    locks they may not see.

    Args:
        bases: Where to look. Others may write there, too: only what is this user's is opened.
        known: Folders that have been found already.
    """
    boot = _boot()
    folders = (folder for base in bases for folder in _own(base)) if boot else ()
    found = (_look(folder, boot) for folder in folders if folder not in known)
    return list(islice((leftover for leftover in found if leftover is not None), _MOST_HELD))


def _own(base: str) -> list[str]:
    """Folders of this user below a base that are called like a run's."""
    found = []
    try:
        names = os.listdir(base)
    except OSError:
        return []  # it cannot be read, or is not there
    for name in names:
        folder = f"{base}/{name}"
        try:
            if name.startswith(folder_prefix()) and _is_own(os.lstat(folder), stat.S_IFDIR):
                found.append(folder)
        except OSError:
            pass  # gone meanwhile
    return found


def _is_own(status: os.stat_result, kind: int) -> bool:
    return stat.S_IFMT(status.st_mode) == kind and status.st_uid == os.getuid()


def _look(folder: str, boot: bytes) -> Orphan | None:
    """A folder as one that is left; None where somebody looks after it, or cannot be told."""
    try:
        fd = os.open(f"{folder}/{_LOCK}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if _is_own(os.fstat(fd), stat.S_IFREG) and _locked(fd):
            said, *noted = os.read(fd, 65536).split(b"\0")
            if said == boot and noted:
                run, *paths = map(os.fsdecode, noted)
                return Orphan(folder, fd, run, [path for path in paths if cgroups.is_run_folder(path, folder_prefix())])
    except OSError:
        pass
    os.close(fd)
    return None


def remove_in_background(own: str, stores: str, report_fd: int) -> None:
    """Have a process of its own end and remove what is left of runs.

    Nobody waits for it: on a machine with thousands of processes it takes seconds to look through them. It may outlive
    this process, whose run may be short, and is no child of it.

    Args:
        own: This run's folder: others' are beside it.
        stores: Where the stores of runs are.
        report_fd: A descriptor that it must not hold open.
    """
    bases = [os.path.dirname(own), stores]
    found = find(bases)
    if not found:
        return
    try:
        # Now: later, what started this process may have ended, and who started that is not found any more.
        spared = processes.ancestors(os.getpid())
        pid = os.fork()
        if pid == 0:
            os.close(report_fd)
            _remove_all(found, bases, spared)
        os.waitpid(pid, 0)
    except OSError:
        pass  # there is no room for it: the next start looks again
    for leftover in found:
        os.close(leftover.fd)


def _remove_all(found: list[Orphan], bases: Iterable[str], spared: Collection[int]) -> NoReturn:
    """Be the process that removes what was found, and what else there is, for a bounded time."""
    try:
        if os.fork() == 0:
            signal.alarm(_REMOVED_S)
            os.nice(_NICE)
            known: set[str] = set()
            while found:
                known.update(leftover.folder for leftover in found)
                _remove(found, spared)
                found = find(bases, known)
    except BaseException:
        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(0)


def _remove(found: Iterable[Orphan], spared: Collection[int]) -> None:
    kill_processes({leftover.run for leftover in found}, spared)
    for leftover in found:
        cgroups.remove(leftover.groups)
        try:
            _remove_folder(leftover.folder)
        except OSError:
            traceback.print_exc()  # the others are removed all the same
        os.close(leftover.fd)


def _remove_folder(folder: str) -> None:
    """Remove a folder, and last what says whose it is: whoever is stopped before that leaves a leftover."""
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != _LOCK:
            os.unlink(entry.path)
    shutil.rmtree(folder)


def kill_processes(folders: Collection[str], spared: Collection[int] = ()) -> None:
    """Kill the processes of runs that carry their marks, and what is below them, of this user; not this one.

    Args:
        folders: The runs' own folders. They are looked for together: to look at all processes takes its time where
            there are thousands.
        spared: Processes that are left out. One of them that carries a mark is a program that a task left behind, and
            has started another run: it is left alone with all below it.
    """
    for _ in range(_BATCHES):
        if _end_some(folders, spared) < _MOST_HELD:
            return


def _end_some(folders: Collection[str], spared: Collection[int]) -> int:
    """Do so with as many as can be held; answers how many there were.

    They are stopped first, from round to round, until none is new: what is stopped cannot fork out of sight.
    """
    held: dict[int, int] = {}
    try:
        for _ in range(_ROUNDS):
            fresh = _hold(folders, spared, held)
            if not fresh:
                break
            held.update(fresh)
            for pid, fd in fresh.items():
                _send(pid, fd, signal.SIGSTOP)
        for pid, fd in held.items():
            _send(pid, fd, signal.SIGKILL)
        until = time.monotonic() + _GONE_S
        while not held.keys().isdisjoint(_carriers(folders, spared)) and time.monotonic() < until:
            time.sleep(0.005)
    finally:
        for fd in held.values():
            if fd >= 0:
                os.close(fd)
    return len(held)


def _hold(folders: Collection[str], spared: Collection[int], known: dict[int, int]) -> dict[int, int]:
    """New processes of a run with descriptors of theirs, -1 where the system has none.

    Looked at twice: once a process is held its number is not given to another one, so whoever is seen again under
    it is the one that was meant.
    """
    found: dict[int, int] = {}
    for pid in islice(_carriers(folders, spared) - known.keys(), _MOST_HELD - len(known)):
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
    pages = [b"/memfd:" + shared_page.page_name(folder).encode() + b" " for folder in folders]
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
