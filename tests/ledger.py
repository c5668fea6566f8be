"""Checks that a test leaves nothing behind: no orphans are left, and all amounts of hosts are free again.

Before and after a test, the ledger lists three kinds of things:

- the processes, folders, stores and control groups of all runs of this test session
- the descriptors, threads and children of this process
- the tasks of the event loop

Everything that is new in the list after the test must disappear without help within `LIMIT_S`, or the test fails.

Other programs may run agents on the same machine. The ledger recognizes the session's processes by an environment
variable. Programs that are started here inherit the variable, forks inherit it as well, and the servers of
`tests.sshd` pass it on. So the ledger finds every process that Handout finds by its own marks (see
`handout.host.system.orphans`), even before these marks are set.

The folders of all runs lie in a folder of the session. The control group of a run has the name of the run's folder. The
lock file of a store contains the path of that folder. The ledger reads /proc, so it checks nothing on systems other
than Linux.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import shutil
import signal
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from handout import Cluster
from handout.host.system import cgroups, orphans, processes

__all__ = [
    "LIMIT_S",
    "Ledger",
    "Place",
    "Thing",
    "beyond",
    "handed_on",
    "open_place",
    "tasks",
    "until_none_is_left",
    "until_the_loop_has_none_left",
]

#: Seconds within which everything that a run leaves must disappear without help. Some things need a moment: a
#: supervisor closes its connections before it exits, and a thread that no code waits for may still be reading keys. A
#: busy machine needs more time than an idle one. The limit is shorter than the default lease, so that the ledger
#: reports processes that only the end of the lease would stop. A test that needs the end of a lease must wait for that
#: end before the check.
LIMIT_S = 12.0
#: The environment variable that marks the session's processes, and the variable that names the parent of host folders.
VARIABLE, PLACE = "HANDOUT_TESTS", "HANDOUT_TMPDIR"

_IN_CREATE = 0x100
_PAUSE_S = 0.01
_STORES = "/dev/shm"


class Thing(NamedTuple):
    """One thing that the ledger counts."""

    #: A new thing may replace an old thing of the same kind. Only the number of things of one kind must not grow.
    kind: str
    #: The identity of the thing.
    which: object
    #: How the failure message describes the thing.
    words: str


def beyond(before: Iterable[Thing], after: Iterable[Thing]) -> list[str]:
    """Return descriptions of the new things of each kind whose number has grown."""
    before, after = list(before), list(after)
    more = Counter(thing.kind for thing in after) - Counter(thing.kind for thing in before)
    known = {thing.which for thing in before}
    return [thing.words for thing in after if more[thing.kind] and thing.which not in known]


class Place:
    """The parent folder of all host folders of a test session. It tells the session's runs from other runs.

    Args:
        folder: An empty folder. Its path must be short, because it is part of the paths of sockets.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mark = f"{VARIABLE}={folder}".encode()
        self._watched: list[Path] = []
        self._names: set[str] = set()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._events = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK) if processes.LINUX else -1
        self.watch(folder)

    def watch(self, folder: Path) -> None:
        """Watch one more parent folder of host folders, as long as it exists."""
        if processes.LINUX and self._libc.inotify_add_watch(self._events, os.fsencode(folder), _IN_CREATE) < 0:
            raise OSError(ctypes.get_errno(), "cannot be watched", str(folder))
        self._watched = [path for path in self._watched if path.exists()] + [folder]

    def close(self) -> None:
        """Stop watching."""
        if self._events >= 0:
            os.close(self._events)

    def names(self) -> set[str]:
        """Return the names of the folders of all runs so far, including removed folders."""
        while self._events >= 0:
            try:
                events = os.read(self._events, 1 << 16)
            except BlockingIOError:
                return self._names
            while events:
                (size,) = struct.unpack_from("12xI", events)
                name = os.fsdecode(events[16 : 16 + size].rstrip(b"\0"))
                if name.startswith(orphans.folder_prefix()):  # a test may keep other files there
                    self._names.add(name)
                events = events[16 + size :]
        return self._names

    def folders(self) -> list[Path]:
        """Return the folders, stores and control groups of the session's runs."""
        found = [path for folder in self._watched for path in _entries(folder)]
        found += [path for path in _entries(Path(_STORES)) if _run_of_store(path) in self.names()]
        bases = dict.fromkeys(cgroups.parent_groups().values())
        found += [path for base in bases for path in _entries(Path(base)) if path.name in self.names()]
        return found

    def pids(self) -> set[int]:
        """Return the living processes that this process has started, directly or indirectly, without sshd's own."""
        found = set()
        for name in filter(str.isdigit, os.listdir("/proc") if processes.LINUX else ()):
            if self._mark in _read(f"/proc/{name}/environ").split(b"\0") and not _read(f"/proc/{name}/comm").startswith(
                b"sshd"
            ):
                found.add(int(name))
        return found - {os.getpid()}


