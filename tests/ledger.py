"""What every fault test must leave as it found it: the invariants R3 (no orphans) and R4 (the books are even).

Before a test and after it this looks at the processes, folders, stores and control groups of all runs that this
session of tests has started, at the descriptors, threads and children of this process, and at the tasks of the event
loop. What is more than there was must go by itself within :data:`LIMIT_S`, or the test has failed.

Others run agents on the same machine. A session's own are known by a variable that programs started here inherit, and
that the servers of `tests.sshd` hand on. Forks keep it in sight, too, so it finds all that Handout finds by its own
marks (see `handout.host.system.orphans`), and before there are any. Folders of runs lie in a folder of the session's, and
stores and control groups are called after them. All of it is read from /proc: on other systems nothing is looked at.
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
#: What the processes of a session have in their environment, and where its hosts keep their folders.
VARIABLE, PLACE = "HANDOUT_TESTS", "HANDOUT_TMPDIR"

_IN_CREATE = 0x100
_PAUSE_S = 0.01
_STORES = "/dev/shm"


class Thing(NamedTuple):
    """Something that is there."""

    #: What may take its place: of each kind there must not be more than there were.
    kind: str
    #: Which one it is, and what it is called where it is left.
    which: object
    words: str


def beyond(before: Iterable[Thing], after: Iterable[Thing]) -> list[str]:
    """What there is more of than before: the new ones of each such kind."""
    before, after = list(before), list(after)
    more = Counter(thing.kind for thing in after) - Counter(thing.kind for thing in before)
    known = {thing.which for thing in before}
    return [thing.words for thing in after if more[thing.kind] and thing.which not in known]


class Place:
    """Where the hosts of a session keep their folders, and what tells its runs from those of others.

    Args:
        folder: An empty folder with a short name: there are sockets below it.
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
        """Let hosts keep their folders here as well, as long as it exists."""
        if processes.LINUX and self._libc.inotify_add_watch(self._events, os.fsencode(folder), _IN_CREATE) < 0:
            raise OSError(ctypes.get_errno(), "cannot be watched", str(folder))
        self._watched = [path for path in self._watched if path.exists()] + [folder]

    def close(self) -> None:
        """Watch no more."""
        if self._events >= 0:
            os.close(self._events)

    def names(self) -> set[str]:
        """What the folders of all runs so far were called, those that are gone included."""
        while self._events >= 0:
            try:
                events = os.read(self._events, 1 << 16)
            except BlockingIOError:
                return self._names
            while events:
                (size,) = struct.unpack_from("12xI", events)
                name = os.fsdecode(events[16 : 16 + size].rstrip(b"\0"))
                if name.startswith(orphans.folder_prefix()):  # tests may have files of their own there
                    self._names.add(name)
                events = events[16 + size :]
        return self._names

    def folders(self) -> list[Path]:
        """Folders, stores and control groups of its runs."""
        found = [path for folder in self._watched for path in _entries(folder)]
        found += [path for path in _entries(Path(_STORES)) if _run_of_store(path) in self.names()]
        bases = dict.fromkeys(cgroups.parent_groups().values())
        found += [path for base in bases for path in _entries(Path(base)) if path.name in self.names()]
        return found

    def pids(self) -> set[int]:
        """Every process that this one has started in any way, and that has not ended; sshd's own are left out."""
        found = set()
        for name in filter(str.isdigit, os.listdir("/proc") if processes.LINUX else ()):
            if self._mark in _read(f"/proc/{name}/environ").split(b"\0") and not _read(f"/proc/{name}/comm").startswith(
                b"sshd"
            ):
                found.add(int(name))
        return found - {os.getpid()}


class Ledger:
    """What there is when this is made, and from then on what is left beside it.

    Args:
        place: The session's.
        own: Whether this process's own means are looked at, or only the runs.
        cluster: One that was open then; of what its hosts offer as much must be free again.
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
        """Note what asyncio says that nobody heard of: exceptions that were never retrieved, and the like."""
        handler = logging.Handler(logging.ERROR)
        handler.emit = lambda record: self._said.append(f"asyncio said: {_text(record)}")  # type: ignore[method-assign]
        logger = logging.getLogger("asyncio")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def left(self) -> list[str]:
        """What is left now, in words."""
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
        """Processes that began since then, but for workers of agents that were there: those begin as they are needed."""
        pids = self._place.pids()
        workers = _workers(self._pids & pids, pids)
        return [_describe("process", pid) for pid in sorted(pids - self._pids - workers)]


def _workers(keepers: set[int], pids: set[int]) -> set[int]:
    """Of these processes, the workers of agents among the keepers: what a worker forked is none.

    A worker shares a page of memory with its agent, and with nobody else. Both are children of the supervisor, whose
    session is the agent's.
    """
    parents = processes.parents()
    agents = {parents[pid]: pid for pid in keepers if parents.get(pid) in keepers and _session(pid) == parents[pid]}
    families = [pid for pid in pids if pid in agents.values() or parents.get(pid) in agents or pid not in keepers]
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
            continue  # the one that this folder was read with
        yield Thing(re.sub(r"\[\d+\]", "", target), (name, target), f"descriptor {name}: {target}")


def _threads() -> Iterator[Thing]:
    for thread in threading.enumerate():
        # Those of a loop's own executor stay as long as the loop, whose number they do not exceed: see run_in_executor.
        if not thread.name.startswith("asyncio_"):
            yield Thing(f"thread {thread.name}", thread, f"thread {thread!r}")


def _children() -> Iterator[Thing]:
    for pid in processes.children(os.getpid()):
        yield Thing(f"child {pid}", pid, _describe("child", pid))


def tasks() -> list[Thing]:
    """The tasks of the loop that runs, but for the one that asks."""
    return [
        Thing(f"task {getattr(task.get_coro(), '__qualname__', '')}", task, f"task {task!r}")
        for task in asyncio.all_tasks() - {asyncio.current_task()}
    ]


def until_none_is_left(left: Callable[[], list[str]], limit_s: float | None = None) -> None:
    """Wait until nothing is left any more.

    Raises:
        AssertionError: Something is, and this names it.
    """
    for _ in _looks(left, limit_s):
        time.sleep(_PAUSE_S)


async def until_the_loop_has_none_left(left: Callable[[], list[str]], limit_s: float | None = None) -> None:
    """The same of what only goes while the loop runs."""
    for _ in _looks(left, limit_s):
        await asyncio.sleep(_PAUSE_S)


def _looks(left: Callable[[], list[str]], limit_s: float | None) -> Iterator[None]:
    until = time.monotonic() + (LIMIT_S if limit_s is None else limit_s)
    while found := left():
        assert time.monotonic() < until, "Left behind:\n" + "\n".join(found)
        yield


@contextmanager
def open_place() -> Iterator[Place]:
    """A session's place. What is started from here on keeps its folders in it; nothing of it is left in the end."""
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
    """What a server must give to the programs that it starts, for they do not inherit it."""
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
