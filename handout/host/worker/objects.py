"""Objects as a worker sees them: the store's folders, and the results that it has just made itself."""

from __future__ import annotations

import errno
import mmap
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Union

Buffer = Union[bytes, bytearray, memoryview]

#: An object up to this size rides in messages and lives in memory; a larger one is a file.
INLINE = 65536
#: Results of its own that a worker remembers for tasks queued behind the ones that made them.
_RECENT_COUNT = 512
_RECENT_BYTES = 8 << 20
_WRITEV = 64


def name(key: int) -> str:
    """The file name of an object."""
    return f"{key:x}"


class MissingInputError(Exception):
    """An input is neither here nor in the store: the agent knows better."""


class OversizedResultError(Exception):
    """A result has more bytes than it may."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the result has {size} bytes, of {limit} that it may have")
        self.size, self.limit = size, limit


class DiskFullError(Exception):
    """A result found no room in the store."""

    def __init__(self, path: str, need: int, free: int) -> None:
        super().__init__(f"no room for a result of {need} bytes in {path} ({free} bytes free)")
        self.path, self.need, self.free = path, need, free


class WorkerObjects:
    """Reads inputs and writes results.

    Args:
        folders: The store's folders: in memory, on disk. Both may be the same.
        suffix: Ends the names of files that this worker writes; the agent renames them when it hears of them.
    """

    def __init__(self, folders: Sequence[str], suffix: str) -> None:
        self._folders = list(folders)
        self._suffix = suffix
        self._recent: OrderedDict[int, Buffer] = OrderedDict()
        self._recent_bytes = 0

    def remember(self, key: int, data: Buffer) -> None:
        """Keep a small result for followers."""
        self._recent_bytes += len(data) - len(self._recent.pop(key, b""))
        self._recent[key] = data
        while self._recent_bytes > _RECENT_BYTES or len(self._recent) > _RECENT_COUNT:
            self._recent_bytes -= len(self._recent.popitem(last=False)[1])

    def forget(self, keys: Iterable[int]) -> None:
        """Remove results that were written and will not be reported."""
        for key in keys:
            if key != -1:
                self._recent_bytes -= len(self._recent.pop(key, b""))
                for folder in self._folders:
                    _remove(f"{folder}/{name(key)}{self._suffix}")

    def get(self, key: int, sent: dict[int, Buffer]) -> Buffer:
        """An input's bytes; those of a file are mapped privately, so that writing to them stays here.

        Args:
            key: The object.
            sent: Those that came with the task.

        Raises:
            MissingInputError: It is nowhere.
        """
        data = sent.get(key)
        if data is None:
            data = self._recent.get(key)
        if data is None:
            data = self._map(key)
        if data is None:
            raise MissingInputError(f"input {key:x} is not here")
        return data

    def _map(self, key: int) -> Buffer | None:
        base = name(key)
        # Twice: the agent may be renaming it, or moving it to disk.
        for file in (base, base + self._suffix) * 2:
            for folder in self._folders:
                try:
                    fd = os.open(f"{folder}/{file}", os.O_RDONLY | os.O_CLOEXEC)
                except OSError:
                    continue
                try:
                    size = os.fstat(fd).st_size
                    return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_COPY)) if size else b""
                finally:
                    os.close(fd)
        return None

    def write(self, key: int, segments: list[Any], spill: bool) -> int:
        """Write a large result straight from its own memory into the store.

        Returns: Which folder it went to.
        Raises:
            DiskFullError: Neither has room.
        """
        size = sum(memoryview(s).nbytes for s in segments)
        for where in (0, 1) if not spill else (1,):
            path = f"{self._folders[where]}/{name(key)}{self._suffix}"
            try:
                _write_file(path, segments)
                return where
            except OSError as error:
                _remove(path)
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
        folder = self._folders[1]
        stat = os.statvfs(folder)
        raise DiskFullError(folder, size, stat.f_bavail * stat.f_frsize)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _write_file(path: str, segments: list[Any]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        views = [memoryview(s).cast("B") for s in segments if len(s)]
        while views:
            done = os.writev(fd, views[:_WRITEV])
            while views and done >= len(views[0]):
                done -= len(views.pop(0))
            if done:
                views[0] = views[0][done:]
    finally:
        os.close(fd)
