"""Reads the inputs of a worker's tasks, and stores the results of these tasks.

The store contains the objects of a host. It belongs to the agent, and has two folders, one in memory and one on disk.
Large objects are files in these folders, which workers read and write themselves. The worker keeps its latest small
results in its own memory.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Union

Buffer = Union[bytes, bytearray, memoryview]

#: A worker keeps at most this many small results in its memory, because a task that takes such a result as an input is
#: often queued on the same worker.
_RECENT_COUNT = 512
#: The small results that a worker keeps in its memory have at most this many bytes together.
_RECENT_BYTES = 8 << 20
#: One system call writes at most this many segments. Segments are the pieces of which the bytes of an object consist.
_WRITEV = 64


def file_name(key: int) -> str:
    """Return the name of an object's file in the store's folders."""
    return f"{key:x}"


class MissingInputError(Exception):
    """An input did not come with the batch of tasks, is not in the worker's memory, and is not in the store.

    The agent then queues the task again, gives the task back to the controller, or reports that the task failed.
    """


class OversizedResultError(Exception):
    """An object of a result is larger than ``max_result_bytes``."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the result has {size} bytes, but may have at most {limit}")
        self.size, self.limit = size, limit


class DiskFullError(Exception):
    """The store has no room for a result."""

    def __init__(self, path: str, need: int, free: int) -> None:
        super().__init__(f"no room for a result of {need} bytes in {path} ({free} bytes free)")
        self.path, self.need, self.free = path, need, free


class WorkerObjects:
    """Reads inputs and writes results.

    Args:
        folders: The store's folder in memory, and its folder on disk. Both may be the same folder.
        suffix: The ending of the name of each file that this worker writes. When the agent adds the file to the store,
            the agent removes the ending.
    """

    def __init__(self, folders: Sequence[str], suffix: str) -> None:
        self._folders = list(folders)
        self._suffix = suffix
        self._recent: OrderedDict[int, Buffer] = OrderedDict()
        self._recent_bytes = 0

    def remember(self, key: int, data: Buffer) -> None:
        """Keep a small result in memory for later tasks of this worker."""
        self._recent_bytes += len(data) - len(self._recent.pop(key, b""))
        self._recent[key] = data
        while self._recent_bytes > _RECENT_BYTES or len(self._recent) > _RECENT_COUNT:
            self._recent_bytes -= len(self._recent.popitem(last=False)[1])

    def forget(self, keys: Iterable[int]) -> None:
        """Remove the objects of a result that the worker will not report. Ignore the key -1, which names no object."""
        for key in keys:
            if key != -1:
                self._recent_bytes -= len(self._recent.pop(key, b""))
                for folder in self._folders:
                    _remove(f"{folder}/{file_name(key)}{self._suffix}")

    def get(self, key: int, sent: dict[int, Buffer]) -> Buffer:
        """Return the bytes of an input. If the input is a file, changes of the bytes do not reach the file.

        Args:
            key: Key of the object.
            sent: The objects that came with the batch of tasks, by key.

        Raises:
            MissingInputError: The input did not come with the batch, is not in this worker's memory, and is not in the
                store.
        """
        data = sent.get(key)
        if data is None:
            data = self._recent.get(key)
        if data is None:
            data = self._map(key)
        if data is None:
            raise MissingInputError(f"input {key:x} is not on this host")
        return data

    def _map(self, key: int) -> Buffer | None:
        base = file_name(key)
        # Each name is tried twice, because between two tries the agent may rename the file from the second to the
        # first.
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
        """Write a large object of a result into the store, without joining its segments in memory.

        Args:
            key: Key of the object.
            segments: The pieces of which the bytes of the object consist.
            spill: True if the file must lie on disk.

        Returns:
            The index of the file's folder: 0 in memory, 1 on disk.

        Raises:
            DiskFullError: No folder has room.
        """
        size = sum(memoryview(s).nbytes for s in segments)
        for folder in (0, 1) if not spill else (1,):
            path = f"{self._folders[folder]}/{file_name(key)}{self._suffix}"
            try:
                _write_file(path, segments)
                return folder
            except OSError as error:
                _remove(path)
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
        disk = self._folders[1]
        stat = os.statvfs(disk)
        raise DiskFullError(disk, size, stat.f_bavail * stat.f_frsize)


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
            written = os.writev(fd, views[:_WRITEV])
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]
    finally:
        os.close(fd)