class Ledger:
    """Records the state of the session when it is created, and later reports what was added to that state.

    Args:
        place: The session's folder.
        own: True to check the descriptors, threads and children of this process as well.
        cluster: A cluster that stays open during the test. After the test, its hosts must have the same free amounts
            and numbers of tasks as before.
    """

    def __init__(self, place: Place, *, own: bool = True, cluster: Cluster | None = None) -> None:
        self._place = place
        self._own = own
        self._cluster = cluster
        self._said: list[str] = []
        self._pids = place.pids()
        self._things = self._look()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record the errors that asyncio logs, such as exceptions that were never retrieved."""
        handler = logging.Handler(logging.ERROR)
        handler.emit = lambda record: self._said.append(f"asyncio said: {_text(record)}")  # type: ignore[method-assign]
        logger = logging.getLogger("asyncio")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def left(self) -> list[str]:
        """Return descriptions of the things that are left now."""
        if not processes.LINUX:
            return []
        return self._said + beyond(self._things, self._look()) + self._processes_left()

    def _look(self) -> list[Thing]:
        if not processes.LINUX:
            return []
        found = [Thing(f"folder {path}", path, f"folder {path}") for path in self._place.folders()]
        if self._cluster is not None:
            found += _room(self._cluster)
        return [*found, *_descriptors(), *_threads(), *_children()] if self._own else found

    def _processes_left(self) -> list[str]:
        """Describe the new processes. Leave out new workers of older agents, because agents start workers as needed."""
        pids = self._place.pids()
        workers = _workers(self._pids & pids, pids)
        return [_describe("process", pid) for pid in sorted(pids - self._pids - workers)]


def _workers(before: set[int], pids: set[int]) -> set[int]:
    """Return the processes in `pids` that are workers of agents in `before`. Leave out processes that workers forked.

    A worker shares a page of memory with its agent, and with no other process. Both are children of the supervisor, and
    the agent is in the supervisor's session.
    """
    parents = processes.parents()
    agents = {parents[pid]: pid for pid in before if parents.get(pid) in before and _session(pid) == parents[pid]}
    families = [pid for pid in pids if pid in agents.values() or parents.get(pid) in agents or pid not in before]
    pages = {pid: _pages(pid) for pid in families}
    holders = Counter(page for held in pages.values() for page in held)
    return {
        pid
        for pid in pids
        if (agent := agents.get(parents.get(pid, 0))) is not None
        and pages[pid]
        and pages[pid] <= pages[agent]
        and all(holders[page] == 2 for page in pages[pid])
    }


def _pages(pid: int) -> set[bytes]:
    lines = (line.split() for line in _read(f"/proc/{pid}/maps").splitlines() if b"/memfd:handout-page-" in line)
    return {line[4] for line in lines}  # the page's inode


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _room(cluster: Cluster) -> Iterator[Thing]:
    for name, host in cluster.view.hosts.items():
        words = f"host {name} with {host.free} free, tasks: {host.running}, beyond that {host.backlog_s} s"
        yield Thing(words, words, words)


def _descriptors() -> Iterator[Thing]:
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # listdir's own descriptor, which is closed now
        yield Thing(re.sub(r"\[\d+\]", "", target), (name, target), f"descriptor {name}: {target}")


def _threads() -> Iterator[Thing]:
    for thread in threading.enumerate():
        # Threads of a loop's executor stay as long as the loop, and run_in_executor bounds their number.
        if not thread.name.startswith("asyncio_"):
            yield Thing(f"thread {thread.name}", thread, f"thread {thread!r}")


def _children() -> Iterator[Thing]:
    for pid in processes.children(os.getpid()):
        yield Thing(f"child {pid}", pid, _describe("child", pid))


def tasks() -> list[Thing]:
    """Return the tasks of the running loop, except the calling one."""
    return [
        Thing(f"task {getattr(task.get_coro(), '__qualname__', '')}", task, f"task {task!r}")
        for task in asyncio.all_tasks() - {asyncio.current_task()}
    ]


def until_none_is_left(left: Callable[[], list[str]], limit_s: float | None = None) -> None:
    """Wait until `left` returns nothing.

    Raises:
        AssertionError: Something is still left after the limit. The message names it.
    """
    for _ in _looks(left, limit_s):
        time.sleep(_PAUSE_S)


async def until_the_loop_has_none_left(left: Callable[[], list[str]], limit_s: float | None = None) -> None:
    """Wait as `until_none_is_left` does, but let the loop run meanwhile, because some things disappear only then."""
    for _ in _looks(left, limit_s):
        await asyncio.sleep(_PAUSE_S)


def _looks(left: Callable[[], list[str]], limit_s: float | None) -> Iterator[None]:
    until = time.monotonic() + (LIMIT_S if limit_s is None else limit_s)
    while found := left():
        assert time.monotonic() < until, "Left behind:\n" + "\n".join(found)
        yield


@contextmanager
def open_place() -> Iterator[Place]:
    """Make the session's folder, in which hosts then keep their folders. At the end, check that nothing is left."""
    folder = Path(tempfile.mkdtemp(prefix="ho-"))
    before = {name: os.environ.get(name) for name in (VARIABLE, PLACE)}
    os.environ.update({VARIABLE: str(folder), PLACE: str(folder)})
    place = Place(folder)
    try:
        yield place
        until_none_is_left(
            lambda: [_describe("process", pid) for pid in place.pids()] + list(map(str, place.folders()))
        )
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        for pid in place.pids():
            processes.send_signal(pid, signal.SIGKILL)
        for path in place.folders():
            shutil.rmtree(path, ignore_errors=True)
        place.close()
        shutil.rmtree(folder, ignore_errors=True)


def handed_on() -> dict[str, str]:
    """Return the variables that sshd must set for the programs it starts, because it gives them a new environment."""
    return {name: os.environ[name] for name in (VARIABLE, PLACE) if name in os.environ}


def _run_of_store(path: Path) -> str:
    if not path.name.startswith(orphans.folder_prefix()):
        return ""
    _, folder, *_ = [*_read(f"{path}/.lock").split(b"\0"), b""]
    return os.path.basename(os.fsdecode(folder))


def _describe(what: str, pid: int) -> str:
    words = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace")
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (
        f"{what} {pid}, {f'state {fields[0].decode()}, parent {int(fields[1])}' if fields else 'gone'}: {words[:200]}"
    )


def _text(record: logging.LogRecord) -> str:
    return f"{record.getMessage()} {record.exc_info[1]!r}" if record.exc_info else record.getMessage()


def _entries(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder)]
    except OSError:
        return []


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
