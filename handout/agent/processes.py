"""What the operating system knows about processes: trees, their memory, and how to end one for good.

Linux is read through /proc. Elsewhere ``ps`` answers the same questions, and what it cannot know is left out.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence

LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
#: From -1000 to 1000: what the kernel adds when it looks for someone to kill.
_OOM_SCORE = 500


def _prctl(option: int, value: int) -> bool:
    if not LINUX:
        return False
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def become_subreaper() -> bool:
    """Adopt descendants whose parents die, however often they forked; False where the system cannot."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Be killed when the parent dies; ends at once where it already has."""
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) and os.getppid() != parent:
        os._exit(1)


def parents() -> dict[int, int]:
    """The parent of every process that can be seen; zombies are there until they are waited for."""
    if not LINUX:
        return _parents_by_ps()
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                stat = file.read()
        except OSError:
            continue
        # The command stands in parentheses and may contain anything: count from the last one.
        found[int(name)] = int(stat[stat.rfind(b")") + 2 :].split()[1])
    return found


def _parents_by_ps() -> dict[int, int]:
    try:
        out = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    pairs = (line.split() for line in out.splitlines())
    return {int(p[0]): int(p[1]) for p in pairs if len(p) == 2}


def children(pid: int) -> list[int]:
    """The direct children of one process, zombies included."""
    try:
        found: list[int] = []
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(int(word) for word in file.read().split())
        return found
    except OSError:
        return [child for child, parent in parents().items() if parent == pid]


def descendants(roots: Iterable[int]) -> list[int]:
    """Everything below the roots, without them; parents before their children."""
    below: dict[int, list[int]] = {}
    for child, parent in parents().items():
        below.setdefault(parent, []).append(child)
    found: list[int] = []
    seen: set[int] = set(roots)
    todo = list(seen)
    while todo:
        for child in below.get(todo.pop(), ()):
            if child not in seen:
                seen.add(child)
                found.append(child)
                todo.append(child)
    return found


def send_signal(pid: int, number: int) -> bool:
    """Signal a process; False where it is gone or not ours."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def send_group_signal(group: int, number: int) -> None:
    """Signal a process group, where there still is one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def kill_trees(roots: Sequence[int]) -> None:
    """Send SIGKILL to processes and everything below them.

    The trees are stopped first, from the top: what is stopped cannot fork out of sight while it is counted. All at
    once: to look for what is below one takes as long as to look for what is below all.
    """
    stopped: set[int] = set()
    for _ in range(5):
        fresh = [pid for pid in [*roots, *descendants(roots)] if pid not in stopped]
        if not fresh:
            break
        for pid in fresh:
            send_signal(pid, signal.SIGSTOP)
        stopped.update(fresh)
    for root in roots:
        send_group_signal(root, signal.SIGKILL)
    for pid in stopped:
        send_signal(pid, signal.SIGKILL)


def anonymous_memory(pid: int) -> int:
    """Bytes of anonymous pages of a process, and what of them was swapped; 0 where unknown.

    Objects mapped from the store are file pages, and not counted. Pages that a fork shares with its parent are
    counted at both.
    """
    return _sum_of_lines(f"/proc/{pid}/status", (b"RssAnon:", b"VmSwap:")) or 0


def _proportional_memory(pid: int) -> int:
    """The same, with each shared page divided by those who share it: walks the page tables."""
    found = _sum_of_lines(f"/proc/{pid}/smaps_rollup", (b"Pss_Anon:", b"SwapPss:"))
    return anonymous_memory(pid) if found is None else found


def _sum_of_lines(path: str, names: tuple[bytes, ...]) -> int | None:
    """Bytes in the lines that begin with these names, which say kB; None where there is no such line."""
    try:
        with open(path, "rb") as file:
            sizes = [int(line.split()[1]) for line in file if line.startswith(names)]
    except (OSError, ValueError, IndexError):
        return None
    return sum(sizes) * 1024 if sizes else None


def tree_memory(root: int, limit: int) -> int:
    """Anonymous memory of a process and everything below it, in bytes.

    Pages that forks share count once where that decides whether the tree is over ``limit``.
    """
    pids = [root]
    for pid in pids:
        pids.extend(children(pid))
        if len(pids) > 4096:
            break
    used = sum(anonymous_memory(pid) for pid in pids)
    return used if used <= limit else sum(_proportional_memory(pid) for pid in pids)


def peak_memory() -> int:
    """Bytes that this process has had in memory at most, shared ones included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if LINUX else 1)


def prefer_to_be_killed() -> None:
    """Have the kernel, where it lacks memory, take this process and what it starts before others of this user."""
    try:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
            if int(file.read()) < _OOM_SCORE:
                file.write(b"%d" % _OOM_SCORE)
    except (OSError, ValueError):
        pass


def limit_processes(count: int) -> None:
    """Let this process and what it starts fork no more once this user has so many processes and threads here."""
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        if soft == resource.RLIM_INFINITY or soft > count:
            resource.setrlimit(resource.RLIMIT_NPROC, (count, hard))
    except (ValueError, OSError):
        pass


def threads_of_user() -> int:
    """How many threads of this user there are; only those whose process can be seen."""
    found, user = 0, os.getuid()
    for name in os.listdir("/proc") if LINUX else ():
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                found += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return found
