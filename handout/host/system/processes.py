"""Finds, measures, limits and kills processes of this host. A tree of processes is a process with all its descendants.

On Linux the functions read /proc. On other systems they ask ``ps`` for the parents of processes, and cannot measure the
memory of other processes.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
#: The flag of a process that has begun to exit, from the kernel's sched.h.
_PF_EXITING = 0x4
#: The beginnings of the names of shared memory mappings: anonymous, System V, memfd and POSIX.
_SHARED_MEMORY = (b"/dev/zero", b"/SYSV", b"/memfd:", b"/dev/shm/")
#: Large objects are files in memory, which processes map. They lie in a folder of the run that is called its store.
#: Their paths begin with this text, for all runs of this user.
_STORES = b"/dev/shm/handout-%d-" % os.getuid()
#: If a tree has at most this many bytes of shared memory, `tree_memory` counts them as 0, because measuring them takes
#: milliseconds. The page that each worker shares with the agent is smaller, so this page alone is never measured.
_NEGLIGIBLE = 1 << 20
#: The ``oom_score_adj`` of workers, on a scale from -1000 to 1000. If memory runs out, the kernel prefers to kill
#: processes with a high value.
_OOM_SCORE = 500


def _prctl(option: int, value: int) -> bool:
    if not LINUX:
        return False
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def become_subreaper() -> bool:
    """Make this process the parent of descendants whose own parent ends. Return False if the system cannot do that."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends. Exit at once if the parent has ended already."""
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) and os.getppid() != parent:
        os._exit(1)


def is_running(pid: int) -> bool:
    """Return True if a process exists and has not begun to exit.

    When a process exits, the kernel sets the exit flag before it closes the process's descriptors. So if a socket to a
    process was closed and this function returns True, the process closed the socket itself.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return False
    state, *_, flags = stat[stat.rfind(b")") + 2 :].split()[:7]
    return state not in (b"Z", b"X") and not int(flags) & _PF_EXITING


def parents() -> dict[int, int]:
    """Return the parent of every process that this user can see, zombies included."""
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
        # The command is in parentheses and may itself contain parentheses. The other fields start after the last `)`.
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
    """Return the direct children of one process, zombies included."""
    try:
        found: list[int] = []
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(int(word) for word in file.read().split())
        return found
    except OSError:
        return [child for child, parent in parents().items() if parent == pid]


def descendants(roots: Iterable[int], known: Mapping[int, int] | None = None) -> list[int]:
    """Return all descendants of some processes, but not these processes themselves. Parents come before their children.

    Args:
        roots: The processes.
        known: The parent of every process, as `parents` returns it. None: call `parents`.
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
    """Return a process and its ancestors: first the process, then its parent, and so on."""
    known = parents()
    found: list[int] = []
    while pid and pid not in found:
        found.append(pid)
        pid = known.get(pid, 0)
    return found


def send_signal(pid: int, number: int) -> bool:
    """Send a signal to a process. Return False if the process does not exist, or this user may not signal it."""
    if pid <= 0:
        return False  # such a number would signal a whole group of processes
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def send_group_signal(group: int, number: int) -> None:
    """Send a signal to a process group. Do nothing if the group does not exist, or this user may not signal it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def kill_trees(roots: Sequence[int]) -> None:
    """Send SIGKILL to processes, to the process groups that they lead, and to all their descendants.

    The function first stops the processes and their descendants with SIGSTOP, parents before children, because a
    stopped process cannot fork while the function looks for its descendants. All roots are handled together, because
    finding the descendants of one process takes as long as finding those of many.

    Args:
        roots: The processes.
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


class _ProcessMemory(NamedTuple):
    """The memory of a process in bytes; 0 if unknown. A page that a process shares with its parent counts for both."""

    #: Anonymous memory, including memory that was swapped out.
    anonymous: int
    #: Resident shared memory.
    shared: int


def _memory(pid: int) -> _ProcessMemory:
    sizes = _sizes(f"/proc/{pid}/status", (b"RssAnon:", b"VmSwap:", b"RssShmem:"))
    return _ProcessMemory(sizes.get(b"RssAnon:", 0) + sizes.get(b"VmSwap:", 0), sizes.get(b"RssShmem:", 0))


def _proportional_memory(pid: int) -> int:
    """Return the anonymous memory of a process in bytes. If n processes share a page, 1/n of the page counts.

    This function is slow, because the kernel walks the page tables.
    """
    sizes = _sizes(f"/proc/{pid}/smaps_rollup", (b"Pss_Anon:", b"SwapPss:"))
    return sum(sizes.values()) if sizes else _memory(pid).anonymous


def _sizes(path: str, names: tuple[bytes, ...]) -> dict[bytes, int]:
    """Read a file with lines of the form ``name number kB``. Return the sizes with the given names, in bytes."""
    try:
        with open(path, "rb") as file:
            lines = [line.split() for line in file if line.startswith(names)]
        return {line[0]: int(line[1]) * 1024 for line in lines}
    except (OSError, ValueError, IndexError):
        return {}


class _SharedMapping(NamedTuple):
    """A part of shared memory that a process has mapped."""

    #: Device and inode of the shared memory, which identify it.
    memory: bytes
    #: Offset of the first mapped byte in the shared memory.
    begin: int
    #: Offset of the byte after the last mapped byte.
    end: int
    #: Resident bytes of the part. If n processes share a page, 1/n of the page counts.
    resident: int


