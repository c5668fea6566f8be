"""The objects of a host, as opaque bytes: small ones in the agent's memory, large ones as files that workers map.

Files lie in memory (``/dev/shm``) as long as they fit into the limit, then on disk. The store never reads what an
object holds.
"""

from __future__ import annotations

import errno
import os
import shutil
from typing import NamedTuple, Union

from handout.host.worker.objects import file_name
from handout.protocol.messages import INLINE
from handout.protocol.session import Source

Buffer = Union[bytes, bytearray, memoryview]

#: Bytes of small objects in the agent's own memory. Beyond it, small objects become files as well.
_SMALL_LIMIT = 128 << 20
#: The store's part of the free room in ``/dev/shm``.
_SHARE = 0.5
_COPY = 1 << 20
MEMORY, DISK = 0, 1


class StoreFullError(Exception):
    """There is no room for an object, neither in memory nor on disk."""

    def __init__(self, path: str, need: int, free: int) -> None:
        super().__init__(f"no room for an object of {need} bytes in {path} ({free} bytes free)")
        self.path, self.need, self.free = path, need, free


class Entry(NamedTuple):
    """One object: its bytes, or the folder that its file is in."""

    size: int
    data: bytes | None
    where: int


class ObjectStore:
    """The objects of this host.

    Args:
        memory_folder: Folder for files in memory, or None where the host has no such place.
        disk_folder: Folder for files on disk.
        limit: Bytes of files in memory; by default half of the room that is free there.
    """

    def __init__(self, memory_folder: str | None, disk_folder: str, limit: int | None = None) -> None:
        os.makedirs(disk_folder, mode=0o700, exist_ok=True)
        self.folders = [memory_folder or disk_folder, disk_folder]
        if limit is None:
            limit = int(shutil.disk_usage(memory_folder).free * _SHARE) if memory_folder else 0
        self._limit = limit
        self._entries: dict[int, Entry] = {}
        #: Bytes of files in memory, and of small objects.
        self.file_bytes = 0
        self.small_bytes = 0

    def __contains__(self, key: int) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def keys(self) -> list[int]:
        """The keys of all objects."""
        return list(self._entries)

    @property
    def spilling(self) -> bool:
        """True where new files go to disk."""
        return self.file_bytes >= self._limit

    def size(self, key: int) -> int:
        """Return the bytes of an object, as a count."""
        return self._entries[key].size

    def small(self, key: int) -> bytes | None:
        """Return the bytes of an object in the agent's memory; None where the object is a file."""
        return self._entries[key].data

    def path(self, key: int) -> str | None:
        """Return the path of an object's file, after making a small object a file; None where the store lacks it.

        Raises:
            StoreFullError: There is no room for the file.
        """
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.data is not None:
            incoming = Incoming(self, key, entry.size, small=False)
            incoming.write(entry.data)
            # The entry goes only now: should the file not be written, the object stays in memory.
            del self._entries[key]
            self.small_bytes -= entry.size
            incoming.finish()
            entry = self._entries[key]
        return f"{self.folders[entry.where]}/{file_name(key)}"

    def put(self, key: int, data: Buffer) -> None:
        """Add a small object; its bytes are copied.

        Raises:
            StoreFullError: There is no room.
        """
        if key in self._entries:
            return
        size = len(data)
        if self.small_bytes + size > _SMALL_LIMIT or size > INLINE:
            incoming = Incoming(self, key, size, small=False)
            incoming.write(data)
            incoming.finish()
            return
        self.small_bytes += size
        self._entries[key] = Entry(size, bytes(data), MEMORY)

    def take_file(self, key: int, size: int, where: int, suffix: str) -> bool:
        """Add a file that a worker wrote; return False if it is not there or has another size."""
        path = f"{self.folders[where]}/{file_name(key)}"
        try:
            if os.stat(path + suffix).st_size != size:
                return False
            if key in self._entries:
                # The object was made twice. The first file stays, because workers may have it mapped.
                os.unlink(path + suffix)
                return True
            os.rename(path + suffix, path)
        except OSError:
            return False
        self._add_file(key, size, where)
        return True

    def _add_file(self, key: int, size: int, where: int) -> None:
        self._entries[key] = Entry(size, None, where)
        if where == MEMORY:
            self.file_bytes += size

    def drop(self, key: int) -> None:
        """Delete an object; a worker that has its file mapped keeps the bytes."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        if entry.data is not None:
            self.small_bytes -= entry.size
            return
        if entry.where == MEMORY:
            self.file_bytes -= entry.size
        _remove(f"{self.folders[entry.where]}/{file_name(key)}")

    def open(self, key: int) -> Outgoing:
        """Return an object as the source of a stream. The source stays readable when the object is dropped.

        Raises:
            KeyError: The store does not have the object.
        """
        entry = self._entries[key]
        if entry.data is not None:
            return Outgoing(entry.size, data=entry.data)
        try:
            return Outgoing(
                entry.size, fd=os.open(f"{self.folders[entry.where]}/{file_name(key)}", os.O_RDONLY | os.O_CLOEXEC)
            )
        except OSError:
            raise KeyError(key) from None

    def clean_up_after(self, suffix: str) -> None:
        """Remove files that a dead worker left unfinished or unreported."""
        for folder in set(self.folders):
            try:
                names = os.listdir(folder)
            except OSError:
                continue
            for file in names:
                if file.endswith(suffix):
                    _remove(f"{folder}/{file}")


class Outgoing(Source):
    """The bytes of an object, as the source of a stream."""

    def __init__(self, size: int, *, data: bytes | None = None, fd: int = -1) -> None:
        self.size = size
        self._data = data
        self._fd = fd

    def read(self, offset: int, size: int) -> Buffer:
        """Return at most ``size`` bytes from ``offset``."""
        if self._data is not None:
            return memoryview(self._data)[offset : offset + size]
        return os.pread(self._fd, size, offset)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Incoming:
    """An object that arrives in pieces."""

    def __init__(self, store: ObjectStore, key: int, size: int, *, small: bool = True) -> None:
        self._store = store
        self.key = key
        self.size = size
        self.received = 0
        self._small: bytearray | None = bytearray() if small and size <= INLINE else None
        self._fd = -1
        self._where = MEMORY
        self._path = ""
        if self._small is None:
            self._open(DISK if store.file_bytes + size > store._limit else MEMORY)

    def _open(self, where: int) -> None:
        self._where = where
        self._path = f"{self._store.folders[where]}/{file_name(self.key)}.in"
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError:
            raise self._full() from None

    def _full(self) -> StoreFullError:
        folder = self._store.folders[DISK]
        stat = os.statvfs(folder)
        return StoreFullError(folder, self.size, stat.f_bavail * stat.f_frsize)

    def write(self, data: Buffer) -> None:
        """Write the next piece.

        Raises:
            StoreFullError: There is no room; the object was given up.
        """
        self.received += len(data)
        if self._small is not None:
            self._small += data
            return
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except OSError as error:
                if self._where == MEMORY and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    self._move_to_disk()
                    continue
                self.give_up()
                raise self._full() from None

    def _move_to_disk(self) -> None:
        old, path = self._fd, self._path
        try:
            self._open(DISK)
            offset = 0
            while True:
                data = os.pread(old, _COPY, offset)
                if not data:
                    return
                offset += os.write(self._fd, data)
        except OSError:
            self.give_up()
            raise self._full() from None
        finally:
            os.close(old)
            _remove(path)

    def finish(self) -> None:
        """Add the object to the store: all its pieces have arrived."""
        store = self._store
        if self._small is not None:
            store.put(self.key, self._small)
            return
        os.close(self._fd)
        self._fd = -1
        if self.key in store:
            _remove(self._path)
            return
        os.rename(self._path, f"{store.folders[self._where]}/{file_name(self.key)}")
        store._add_file(self.key, self.size, self._where)

    def give_up(self) -> None:
        """Remove what has arrived: the rest will not come."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            _remove(self._path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
