"""Removes orphans: folders and processes of a run whose supervisor and agent were both killed.

Neither of the two could clean up, so the next agent that starts on the host does. The supervisor and the agent hold a
lock on each folder of their run, so an unlocked folder is an orphan. The processes of a run carry the name of its
folder: a program has it in its environment, and a process that was only forked has it in the name of a memory mapping
that it inherited from its worker. Closing descriptors does not remove such a mapping.
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
#: Seconds that `lock` retries. A process that looks for orphans takes each free lock for a moment.
_LOCK_WAIT_S = 0.5
#: Rounds of stopping processes until no new one is found.
_ROUNDS = 5
#: Seconds to wait until killed processes have ended.
_KILLED_S = 1.0
#: Orphans and processes that are held at a time: each of them takes a descriptor.
_MOST_HELD = 32
#: Batches of processes that are killed at most. A fork bomb may leave thousands of processes.
_BATCHES = 200
#: Niceness of the process that removes orphans, and seconds after which it ends. The niceness keeps it from slowing
#: down the agent that starts. Orphans that are left after these seconds stay until the next agent starts.
_NICE = 10
_REMOVE_S = 60


def folder_prefix() -> str:
    """Return how the names of all folders of this user's runs begin."""
    return f"handout-{os.getuid()}-"


def _boot() -> bytes:
    """Return the id that the kernel chose when this machine started; empty if the system has no such id."""
    try:
        return _read("/proc/sys/kernel/random/boot_id").strip()
    except OSError:
        return b""


def lock(folder: str, run_folder: str | None = None, group_folders: Iterable[str] = ()) -> None:
    """Lock a folder, so that it is no orphan until this process and all processes that it forks have ended.

    Args:
        folder: The folder to lock.
        run_folder: The run's own folder, whose name its processes carry. None: `folder` is that folder.
        group_folders: Folders of the run's control groups.
    """
    try:
        fd = os.open(f"{folder}/{_LOCK}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + _LOCK_WAIT_S
        while not _try_lock(fd) and time.monotonic() < until:
            time.sleep(0.005)
        os.write(fd, b"\0".join([_boot(), *map(os.fsencode, (run_folder or folder, *group_folders))]))
    except OSError:
        # A file system without locks. If the run is killed there, its folder stays until the user removes it.
        pass


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Orphan(NamedTuple):
    """A folder whose supervisor and agent are both gone, and what belongs to its run."""

    folder: str
    #: Descriptor of the folder's lock. No other process takes the folder until this process closes the descriptor.
    fd: int
    #: The run's own folder, whose name its processes carry.
    run: str
    #: Folders of the run's control groups.
    groups: list[str]


def find(bases: Iterable[str], known: Collection[str] = ()) -> list[Orphan]:
    """Return up to `_MOST_HELD` orphans below some folders, and hold their locks.

    Folders that another machine locked, or this machine before it last started, are not returned. Several machines may
    share a base's file system, and one machine may not see the locks of another.

    Args:
        bases: Folders to look in. Other users may write there, so only files that this user owns are opened.
        known: Folders that were found before, to be left out.
    """
    boot = _boot()
    folders = (folder for base in bases for folder in _own_folders(base)) if boot else ()
    found = (_claim(folder, boot) for folder in folders if folder not in known)
    return list(islice((orphan for orphan in found if orphan is not None), _MOST_HELD))


def _own_folders(base: str) -> list[str]:
    """Return the folders below a base that this user owns and that are named like a run's."""
    found = []
    try:
        names = os.listdir(base)
    except OSError:
        return []  # the base does not exist, or this user may not read it
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
    """Return a folder as an orphan whose lock this process holds; None if it is in use, or has no readable lock."""
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
    """Start a process that kills and removes the orphans on this host, if there are any.

    The caller does not wait for it: on a machine with thousands of processes, looking through them takes seconds. The
    process is no child of the caller, and may outlive it.

    Args:
        own: This run's folder. The folders of other runs lie beside it.
        stores: The folder that holds the stores of runs.
        report_fd: A descriptor that the new process must not hold open.
    """
    bases = [os.path.dirname(own), stores]
    found = find(bases)
    if not found:
        return
    try:
        # The ancestors are read now, because a parent may end later and cut the chain to the ones above it.
        spared = processes.ancestors(os.getpid())
        pid = os.fork()
        if pid == 0:
            os.close(report_fd)
            _remove_all(found, bases, spared)
        os.waitpid(pid, 0)
    except OSError:
        pass  # the host cannot fork now: the next start looks for orphans again
    for orphan in found:
        os.close(orphan.fd)


def _remove_all(found: list[Orphan], bases: Iterable[str], spared: Collection[int]) -> NoReturn:
    """Fork a process that removes these orphans, and then further ones, for a bounded time. End this process."""
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
            traceback.print_exc()  # the other orphans are removed all the same
        os.close(orphan.fd)


def _remove_folder(folder: str) -> None:
    """Remove a folder, and its lock last: if this process is stopped before, the rest is still found as an orphan."""
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != _LOCK:
            os.unlink(entry.path)
    shutil.rmtree(folder)


def kill_processes(folders: Collection[str], spared: Collection[int] = ()) -> None:
    """Kill this user's processes that carry the mark of one of these runs, and their descendants, but not this process.

    Args:
        folders: The runs' own folders. One look through all processes serves all runs, because it takes long on a
            machine with thousands of processes.
        spared: Processes to leave alone. A task of an earlier run may have left a program behind that has started the
            present run. Such a program carries a mark and is among these, and its descendants are left alone as well.
    """
    for _ in range(_BATCHES):
        if _kill_batch(folders, spared) < _MOST_HELD:
            return


def _kill_batch(folders: Collection[str], spared: Collection[int]) -> int:
    """Kill up to `_MOST_HELD` processes of these runs. Return how many were found.

    All are stopped before the first is killed, because a stopped process cannot fork. While they are being stopped,
    some may still fork, so this repeats in rounds until it finds no new one.
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
    """Return further processes of these runs with a descriptor of each, -1 where the system has no such descriptors.

    The processes are read a second time once they are held. The kernel does not reuse the number of a held process, so
    a number that is found again still means the same process.
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
    """Return the processes that carry the mark of one of these runs, and their descendants."""
    marked = _marked(folders)
    parents = processes.parents()  # after the marks, so that it includes every marked process that still runs
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
