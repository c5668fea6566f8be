"""Reads the inputs of a worker's tasks, and stores the results of these tasks.

The store contains the objects of a host. It belongs to the agent, and has two folders, one in memory and one on disk.
Large objects are files in these folders, which workers read and write themselves. The worker keeps its latest small
results in its own memory.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Union

Buffer = Union[bytes, bytearray, memoryview]

#: A worker keeps at most this many small results in its memory, because a task that takes such a result as an input is
#: often queued on the same worker.
_RECENT_COUNT = 512
#: The small results that a worker keeps in its memory have at most this many bytes together.
_RECENT_BYTES = 8 << 20
#: Each file in the store's folder on disk ends with a checksum, because a disk can change bytes. The files in memory do
#: without it.
_TRAILER = struct.Struct("<I")
TRAILER_SIZE = _TRAILER.size
#: A file is checked in blocks of this size.
_BLOCK = 1 << 20
#: The numbers of the errors of a system call that say that the host or the process has too little of something.
SHORT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
#: One system call writes at most this many segments. Segments are the pieces of which the bytes of an object consist.
_WRITEV = 64


def file_name(key: int) -> str:
    """Return the name of an object's file in the store's folders."""
    return f"{key:x}"


def checkpoint_name(number: int) -> str:
    """Return the name under which a worker writes its large checkpoint with this number.

    The agent gives the file the name of its key.
    """
    return f"checkpoint-{number}"


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
    """The store cannot write a result, or a worker cannot unpack the user's modules. The message says why."""

    def __init__(self, path: str, need: int, free: int, reason: str, what: str = "a result") -> None:
        super().__init__(f"{what} of {need} bytes cannot be written to the folder {path}: {reason}")
        self.path, self.need, self.free = path, need, free


class StoreAccessError(Exception):
    """The worker cannot read an input from the store, or cannot write a result into it. The function is not at fault.

    For example, the function has changed the user of the worker's process, or the file system has failed.
    """


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
            OSError: The file of the input cannot be read.
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
        refusal: OSError | None = None
        # Each name is tried twice, because between two tries the agent may rename the file from the second to the
        # first.
        for file in (base, base + self._suffix) * 2:
            for folder in self._folders:
                checked = folder == self._folders[1]
                try:
                    data = _map_file(f"{folder}/{file}", checked)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    refusal = error
                    continue
                if data is not None:
                    return memoryview(data)[:-TRAILER_SIZE] if checked else data
                # The disk has changed the bytes. Without the file, the agent has the object made again.
                _remove(f"{folder}/{file}")
        if refusal is not None:
            raise refusal
        return None

    def write_checkpoint(self, number: int, segments: list[Any], spill: bool) -> int:
        """Write a large checkpoint into the store, as the file `checkpoint_name`. The arguments are those of `write`.

        Unlike a result, a checkpoint is written while the task runs. So the file gets its mode explicitly, and not by a
        change of the umask, which other threads of the task would see.
        """
        return self._write(checkpoint_name(number), segments, spill, 0o600)

    def write(self, key: int, segments: list[Any], spill: bool) -> int:
        """Write a large object of a result into the store, without joining its segments in memory.

        Args:
            key: Key of the object.
            segments: The pieces of which the bytes of the object consist.
            spill: True if the file must lie on disk.

        Returns:
            The index of the file's folder: 0 in memory, 1 on disk.

        Raises:
            DiskFullError: Neither folder has room, or a limit of this process is reached.
            OSError: The file cannot be written for another reason.
        """
        return self._write(file_name(key), segments, spill)

    def _write(self, name: str, segments: list[Any], spill: bool, mode: int | None = None) -> int:
        size = sum(memoryview(s).nbytes for s in segments)
        disk = self._folders[1]
        refusal: OSError | None = None
        for folder in (0, 1) if not spill else (1,):
            path = f"{self._folders[folder]}/{name}{self._suffix}"
            try:
                _write_file(path, [*segments, trailer(segments)] if self._folders[folder] == disk else segments)
                if mode is not None:
                    os.chmod(path, mode)
                return folder
            except OSError as error:
                # The folder in memory may be full, or another program may have removed it.
                _remove(path)
                refusal = error
        assert refusal is not None
        if refusal.errno not in SHORT:
            raise refusal
        raise DiskFullError(disk, size, free_bytes(disk), why_refused(disk, refusal))


def trailer(segments: Iterable[Any]) -> bytes:
    """Return the checksum of an object, with which the object's file ends."""
    crc = 0
    for segment in segments:
        crc = zlib.crc32(segment, crc)
    return crc_bytes(crc)


def crc_bytes(crc: int) -> bytes:
    """Return a checksum as the bytes with which a file ends."""
    return _TRAILER.pack(crc)


def _is_sound(fd: int, size: int) -> bool:
    """Return True if a file ends with the checksum of the bytes before it. A bad sector is damage, too.

    The file is not mapped for this: reading a bad sector of a mapped file kills the process with SIGBUS.

    Raises:
        OSError: The file cannot be read for another reason.
    """
    buffer, crc, offset, end = memoryview(bytearray(min(size, _BLOCK))), 0, 0, size - TRAILER_SIZE
    try:
        while offset < end:
            count = os.preadv(fd, [buffer[: end - offset]], offset)
            if not count:
                return False
            crc = zlib.crc32(buffer[:count], crc)
            offset += count
        return os.pread(fd, TRAILER_SIZE, end) == crc_bytes(crc) if end >= 0 else False
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False


def _map_file(path: str, checked: bool) -> Buffer | None:
    """Return the bytes of a file. If the file ends with a checksum that is wrong, return None."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if checked and not _is_sound(fd, size):
            return None
        return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_COPY)) if size else b""
    finally:
        os.close(fd)


def free_bytes(folder: str) -> int:
    """Return how many bytes are free for an ordinary user in a folder's file system; 0 if the folder is gone."""
    try:
        stat = os.statvfs(folder)
    except OSError:
        return 0
    return stat.f_bavail * stat.f_frsize


def why_refused(folder: str, error: OSError) -> str:
    """Return in words why a file could not be written to a folder, with the number that belongs to the reason."""
    if error.errno == errno.ENOSPC:
        try:
            stat = os.statvfs(folder)
        except OSError:
            return "the folder is gone"
        if stat.f_files and not stat.f_favail:
            return f"the file system has no inodes left (it has {stat.f_files} in all)"
        return f"{stat.f_bavail * stat.f_frsize} bytes are free"
    if error.errno == errno.EDQUOT:
        return "the user's disk quota is used up"
    if error.errno == errno.EFBIG:
        return f"the limit on the size of a file is {_limit(resource.RLIMIT_FSIZE)} bytes (ulimit -f)"
    if error.errno == errno.EMFILE:
        return f"the limit on open files is {_limit(resource.RLIMIT_NOFILE)} (ulimit -n)"
    if error.errno == errno.ENOENT:
        return "another program has removed the folder"
    return f"{error.strerror} (errno {error.errno})"


def _limit(which: int) -> int:
    return resource.getrlimit(which)[0]


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
