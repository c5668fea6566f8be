"""Control groups (cgroups) of a run: a limit of processes for all its workers, and a limit of memory for each worker.

A run has control groups only where this user may make them. Without them two weaker limits remain: RLIMIT_NPROC, which
does not bind the superuser, and the agent's regular look at the memory of each task. The kernel enforces the limit
of a control group, however fast a task forks or allocates, and counts the processes that it kills there.

A run has one folder for each cgroup controller (version 1), or one folder for both (version 2, the unified hierarchy).
Below it lie the group ``workers`` and one group for each worker with a memory limit. Sources: the kernel's
admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping

from handout.host.system import processes
from handout.host.system.oom_kills import kills_in
from handout.host.system.probe import own_cgroups, read_text, read_value

_ROOT = "/sys/fs/cgroup"
_CONTROLLERS = ("pids", "memory")
#: Content of these files in a group of version 2 that limits nothing. A missing file limits nothing either.
_UNLIMITED = {
    "memory.max": "max",
    "memory.high": "max",
    "memory.swap.max": "max",
    "pids.max": "max",
    "cpu.max": "max 100000",
    "cpuset.cpus": "",
    "cpuset.mems": "",
    "io.max": "",
}
_WORKERS = "workers"
#: Bytes above a task's limit that its group may use. The kernel counts page tables and socket buffers, which the agent
#: does not count.
_KERNEL_ROOM = 64 << 20
#: Seconds that `remove` keeps trying: a killed process leaves its group only when it has ended.
_REMOVE_S = 1.0


class ControlGroups:
    """The control groups of one run.

    Args:
        folders: The run's folder by controller, for each controller that this user may use.
    """

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = dict(folders)

    @classmethod
    def for_run(cls, name: str) -> ControlGroups:
        """Return the groups that a run may make. The call makes none of them.

        Args:
            name: Name of the run's own folder. No two runs share one.
        """
        return cls({controller: f"{base}/{name}" for controller, base in parent_groups().items()})

    @property
    def folders(self) -> list[str]:
        """Folders to remove when the run ends."""
        return list(dict.fromkeys(self._folders.values()))

    @property
    def common_group(self) -> str | None:
        """The group above those of all workers, which counts every kill for lack of memory; None if there is none."""
        folder = self._folders.get("memory")
        return folder if folder is not None and folder == self._folders.get("pids") else None

    def make(self) -> None:
        """Make the groups. A group that cannot be made is left out from here on."""
        for controller, folder in list(self._folders.items()):
            try:
                os.makedirs(f"{folder}/{_WORKERS}" if controller == "pids" else folder, exist_ok=True)
                if controller == "memory" and _is_unified(folder):
                    _write(f"{folder}/cgroup.subtree_control", "+memory")
            except OSError:
                del self._folders[controller]
                if folder not in self._folders.values():
                    remove_empty(folder)

    def limit_processes(self, most: int) -> bool:
        """Limit the processes and threads of all workers together. Return True if the kernel holds the limit."""
        folder = self._folders.get("pids")
        try:
            if folder is not None:
                _write(f"{folder}/pids.max", str(most))
                return True
        except OSError:
            pass
        return False

    def join_workers(self) -> None:
        """Move this process into the workers' group. Processes that it starts later belong to that group too.

        Raises:
            OSError: The system refused the move.
        """
        if "pids" in self._folders:
            _enter(f"{self._folders['pids']}/{_WORKERS}")

    def add_memory_group(self, name: str, limit: int) -> str | None:
        """Make a group for one worker, and return its folder; None where it cannot be made.

        Args:
            name: Name of the new group.
            limit: Bytes of memory that the worker's tasks may use.
        """
        if "memory" not in self._folders:
            return None
        group = f"{self._folders['memory']}/{name}"
        try:
            os.mkdir(group)
            _write(_limit_file(group), str(kernel_limit(limit)))
            if _is_unified(group):
                # The kernel then kills all of the task's processes. One that is left could wait for ever for another.
                _write(f"{group}/memory.oom.group", "1")
        except OSError:
            remove_empty(group)
            return None
        return group

    def remove(self) -> None:
        """Kill the processes in these groups, and remove the groups."""
        remove(self.folders)


class MemoryGroup:
    """The control group of a worker with a memory limit, as the worker itself sees it. The constructor enters it.

    Args:
        group: The group's folder.
        limit: Bytes of memory that the worker's tasks may use.

    Raises:
        OSError: The group is gone, or this user may not enter it.
    """

    def __init__(self, group: str, limit: int) -> None:
        self._group = group
        self._limit = limit
        #: Bytes that have been added to the limit.
        self._room = 0
        _enter(group)

    def make_room(self, nbytes: int = 0) -> None:
        """Raise the group's limit by the bytes of files in memory, which are not memory of its tasks.

        The kernel charges a file in memory, such as a result in the store, to the group that first wrote it.

        Args:
            nbytes: Bytes of files that the worker is about to write.
        """
        room = nbytes + (read_value(f"{self._group}/memory.stat", "shmem") or 0)
        if room > self._room:
            try:
                _write(_limit_file(self._group), str(kernel_limit(self._limit) + room))
                self._room = room
            except OSError:
                pass

    @property
    def killed_at_limit(self) -> bool:
        """True if the kernel killed a process of this group at its limit; see `killed_at_limit`."""
        return killed_at_limit(self._group)


def kernel_limit(limit: int) -> int:
    """Return the bytes at which the kernel stops a worker whose tasks may use ``limit`` bytes, without files."""
    return limit + limit // 16 + _KERNEL_ROOM


def killed_at_limit(group: str) -> bool:
    """Return True if the kernel killed a process in a worker's group at that group's own limit.

    A kill at the limit of a parent group or of the machine does not count: the host has too little memory, and the
    task may succeed on another host.
    """
    if not kills_in(group):
        return False
    times = read_value(f"{group}/memory.events", "oom")
    if times is None:
        # Version 1 counts each time that the group reached its limit, also where dropping cached files was enough.
        times = int(read_text(f"{group}/memory.failcnt") or 0)
    return times > 0


def remove(folders: Iterable[str]) -> None:
    """Kill the processes in these runs' groups, and remove the groups. Give up after a bounded time."""
    until = time.monotonic() + _REMOVE_S
    for folder in folders:
        while not remove_empty(folder) and time.monotonic() < until:
            for group in _bottom_up(folder):
                for pid in _members(group):
                    processes.send_signal(pid, signal.SIGKILL)
            time.sleep(0.002)


