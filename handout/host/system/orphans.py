"""Removes orphans: folders and processes of a run whose supervisor and agent were both killed.

The killed supervisor and agent could not clean up, so the next supervisor that starts on the host cleans up. While a
supervisor or an agent lives, it holds a lock on each folder of its run. So if no process holds the lock of a folder,
the folder is an orphan.

The processes of a run carry a mark. A program that a task has started has the path of the run's folder in the
environment variable ``HANDOUT_RUN``. A process that was forked from a worker has a memory mapping whose name contains
the name of the run's folder. The process inherited this mapping from the worker, and keeps it even if the process
closes all descriptors.
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
#: Seconds that `lock` keeps trying, because a process that looks for orphans may hold the lock for a moment.
_LOCK_WAIT_S = 0.5
#: `_kill_batch` searches at most this many times for processes to stop.
_ROUNDS = 5
#: Seconds that `_kill_batch` waits for the end of the processes that it has killed.
_KILLED_S = 1.0
#: `find` locks at most this many orphans in one call, and `_kill_batch` kills at most this many processes in one call.
#: The number is limited because each orphan and each process takes a descriptor.
_MOST_HELD = 32
#: `kill_processes` kills at most this many batches. Many are needed if a fork bomb has left thousands of processes.
_BATCHES = 200
#: Niceness of the process that removes orphans, so that it does not slow down the agent that is starting.
_NICE = 10
#: The process that removes orphans ends after this many seconds. On a busy host, its niceness leaves it little time of
#: the processor. Orphans that are left stay until the next supervisor starts.
_REMOVE_S = 600


def folder_prefix() -> str:
    """Return the beginning of the names of all folders of this user's runs."""
    return f"handout-{os.getuid()}-"


def _boot() -> bytes:
    """Return the id that the kernel chose when this machine started; empty if the system has no such id."""
    try:
        return _read("/proc/sys/kernel/random/boot_id").strip()
    except OSError:
        return b""


