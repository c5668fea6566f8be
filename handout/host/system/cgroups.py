"""Control groups (cgroups) of a run: they limit the processes of all workers together, and the memory of each worker.

The kernel enforces the limit of a control group, however fast a task forks or allocates. It also counts the processes
that it kills in a group for lack of memory. If this user may not make control groups, two weaker means remain. The
system limit RLIMIT_NPROC limits processes, but does not apply to the superuser. And the agent itself measures the
memory of each task, and ends tasks that exceed their limit.

A control group is a folder below /sys/fs/cgroup. What it limits depends on the cgroup controllers, which are parts of
the kernel. A run uses two of them, ``pids`` and ``memory``. In version 1 of control groups, the run has one folder for
each cgroup controller. In version 2, the unified hierarchy, the run has one folder for both. The folder for ``pids``
contains the group ``workers``, and the folder for ``memory`` contains a group for each worker that has a memory limit.
Sources: the kernel's admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1.
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
#: The files that contain the limits of a version 2 group, each with its content if there is no such limit. A missing
#: file also means that there is no such limit.
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
#: The memory limit of a worker's group is the limit of the worker's tasks, plus a sixteenth of that limit, plus this
#: many bytes. The group needs more than the tasks, because the kernel also counts page tables and socket buffers.
_KERNEL_ROOM = 64 << 20
#: Seconds that `remove` keeps trying, because the system keeps a group until the killed processes in it have ended.
_REMOVE_S = 1.0


class ControlGroups:
    """The control groups of one run.

    Args:
        folders: The run's folder for each cgroup controller that this user may use, by name of the cgroup controller.
    """

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = dict(folders)

    @classmethod
    def for_run(cls, name: str) -> ControlGroups:
        """Return the control groups that a new run may use. They exist only after a call of `make`.

        Args:
            name: Name of the run's private folder. The run's groups get this name, because no other run has it.
        """
        return cls({controller: f"{base}/{name}" for controller, base in parent_groups().items()})

    @property
    def folders(self) -> list[str]:
        """The folders of the run's control groups, each once. They must be removed when the run ends."""
        return list(dict.fromkeys(self._folders.values()))

    @property
    def common_group(self) -> str | None:
        """The group that contains the groups of all workers. It counts the out-of-memory kills in all of them.

        None if the run has no such group. In version 1 of control groups, no run has one.
        """
        folder = self._folders.get("memory")
        return folder if folder is not None and folder == self._folders.get("pids") else None

    def make(self) -> None:
        """Make the groups. If the system refuses a group, the run does without the group's cgroup controller."""
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
        """Limit the processes and threads of all workers together. Return True if the kernel enforces the limit."""
        folder = self._folders.get("pids")
        try:
            if folder is not None:
                _write(f"{folder}/pids.max", str(most))
                return True
        except OSError:
            pass
        return False

    def join_workers(self) -> None:
        """Move this process into the workers' group. Processes that it starts later belong to the group too.

        Raises:
            OSError: The system refused the move.
        """
        if "pids" in self._folders:
            _enter(f"{self._folders['pids']}/{_WORKERS}")

    def add_memory_group(self, name: str, limit: int) -> str | None:
        """Make a group for one worker. Return the group's folder, or None if the group cannot be made.

        Args:
            name: Name of the new group.
            limit: Bytes of memory that a task of the worker may use.
        """
        if "memory" not in self._folders:
            return None
        group = f"{self._folders['memory']}/{name}"
        try:
            os.mkdir(group)
            _write(_limit_file(group), str(kernel_limit(limit)))
            if _is_unified(group):
                # With this setting, the kernel kills all processes in the group if it kills one of them. Otherwise a
                # process that survives could wait for ever for the killed process.
                _write(f"{group}/memory.oom.group", "1")
        except OSError:
            remove_empty(group)
            return None
        return group

    def remove(self) -> None:
        """Kill the processes in the groups of this run, and remove the groups."""
        remove(self.folders)


