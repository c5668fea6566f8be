"""Control groups of a run, where this user may make them: what its workers may fork, and what one of them may take.

Other limits hold without them: a user's number of processes (not for the superuser, whom the system lets pass), and
the agent's look at the memory of a task. A group holds them at any speed, and the kernel itself says whom it killed.

Each run has a folder for each controller, or one for both where the system has the unified hierarchy (version 2).
Below it are ``workers``, and a group for each worker with a limit of memory. See the kernel's
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
#: What a group of version 2 that limits nothing says in these files, where it has them.
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
#: Bytes above a task's limit that its group may take for what the agent does not count: tables of pages, sockets.
_KERNEL_ROOM = 64 << 20
_GONE_S = 1.0


class ControlGroups:
    """The groups of one run.

    Args:
        folders: The run's folder of each controller that there is.
    """

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = dict(folders)

    @classmethod
    def for_run(cls, name: str) -> ControlGroups:
        """Where those of a run would be; none is there yet.

        Args:
            name: Of the run's own folder, which is no other run's.
        """
        return cls({controller: f"{base}/{name}" for controller, base in parent_groups().items()})

    @property
    def folders(self) -> list[str]:
        """Whatever there is to be removed in the end."""
        return list(dict.fromkeys(self._folders.values()))

    @property
    def common_group(self) -> str | None:
        """A group that knows of everything that the kernel killed below it, where all workers are below one."""
        folder = self._folders.get("memory")
        return folder if folder is not None and folder == self._folders.get("pids") else None

    def make(self) -> None:
        """Make them; those that cannot be made are none from here on."""
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
        """Say how many processes and threads the workers may have together; whether that holds."""
        folder = self._folders.get("pids")
        try:
            if folder is not None:
                _write(f"{folder}/pids.max", str(most))
                return True
        except OSError:
            pass
        return False

    def join_workers(self) -> None:
        """Be among the workers from here on, this process and what it starts.

        Raises:
            OSError: The system did not let it.
        """
        if "pids" in self._folders:
            _enter(f"{self._folders['pids']}/{_WORKERS}")

    def add_memory_group(self, name: str, limit: int) -> str | None:
        """A group for a worker whose tasks may take so many bytes of memory; None where that cannot be."""
        if "memory" not in self._folders:
            return None
        group = f"{self._folders['memory']}/{name}"
        try:
            os.mkdir(group)
            _write(_limit_file(group), str(kernel_limit(limit)))
            if _is_unified(group):
                # What the task started dies with it, and is not left waiting for what was killed.
                _write(f"{group}/memory.oom.group", "1")
        except OSError:
            remove_empty(group)
            return None
        return group

    def remove(self) -> None:
        """Kill whatever is in these groups, and remove them."""
        remove(self.folders)


class MemoryGroup:
    """The group of a worker with a limit of memory, from within.

    Args:
        group: Its folder.
        limit: Bytes that its tasks may take.
    Raises:
        OSError: It is not there any more, or this user may not enter it.
    """

    def __init__(self, group: str, limit: int) -> None:
        self._group = group
        self._limit = limit
        #: Bytes beside the limit that have been let in.
        self._room = 0
        _enter(group)

    def make_room(self, nbytes: int = 0) -> None:
        """Let it take more, for what is no memory of its tasks.

        Files in memory count where they were written first. Those that are there stay beside the limit, and what is
        about to be written: a result into the store, an argument that is a file.
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
        """See `killed_at_limit`."""
        return killed_at_limit(self._group)


def kernel_limit(limit: int) -> int:
    """At how many bytes the kernel stops a worker whose tasks may take so many, files aside."""
    return limit + limit // 16 + _KERNEL_ROOM


def killed_at_limit(group: str) -> bool:
    """Whether the kernel killed something in a worker's group because it met its own limit.

    Not that of a group above, or the machine's: then the host has too little, and the task may do better elsewhere.
    """
    if not kills_in(group):
        return False
    # Version 2, then 1, which counts there whenever something had to give way, files that were read included.
    met = read_value(f"{group}/memory.events", "oom")
    return (int(read_text(f"{group}/memory.failcnt") or 0) if met is None else met) > 0


def drop(group: str) -> None:
    """Remove the group of a worker that is gone. Where something is still in it, it stays until the run ends."""
    remove_empty(group)


def remove(folders: Iterable[str]) -> None:
    """Kill whatever is in these runs' groups, and remove them; for a bounded time."""
    until = time.monotonic() + _GONE_S
    for folder in folders:
        while not remove_empty(folder) and time.monotonic() < until:
            for group in _from_below(folder):
                for pid in _members(group):
                    processes.send_signal(pid, signal.SIGKILL)
            time.sleep(0.002)


def is_run_folder(folder: str, prefix: str) -> bool:
    """Whether a path that was noted somewhere can be a run's folder."""
    plain = os.path.normpath(folder) == folder
    return plain and folder.startswith(f"{_ROOT}/") and os.path.basename(folder).startswith(prefix)


def parent_groups() -> dict[str, str]:
    """Below which group this process may make its own, by controller."""
    own = own_cgroups()
    if "" in own and _is_unified(_ROOT):
        base = _unified_base(_ROOT + own[""].rstrip("/"))
        return {} if base is None else {name: base for name in _CONTROLLERS if name in _passed_on(base)}
    found = {name: f"{_ROOT}/{name}{own[name].rstrip('/')}" for name in _CONTROLLERS if name in own}
    return {name: base for name, base in found.items() if os.access(base, os.W_OK)}


def _unified_base(own: str) -> str | None:
    """The same for version 2, where a group that has processes of its own cannot limit those below it.

    So it is beside the login's group, as long as no limit is thereby escaped from.
    """
    if _passed_on(own):
        return own
    parent = os.path.dirname(own)
    if own != _ROOT and _passed_on(parent) and _is_unlimited(own):
        return parent
    return None


def _passed_on(group: str) -> set[str]:
    return set((read_text(f"{group}/cgroup.subtree_control") or "").split()).intersection(_CONTROLLERS)


def _is_unlimited(group: str) -> bool:
    return all(read_text(f"{group}/{name}") in (None, said) for name, said in _UNLIMITED.items())


def _is_unified(group: str) -> bool:
    return os.path.exists(f"{group}/cgroup.controllers")


def _limit_file(group: str) -> str:
    return f"{group}/{'memory.max' if _is_unified(group) else 'memory.limit_in_bytes'}"


def _enter(group: str) -> None:
    _write(f"{group}/cgroup.procs", "0")


def _from_below(folder: str) -> list[str]:
    """A group with all below it, which tasks may have made too; those without any first."""
    return [path for path, _, _ in os.walk(folder, topdown=False)]


def _members(group: str) -> list[int]:
    """Processes in a group; those that another container has there are seen as 0, and are not ours."""
    return [int(pid) for pid in (read_text(f"{group}/cgroup.procs") or "").split() if pid != "0"]


def remove_empty(folder: str) -> bool:
    """Remove a group and those below it; False where something is in one of them."""
    for group in _from_below(folder):
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