def is_run_folder(folder: str, prefix: str) -> bool:
    """Return True if a path that was read from a file can be the folder of a run's control group."""
    plain = os.path.normpath(folder) == folder
    return plain and folder.startswith(f"{_ROOT}/") and os.path.basename(folder).startswith(prefix)


def parent_groups() -> dict[str, str]:
    """Return by controller the group below which this process may make groups of its own."""
    own = own_cgroups()
    if "" in own and _is_unified(_ROOT):
        base = _unified_base(_ROOT + own[""].rstrip("/"))
        return {} if base is None else {name: base for name in _CONTROLLERS if name in _enabled_below(base)}
    found = {name: f"{_ROOT}/{name}{own[name].rstrip('/')}" for name in _CONTROLLERS if name in own}
    return {name: base for name, base in found.items() if os.access(base, os.W_OK)}


def _unified_base(own: str) -> str | None:
    """Return the group of version 2 below which this process may make groups; None where there is none.

    A group of version 2 that holds processes cannot limit the groups below it. A run's group therefore lies beside the
    login's group, but only where the login's group has no limit that the run would escape.
    """
    if _enabled_below(own):
        return own
    parent = os.path.dirname(own)
    if own != _ROOT and _enabled_below(parent) and _is_unlimited(own):
        return parent
    return None


def _enabled_below(group: str) -> set[str]:
    """Return the controllers that a group of version 2 enables for the groups below it."""
    return set((read_text(f"{group}/cgroup.subtree_control") or "").split()).intersection(_CONTROLLERS)


def _is_unlimited(group: str) -> bool:
    return all(read_text(f"{group}/{name}") in (None, content) for name, content in _UNLIMITED.items())


def _is_unified(group: str) -> bool:
    return os.path.exists(f"{group}/cgroup.controllers")


def _limit_file(group: str) -> str:
    return f"{group}/{'memory.max' if _is_unified(group) else 'memory.limit_in_bytes'}"


def _enter(group: str) -> None:
    _write(f"{group}/cgroup.procs", "0")


def _bottom_up(folder: str) -> list[str]:
    """Return a group and all groups below it, children before parents. Tasks may have made groups of their own."""
    return [path for path, _, _ in os.walk(folder, topdown=False)]


def _members(group: str) -> list[int]:
    """Return the processes in a group. The kernel shows a process of another container as 0, which is left out."""
    return [int(pid) for pid in (read_text(f"{group}/cgroup.procs") or "").split() if pid != "0"]


def remove_empty(folder: str) -> bool:
    """Remove a group and the groups below it. Return False if a process is still in one of them."""
    for group in _bottom_up(folder):
        try:
            os.rmdir(group)
        except FileNotFoundError:
            pass
        except OSError:
            return False
    return True


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