class MemoryGroup:
    """The control group that limits the memory of this worker. The constructor moves the worker into the group.

    Args:
        group: The group's folder.
        limit: Bytes of memory that a task of the worker may use.

    Raises:
        OSError: The group does not exist any more, or this user may not enter it.
    """

    def __init__(self, group: str, limit: int) -> None:
        self._group = group
        self._limit = limit
        #: Bytes that `make_room` has added to the group's limit.
        self._room = 0
        _enter(group)

    def make_room(self, nbytes: int = 0) -> None:
        """Raise the group's limit by the size of the files in memory that count for the group.

        The kernel counts a file in memory, such as a result in the store, for the group that wrote the file first. So
        the limit is raised, because the file must not reduce the memory that a task may use.

        Args:
            nbytes: Bytes of files in memory that the worker is about to write or read.
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
        """True if the kernel killed a process of this group at the group's own limit; see `cgroups.killed_at_limit`."""
        return killed_at_limit(self._group)


def kernel_limit(limit: int) -> int:
    """Return the memory limit of a worker's group, in bytes.

    Args:
        limit: Bytes of memory that a task of the worker may use, without the room for files that
            `MemoryGroup.make_room` adds.
    """
    return limit + limit // 16 + _KERNEL_ROOM


def killed_at_limit(group: str) -> bool:
    """Return True if the kernel killed a process in a worker's group at that group's own limit.

    A kill at the limit of a parent group or of the machine does not count. Such a kill means that the host has too
    little memory, so the task may succeed on another host.
    """
    if not kills_in(group):
        return False
    times = read_value(f"{group}/memory.events", "oom")
    if times is None:
        # In version 1, `memory.failcnt` counts how often the group reached its limit, even if nothing was killed then.
        times = int(read_text(f"{group}/memory.failcnt") or 0)
    return times > 0


def remove(folders: Iterable[str]) -> None:
    """Kill the processes in some groups and in the groups below them, and remove all these groups.

    Give up after `_REMOVE_S` seconds.
    """
    until = time.monotonic() + _REMOVE_S
    for folder in folders:
        while not remove_empty(folder) and time.monotonic() < until:
            for group in _bottom_up(folder):
                for pid in _members(group):
                    processes.send_signal(pid, signal.SIGKILL)
            time.sleep(0.002)


def is_run_folder(folder: str, prefix: str) -> bool:
    """Return True if a path can be the folder of a run's control group.

    Args:
        folder: The path. It was read from a lock file, so it may be any path.
        prefix: The beginning of the names of this user's run folders.
    """
    plain = os.path.normpath(folder) == folder
    return plain and folder.startswith(f"{_ROOT}/") and os.path.basename(folder).startswith(prefix)


def parent_groups() -> dict[str, str]:
    """Return the groups in which this process may make new groups, by name of the cgroup controller."""
    own = own_cgroups()
    if "" in own and _is_unified(_ROOT):
        base = _unified_base(_ROOT + own[""].rstrip("/"))
        return {} if base is None else {name: base for name in _CONTROLLERS if name in _enabled_below(base)}
    found = {name: f"{_ROOT}/{name}{own[name].rstrip('/')}" for name in _CONTROLLERS if name in own}
    return {name: base for name, base in found.items() if os.access(base, os.W_OK)}


def _unified_base(own: str) -> str | None:
    """Return the group of version 2 in which this process may make new groups; None if there is no such group.

    A group of version 2 that contains processes, such as the login's group, cannot limit the groups below it. So the
    run's group is usually made beside the login's group. But if the login's group has a limit, the run gets no group,
    because a group beside the login's group would escape from that limit.

    Args:
        own: The group of this process.
    """
    if _enabled_below(own):
        return own
    parent = os.path.dirname(own)
    if own != _ROOT and _enabled_below(parent) and _is_unlimited(own):
        return parent
    return None


def _enabled_below(group: str) -> set[str]:
    """Return the cgroup controllers that a group of version 2 enables for the groups below it."""
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
    """Return a group and all groups below it, children before parents. Tasks may have made some of these groups."""
    return [path for path, _, _ in os.walk(folder, topdown=False)]


def _members(group: str) -> list[int]:
    """Return the processes in a group. Leave out processes of other containers, which the kernel lists as 0."""
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
