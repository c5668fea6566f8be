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

from . import processes
from .probe import own_groups, read_text, read_value

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


class Groups:
    """The groups of one run.

    Args:
        folders: The run's folder of each controller that there is.
    """

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = dict(folders)

    @classmethod
    def make(cls, name: str) -> Groups:
        """Make the folders of a run; none where that cannot be done.

        Args:
            name: Of the run's own folder, which is no other run's.
        """
        folders: dict[str, str] = {}
        for controller, base in bases().items():
            folder = f"{base}/{name}"
            try:
                os.makedirs(f"{folder}/{_WORKERS}" if controller == "pids" else folder, exist_ok=True)
                if controller == "memory" and _is_unified(folder):
                    _write(f"{folder}/cgroup.subtree_control", "+memory")
            except OSError:
                if folder not in folders.values():
                    _remove_empty(folder)
                continue
            folders[controller] = folder
        return cls(folders)

    @property
    def folders(self) -> list[str]:
        """Whatever there is to be removed in the end."""
        return list(dict.fromkeys(self._folders.values()))

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

    def enter(self) -> None:
        """Be among the workers from here on, this process and what it starts.

        Raises:
            OSError: The system did not let it.
        """
        if "pids" in self._folders:
            enter(f"{self._folders['pids']}/{_WORKERS}")

    def make_limited(self, name: str, limit: int) -> str | None:
        """A group for a worker whose tasks may take so many bytes of memory; None where that cannot be."""
        if "memory" not in self._folders:
            return None
        group = f"{self._folders['memory']}/{name}"
        try:
            os.mkdir(group)
            _limit(group, stopped_at(limit))
            if _is_unified(group):
                # What the task started dies with it, and is not left waiting for what was killed.
                _write(f"{group}/memory.oom.group", "1")
        except OSError:
            _remove_empty(group)
            return None
        return group

    def remove(self) -> None:
        """Kill whatever is in these groups, and remove them."""
        remove(self.folders)


def enter(group: str) -> None:
    """Move this process into a group.

    Raises:
        OSError: The group is not there any more, or this user may not.
    """
    _write(f"{group}/cgroup.procs", "0")


def stopped_at(limit: int) -> int:
    """At how many bytes the kernel stops a worker whose tasks may take so many, results in the store aside."""
    return limit + limit // 16 + _KERNEL_ROOM


def make_room(group: str, limit: int, nbytes: int) -> None:
    """Let a limited group take more, for a result that is about to be written into the store.

    Files in memory count where they were written first: those that are there stay beside the limit.

    Args:
        group: Of a worker.
        limit: Bytes that its tasks may take.
        nbytes: Of the result.
    """
    try:
        _limit(group, stopped_at(limit) + (read_value(f"{group}/memory.stat", "shmem") or 0) + nbytes)
    except OSError:
        pass


def drop(group: str) -> None:
    """Remove the group of a worker that is gone. Where something is still in it, it stays until the run ends."""
    try:
        os.rmdir(group)
    except OSError:
        pass


def remove(folders: Iterable[str]) -> None:
    """Kill whatever is in these runs' groups, and remove them; for a bounded time."""
    until = time.monotonic() + _GONE_S
    for folder in folders:
        while not _remove_empty(folder) and time.monotonic() < until:
            for group in (*_below(folder), folder):
                for pid in _members(group):
                    processes.send_signal(pid, signal.SIGKILL)
            time.sleep(0.002)


def is_ours(folder: str, prefix: str) -> bool:
    """Whether a path that was noted somewhere can be a run's folder."""
    plain = os.path.normpath(folder) == folder
    return plain and folder.startswith(f"{_ROOT}/") and os.path.basename(folder).startswith(prefix)


def bases() -> dict[str, str]:
    """Below which group this process may make its own, by controller."""
    own = own_groups()
    if "" in own and _is_unified(_ROOT):
        base = _unified_base(_ROOT + own[""].rstrip("/"))
        return {} if base is None else {name: base for name in _CONTROLLERS if name in _passed_on(base)}
    found = {name: f"{_ROOT}/{name}{own[name].rstrip('/')}" for name in _CONTROLLERS if name in own}
    return {name: base for name, base in found.items() if os.access(base, os.W_OK)}


def _unified_base(own: str) -> str | None:
    """The same for version 2, where a group that has processes of its own cannot limit those below it.

    So it is beside the login's group, as long as nothing is thereby escaped from.
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


def _limit(group: str, nbytes: int) -> None:
    _write(f"{group}/{'memory.max' if _is_unified(group) else 'memory.limit_in_bytes'}", str(nbytes))


def _below(folder: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _members(group: str) -> list[int]:
    return [int(pid) for pid in (read_text(f"{group}/cgroup.procs") or "").split()]


def _remove_empty(folder: str) -> bool:
    """Remove a folder and the groups below it; False where something is in one of them."""
    for group in (*_below(folder), folder):
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
