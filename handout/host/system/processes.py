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
from collections.abc import Iterable, Mapping, Sequence

LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
#: A flag of a process, from the kernel's sched.h.
_PF_EXITING = 0x4
#: How the names of mappings begin that are shared memory (anonymous, System V, memfd, POSIX), and of those that lie in
#: stores of this user.
_SHARED_MEMORY = (b"/dev/zero", b"/SYSV", b"/memfd:", b"/dev/shm/")
_STORES = b"/dev/shm/handout-%d-" % os.getuid()
#: Bytes of shared memory that are not looked at closely: that takes milliseconds, and the pages that the house itself
#: shares with a worker are no more.
_NEGLIGIBLE = 1 << 20
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


def is_running(pid: int) -> bool:
    """Whether a process is there and has not begun to end: its descriptors are closed before that can be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return False
    state, *_, flags = stat[stat.rfind(b")") + 2 :].split()[:7]
    return state not in (b"Z", b"X") and not int(flags) & _PF_EXITING


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


def descendants(roots: Iterable[int], known: Mapping[int, int] | None = None) -> list[int]:
    """Everything below the roots, without them; parents before their children.

    Args:
        roots: Where to begin.
        known: The parent of every process, as :func:`parents` says; None: ask it.
    """
    below: dict[int, list[int]] = {}
    for child, parent in (parents() if known is None else known).items():
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


def ancestors(pid: int) -> list[int]:
    """A process and those above it, from below."""
    known = parents()
    found: list[int] = []
    while pid and pid not in found:
        found.append(pid)
        pid = known.get(pid, 0)
    return found


def send_signal(pid: int, number: int) -> bool:
    """Signal a process; False where it is gone or not ours."""
    if pid <= 0:
        return False  # that would be whole groups of processes
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


def _memory(pid: int) -> tuple[int, int]:
    """Bytes of anonymous pages of a process, swapped ones too, and of its shared memory; 0 where unknown.

    Pages that a fork shares with its parent are counted at both.
    """
    found = _sizes(f"/proc/{pid}/status", (b"RssAnon:", b"VmSwap:", b"RssShmem:"))
    return found.get(b"RssAnon:", 0) + found.get(b"VmSwap:", 0), found.get(b"RssShmem:", 0)


def _proportional_memory(pid: int) -> int:
    """The first of these, with each shared page divided by those who share it: walks the page tables."""
    found = _sizes(f"/proc/{pid}/smaps_rollup", (b"Pss_Anon:", b"SwapPss:"))
    return sum(found.values()) if found else _memory(pid)[0]


def _sizes(path: str, names: tuple[bytes, ...]) -> dict[bytes, int]:
    """Bytes in the lines that begin with these names, which say kB; without those that are not there."""
    try:
        with open(path, "rb") as file:
            lines = [line.split() for line in file if line.startswith(names)]
        return {line[0]: int(line[1]) * 1024 for line in lines}
    except (OSError, ValueError, IndexError):
        return {}


def _shared_mappings(pid: int, file: str) -> list[tuple[bytes, int, int, int]]:
    """Where a process has shared memory mapped that is no object of a store: which, from where to where in it.

    From ``smaps``, which walks the page tables, also how many bytes of it are there, each page divided by those who
    share it; from ``maps`` 0.
    """
    found: list[tuple[bytes, int, int, int]] = []
    pss = 0
    counts = False
    try:
        with open(f"/proc/{pid}/{file}", "rb") as stream:
            for line in stream:
                if line[:1] in b"0123456789abcdef":
                    span, _, offset, device, inode, *path = line.split(None, 5)
                    counts = bool(path) and path[0].startswith(_SHARED_MEMORY) and not path[0].startswith(_STORES)
                    if counts:
                        begin, _, end = span.partition(b"-")
                        first = int(offset, 16)
                        found.append((device + b":" + inode, first, first + int(end, 16) - int(begin, 16), 0))
                elif counts and line.startswith(b"Pss:"):
                    pss = int(line.split()[1])
                elif counts and line.startswith(b"Anonymous:"):
                    # Copies of what was written to count as what they are.
                    found[-1] = *found[-1][:3], max(pss - int(line.split()[1]), 0) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return found


def tree_memory(root: int, limit: int) -> int:
    """Memory of a process and what is below it, in bytes: anonymous, and shared except for objects of a store.

    What decides is the cheapest that can: pages that forks share count once, and mappings are told from each other,
    where the tree could be over ``limit``.
    """
    pids = [root]
    for pid in pids:
        pids.extend(children(pid))
        if len(pids) > 4096:
            break
    sizes = {pid: _memory(pid) for pid in pids}
    used = sum(anonymous for anonymous, _ in sizes.values())
    resident = sum(shared for _, shared in sizes.values())
    if used + resident <= limit:
        # Objects of the store may be among it; nobody is blamed for them yet.
        return used
    sharing = [pid for pid, (_, shared) in sizes.items() if shared]
    rooms: dict[bytes, tuple[int, int]] = {}
    for which, first, last, _ in (each for pid in sharing for each in _shared_mappings(pid, "maps")):
        begin, end = rooms.get(which, (first, last))
        rooms[which] = min(begin, first), max(end, last)
    room = min(sum(end - begin for begin, end in rooms.values()), resident)
    if used + room <= limit:
        return used + room
    own = 0
    if room > _NEGLIGIBLE:
        parts = dict.fromkeys(rooms, 0)
        for which, _, _, size in (each for pid in sharing for each in _shared_mappings(pid, "smaps")):
            parts[which] = parts.get(which, 0) + size
        # One after the other is looked at, and forks that come to share a page meanwhile make the sum too large.
        own = sum(min(parts[which], end - begin) for which, (begin, end) in rooms.items())
    return own + sum(_proportional_memory(pid) for pid in pids)


def peak_memory() -> int:
    """Bytes that this process has had in memory at most, shared ones included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if LINUX else 1)


def raise_oom_score() -> None:
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


def count_user_threads() -> int:
    """How many threads of this user there are; only those whose process can be seen."""
    found, user = 0, os.getuid()
    for name in os.listdir("/proc") if LINUX else ():
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                found += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return found