def _shared_mappings(pid: int, file: str) -> list[_SharedMapping]:
    """Return the parts of shared memory that a process has mapped, except objects of a store.

    Args:
        pid: The process.
        file: The file in /proc to read. ``maps`` is quick, but does not tell the resident bytes, so that ``resident``
            is 0. ``smaps`` is slow, because the kernel walks the page tables.
    """
    found: list[_SharedMapping] = []
    pss = 0
    counts = False
    try:
        with open(f"/proc/{pid}/{file}", "rb") as stream:
            for line in stream:
                if line[:1] in b"0123456789abcdef":
                    mapping = _read_mapping(line)
                    counts = mapping is not None
                    if mapping is not None:
                        found.append(mapping)
                elif counts and line.startswith(b"Pss:"):
                    pss = int(line.split()[1])
                elif counts and line.startswith(b"Anonymous:"):
                    # `pss` includes private copies of pages. They are subtracted, because they count as anonymous
                    # memory.
                    found[-1] = found[-1]._replace(resident=max(pss - int(line.split()[1]), 0) * 1024)
    except (OSError, ValueError, IndexError):
        pass
    return found


def _read_mapping(line: bytes) -> _SharedMapping | None:
    """Read the first of the lines that describe a mapping.

    Return None if the mapping is not shared memory, or is an object of a store.
    """
    span, _, offset, device, inode, *path = line.split(None, 5)
    if not path or not path[0].startswith(_SHARED_MEMORY) or path[0].startswith(_STORES):
        return None
    low, _, high = span.partition(b"-")
    begin = int(offset, 16)
    return _SharedMapping(device + b":" + inode, begin, begin + int(high, 16) - int(low, 16), 0)


def tree_memory(root: int, limit: int) -> int:
    """Return the bytes of memory of a process and its descendants: anonymous memory and shared memory.

    Objects of a store do not count. The function begins with cheap estimates. Only if the tree may exceed ``limit``,
    the function measures exactly, which is slow. Then each shared page counts once.

    Args:
        root: The process.
        limit: Bytes. A result above the limit is exact, with two exceptions: up to `_NEGLIGIBLE` bytes of shared memory
            may be missing, and pages that processes begin to share during the measurement may count several times. A
            result up to the limit may be an estimate, and only shows that the tree does not exceed the limit.
    """
    pids = [root]
    for pid in pids:
        pids.extend(children(pid))
        if len(pids) > 4096:
            break
    sizes = {pid: _memory(pid) for pid in pids}
    anonymous = sum(size.anonymous for size in sizes.values())
    resident = sum(size.shared for size in sizes.values())
    if anonymous + resident <= limit:
        # The shared memory is left out, because it may be objects of a store.
        return anonymous
    sharing = [pid for pid, size in sizes.items() if size.shared]
    lengths = _mapped_lengths(sharing)
    most = min(sum(lengths.values()), resident)
    if anonymous + most <= limit:
        return anonymous + most
    shared = _resident_shared(sharing, lengths) if most > _NEGLIGIBLE else 0
    return shared + sum(_proportional_memory(pid) for pid in pids)


def _mapped_lengths(pids: Iterable[int]) -> dict[bytes, int]:
    """Return the mapped length of each piece of shared memory, by the identity of the piece.

    The mapped length is the number of bytes from the first to the last byte that any of the processes has mapped.
    """
    spans: dict[bytes, tuple[int, int]] = {}
    for mapping in (mapping for pid in pids for mapping in _shared_mappings(pid, "maps")):
        begin, end = spans.get(mapping.memory, (mapping.begin, mapping.end))
        spans[mapping.memory] = min(begin, mapping.begin), max(end, mapping.end)
    return {memory: end - begin for memory, (begin, end) in spans.items()}


def _resident_shared(pids: Iterable[int], lengths: Mapping[bytes, int]) -> int:
    """Return the resident bytes of shared memory of these processes. Each page counts once.

    Args:
        pids: The processes.
        lengths: See `_mapped_lengths`.
    """
    parts = dict.fromkeys(lengths, 0)
    for mapping in (mapping for pid in pids for mapping in _shared_mappings(pid, "smaps")):
        parts[mapping.memory] = parts.get(mapping.memory, 0) + mapping.resident
    # The processes are read one after the other. If a process forks in the meantime, some pages count more than once.
    # So the sum for each piece of shared memory is limited to the mapped length of the piece.
    return sum(min(parts[memory], length) for memory, length in lengths.items())


def peak_memory() -> int:
    """Return the peak memory of this process so far, in bytes, including shared memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if LINUX else 1)


def raise_oom_score() -> None:
    """Make the kernel prefer to kill this process and its descendants when memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
            if int(file.read()) < _OOM_SCORE:
                file.write(b"%d" % _OOM_SCORE)
    except (OSError, ValueError):
        pass


def limit_processes(count: int) -> None:
    """Let this process and its descendants fork only while this user has fewer than ``count`` processes and threads."""
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        if soft == resource.RLIM_INFINITY or soft > count:
            resource.setrlimit(resource.RLIMIT_NPROC, (count, hard))
    except (ValueError, OSError):
        pass


def count_user_threads() -> int:
    """Return how many threads this user's processes have. Processes that this one cannot see do not count."""
    found, user = 0, os.getuid()
    for name in os.listdir("/proc") if LINUX else ():
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                found += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return found
