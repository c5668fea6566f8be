"""Checks that a fault test leaves nothing behind: invariants R3 (no orphans) and R4 (the books are even).

Before and after a test, the ledger lists the processes, folders, stores and control groups of all runs of this test
session, the descriptors, threads and children of this process, and the tasks of the event loop. Whatever the list has
gained must go by itself within `LIMIT_S`. Otherwise the test fails.

Other programs may run agents on the same machine. The ledger tells the session's processes by an environment variable
that programs started here inherit, and that the servers of `tests.sshd` pass on. Forks inherit it as well. The ledger so
finds every process that Handout finds by its own marks (see `handout.host.system.orphans`), and finds it before the
marks are set. The folders of runs lie in a folder of the session, and stores and control groups are named after them.
The ledger reads /proc. On systems other than Linux it checks nothing.
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

#: Seconds in which a run's remains must go by themselves: a supervisor closes its connections before it exits, and a thread
#: that is not waited for may be reading keys. A busy machine needs more of them than an idle one. The limit is below the
#: default lease, so that what only the lease would end is found. A test that leaves something to a lease waits for that itself.
LIMIT_S = 12.0
#: The variable that marks the session's processes, and the one that names the folder for its hosts' folders.
VARIABLE, PLACE = "HANDOUT_TESTS", "HANDOUT_TMPDIR"

_IN_CREATE = 0x100
_PAUSE_S = 0.01
_STORES = "/dev/shm"


class Thing(NamedTuple):
    """One thing that the ledger counts."""

    #: Things of one kind may replace each other: only their number must not grow.
    kind: str
    #: The identity of the thing, and its name in the message if it is left.
    which: object
    words: str


def beyond(before: Iterable[Thing], after: Iterable[Thing]) -> list[str]:
    """Return the names of new things, of each kind whose number has grown."""
    before, after = list(before), list(after)
    more = Counter(thing.kind for thing in after) - Counter(thing.kind for thing in before)
    known = {thing.which for thing in before}
    return [thing.words for thing in after if more[thing.kind] and thing.which not in known]


class Place:
    """The folder for the folders of a session's hosts, which tells the session's runs from other runs on this machine.

    Args:
        folder: An empty folder. Its name is short, because it is part of the paths of sockets.
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
        """Watch one more folder in which hosts keep their folders, as long as it exists."""
        if processes.LINUX and self._libc.inotify_add_watch(self._events, os.fsencode(folder), _IN_CREATE) < 0:
            raise OSError(ctypes.get_errno(), "cannot be watched", str(folder))
        self._watched = [path for path in self._watched if path.exists()] + [folder]

    def close(self) -> None:
        """Stop watching."""
        if self._events >= 0:
            os.close(self._events)

    def names(self) -> set[str]:
        """Return the names of the folders of all runs so far, including folders that are gone."""
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
        """Return all living processes that this one has started, directly or not, except those of sshd."""
        found = set()
        for name in filter(str.isdigit, os.listdir("/proc") if processes.LINUX else ()):
            if self._mark in _read(f"/proc/{name}/environ").split(b"\0") and not _read(f"/proc/{name}/comm").startswith(
                b"sshd"
            ):
                found.add(int(name))
        return found - {os.getpid()}


class Ledger:
    """The state when the ledger is made, and all that is left beyond it later.

    Args:
        place: The session's folder.
        own: True to check also the descriptors, threads and children of this process.
        cluster: A cluster that is open all the while. Its hosts must have as much free as before.
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
        """Return what is left now, as text."""
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
        """Return new processes, except new workers of agents that were there before: agents start workers as needed."""
        pids = self._place.pids()
        workers = _workers(self._pids & pids, pids)
        return [_describe("process", pid) for pid in sorted(pids - self._pids - workers)]


def _workers(before: set[int], pids: set[int]) -> set[int]:
    """Return the processes of `pids` that are workers of agents in `before`, without the forks of workers.

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
    return {line[4] for line in lines}  # its inode


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
            continue  # this loop's own descriptor of the folder
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
    """Wait until nothing is left.

    Raises:
        AssertionError: Something is left after the limit; the message names it.
    """
    for _ in _looks(left, limit_s):
        time.sleep(_PAUSE_S)


async def until_the_loop_has_none_left(left: Callable[[], list[str]], limit_s: float | None = None) -> None:
    """Wait in the same way for things that go only while the loop runs."""
    for _ in _looks(left, limit_s):
        await asyncio.sleep(_PAUSE_S)


def _looks(left: Callable[[], list[str]], limit_s: float | None) -> Iterator[None]:
    until = time.monotonic() + (LIMIT_S if limit_s is None else limit_s)
    while found := left():
        assert time.monotonic() < until, "Left behind:\n" + "\n".join(found)
        yield


@contextmanager
def open_place() -> Iterator[Place]:
    """Make the session's folder. Hosts started from here on keep their folders in it; nothing is left at the end."""
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
    """Return the variables that a server must set for the programs it starts, because they do not inherit them."""
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