def lock(folder: str, run_folder: str | None = None, group_folders: Iterable[str] = ()) -> None:
    """Lock a folder. While this process or a process forked from it holds the lock, the folder is not an orphan.

    Args:
        folder: The folder to lock.
        run_folder: The run's private folder, whose name is in the mark of the run's processes. None: `folder` itself.
        group_folders: Folders of the run's control groups.
    """
    try:
        fd = os.open(f"{folder}/{_LOCK}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + _LOCK_WAIT_S
        while not _try_lock(fd) and time.monotonic() < until:
            time.sleep(0.005)
        os.write(fd, b"\0".join([_boot(), *map(os.fsencode, (run_folder or folder, *group_folders))]))
    except OSError:
        # The file system has no locks, or the file cannot be written. If the run is killed, its folder stays until the
        # user removes it.
        pass


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Orphan(NamedTuple):
    """An orphaned folder, and the run that the folder belongs to. The run's supervisor and agent have both ended."""

    folder: str
    #: Descriptor of the folder's lock file. While it is open, no other process removes or uses the folder.
    fd: int
    #: The run's private folder, whose name is in the mark of the run's processes.
    run: str
    #: Folders of the run's control groups.
    groups: list[str]


def find(bases: Iterable[str], known: Collection[str] = ()) -> list[Orphan]:
    """Find up to `_MOST_HELD` orphaned folders, and lock them.

    A folder counts only if this machine has locked it, and has not been restarted since then. Folders that another
    machine has locked may be in use, because several machines may share a file system, and this machine may not see the
    other machine's locks.

    Args:
        bases: Folders to look in. Other users may write there too, so this function opens only files of this user.
        known: Folders to leave out, because an earlier call found them.
    """
    boot = _boot()
    folders = (folder for base in bases for folder in _own_folders(base)) if boot else ()
    found = (_claim(folder, boot) for folder in folders if folder not in known)
    return list(islice((orphan for orphan in found if orphan is not None), _MOST_HELD))


def _own_folders(base: str) -> list[str]:
    """Return the folders in ``base`` that belong to this user and are named like the folder of a run."""
    found = []
    try:
        names = os.listdir(base)
    except OSError:
        return []  # the folder does not exist, or this user may not read it
    for name in names:
        folder = f"{base}/{name}"
        try:
            if name.startswith(folder_prefix()) and _is_own(os.lstat(folder), stat.S_IFDIR):
                found.append(folder)
        except OSError:
            pass  # the folder was removed in the meantime
    return found


def _is_own(status: os.stat_result, kind: int) -> bool:
    return stat.S_IFMT(status.st_mode) == kind and status.st_uid == os.getuid()


def _claim(folder: str, boot: bytes) -> Orphan | None:
    """Lock a folder and return it as an orphan. Return None if the folder is in use, or does not count; see `find`."""
    try:
        fd = os.open(f"{folder}/{_LOCK}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if _is_own(os.fstat(fd), stat.S_IFREG) and _try_lock(fd):
            locked_in, *paths = os.read(fd, 65536).split(b"\0")
            if locked_in == boot and paths:
                run, *noted = map(os.fsdecode, paths)
                groups = [path for path in noted if cgroups.is_run_folder(path, folder_prefix())]
                return Orphan(folder, fd, run, groups)
    except OSError:
        pass
    os.close(fd)
    return None


def remove_in_background(own: str, stores: str, report_fd: int) -> None:
    """If there are orphans on this host, start a process that kills their processes and removes their folders.

    This function does not wait until the new process ends, because a search through thousands of processes takes
    seconds. The new process is not a child of the caller, and may outlive the caller.

    Args:
        own: This run's private folder. The folders of other runs lie beside it.
        stores: The folder that contains the stores of runs.
        report_fd: The writing end of the pipe on which `handout.host.boot` waits for the agent's hello. The new process
            closes its copy of this descriptor. Otherwise `handout.host.boot` would get no end-of-file if the agent
            ends.
    """
    bases = [os.path.dirname(own), stores]
    found = find(bases)
    if not found:
        return
    try:
        # The ancestors are read before the fork. When a process ends, its child gets a new parent, so the ancestors
        # above the ended process could not be found any more.
        spared = processes.ancestors(os.getpid())
        pid = os.fork()
        if pid == 0:
            os.close(report_fd)
            _remove_all(found, bases, spared)
        os.waitpid(pid, 0)
    except OSError:
        pass  # the host cannot fork now, and the next supervisor that starts looks for orphans again
    for orphan in found:
        os.close(orphan.fd)


def _remove_all(found: list[Orphan], bases: Iterable[str], spared: Collection[int]) -> NoReturn:
    """Fork a process that removes the orphans in ``found``, and then looks for more. Then end this process.

    The forked process ends after at most `_REMOVE_S` seconds.
    """
    try:
        if os.fork() == 0:
            signal.alarm(_REMOVE_S)
            os.nice(_NICE)
            known: set[str] = set()
            while found:
                known.update(orphan.folder for orphan in found)
                _remove(found, spared)
                found = find(bases, known)
    except BaseException:
        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(0)


def _remove(found: Iterable[Orphan], spared: Collection[int]) -> None:
    kill_processes({orphan.run for orphan in found}, spared)
    for orphan in found:
        cgroups.remove(orphan.groups)
        try:
            _remove_folder(orphan.folder)
        except OSError:
            traceback.print_exc()  # go on with the other orphans
        os.close(orphan.fd)


def _remove_folder(folder: str) -> None:
    """Remove a folder. The lock file is removed last, so that a later search finds what this process has left."""
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != _LOCK:
            os.unlink(entry.path)
    shutil.rmtree(folder)


def kill_processes(folders: Collection[str], spared: Collection[int] = ()) -> None:
    """Kill this user's processes that carry the mark of one of these runs, and their descendants, but not this process.

    Args:
        folders: The private folders of the runs. All runs share one search, because a search takes long on a machine
            with thousands of processes.
        spared: Processes not to kill, such as the ancestors of this process. If one of them carries a mark, because a
            task of an orphaned run started it, its descendants are not killed either.
    """
    for _ in range(_BATCHES):
        if _kill_batch(folders, spared) < _MOST_HELD:
            return


def _kill_batch(folders: Collection[str], spared: Collection[int]) -> int:
    """Kill up to `_MOST_HELD` processes of these runs. Return how many processes were found.

    The function sends SIGSTOP to all processes before it kills the first, because a stopped process cannot fork. But a
    process may fork before it is stopped. So the function searches again until it finds no new process.
    """
    held: dict[int, int] = {}
    try:
        for _ in range(_ROUNDS):
            fresh = _hold(folders, spared, held)
            if not fresh:
                break
            held.update(fresh)
            for pid, fd in fresh.items():
                _send_signal(pid, fd, signal.SIGSTOP)
        for pid, fd in held.items():
            _send_signal(pid, fd, signal.SIGKILL)
        until = time.monotonic() + _KILLED_S
        while not held.keys().isdisjoint(_marked_trees(folders, spared)) and time.monotonic() < until:
            time.sleep(0.005)
    finally:
        for fd in held.values():
            if fd >= 0:
                os.close(fd)
    return len(held)


def _hold(folders: Collection[str], spared: Collection[int], known: dict[int, int]) -> dict[int, int]:
    """Find further processes of these runs. Return their descriptors by process number.

    A descriptor is -1 if the system gave none. After the first search, a process may end, and an unrelated process may
    get the same number. The descriptor then belongs to the unrelated process. So the function searches again, and
    returns only the numbers that it finds a second time. While the process of a descriptor lives, no other process has
    its number. Once that process has ended, signals to the descriptor reach nothing.

    Args:
        folders: See `kill_processes`.
        spared: See `kill_processes`.
        known: The processes that earlier calls found. They are left out.
    """
    found: dict[int, int] = {}
    for pid in islice(_marked_trees(folders, spared) - known.keys(), _MOST_HELD - len(known)):
        try:
            found[pid] = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
        except ProcessLookupError:
            continue
        except OSError:
            found[pid] = -1
    again = _marked_trees(folders, spared) if found else set()
    for pid in found.keys() - again:
        if (fd := found.pop(pid)) >= 0:
            os.close(fd)
    return found


def _marked_trees(folders: Collection[str], spared: Collection[int]) -> set[int]:
    """Return the processes to kill: those that carry the mark of one of these runs, and their descendants."""
    marked = _marked(folders)
    parents = processes.parents()  # read after the marks, so that this contains every marked process that still runs
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
        if any(page in maps for page in pages):
            found.add(int(name))
    return found


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _send_signal(pid: int, fd: int, number: int) -> None:
    try:
        if fd >= 0:
            signal.pidfd_send_signal(fd, number)
        else:
            os.kill(pid, number)
    except OSError:
        pass
