"""Stores the objects of a host as bytes: small objects in the agent's memory, large objects as files.

The files lie in a file system in memory (``/dev/shm``). Once they have as many bytes as the store's limit allows,
further files lie on disk. Workers map the files to read them. The store never unpickles an object.
"""

from __future__ import annotations

import itertools
import os
import shutil
import zlib
from typing import Callable, NamedTuple, Union

from handout.host.worker.objects import TRAILER_SIZE, crc_bytes, file_name, free_bytes, why_refused
from handout.protocol.messages import INLINE
from handout.protocol.session import Source

Buffer = Union[bytes, bytearray, memoryview]

#: The agent's own memory holds at most this many bytes of small objects. Further small objects become files.
_SMALL_LIMIT = 128 << 20
#: By default, the store uses at most this share of the space that is free in ``/dev/shm`` when the agent starts.
_SHARE = 0.5
_COPY_SIZE = 1 << 20
#: The checksum of a file is computed over pieces of this size, each in a turn of the event loop of its own.
_CHECK_SIZE = 4 << 20
#: The indexes that the folder in memory and the folder on disk have in `ObjectStore.folders`.
MEMORY, DISK = 0, 1
_numbers = itertools.count(1)


class StoreFullError(Exception):
    """The store cannot write an object, neither in memory nor on disk. The message says why."""

    def __init__(self, path: str, need: int, free: int, reason: str) -> None:
        super().__init__(f"an object of {need} bytes cannot be written to the folder {path}: {reason}")
        self.path, self.need, self.free = path, need, free


class Entry(NamedTuple):
    """An object in the store."""

    size: int
    #: The bytes of a small object; None if the object is a file.
    data: bytes | None
    #: The index of the folder that has the object's file.
    folder: int


class ObjectStore:
    """Stores the objects of this host.

    Args:
        memory_folder: Folder for files in memory; None if the host has no file system in memory.
        disk_folder: Folder for files on disk.
        limit: The largest number of bytes of files in memory. Default: half of the space that is free in
            ``memory_folder``.
    """

    def __init__(self, memory_folder: str | None, disk_folder: str, limit: int | None = None) -> None:
        os.makedirs(disk_folder, mode=0o700, exist_ok=True)
        self.folders = [memory_folder or disk_folder, disk_folder]
        if memory_folder is None:
            limit = 0
        elif limit is None:
            limit = int(shutil.disk_usage(memory_folder).free * _SHARE)
        self._limit = limit
        self._entries: dict[int, Entry] = {}
        #: Bytes of the files that lie in memory.
        self.file_bytes = 0
        #: Bytes of the small objects that are not files.
        self.small_bytes = 0

    def __contains__(self, key: int) -> bool:
        return key in self._entries

    @property
    def keys(self) -> list[int]:
        """The keys of all objects."""
        return list(self._entries)

    @property
    def spilling(self) -> bool:
        """True if new files go to disk, because the files in memory have reached the limit."""
        return self.file_bytes >= self._limit

    def size(self, key: int) -> int:
        """Return the size of an object in bytes."""
        return self._entries[key].size

    def small(self, key: int) -> bytes | None:
        """Return the bytes of a small object; None if the object is a file."""
        return self._entries[key].data

    def is_whole(self, key: int) -> bool:
        """Return False if another program has removed, shortened or damaged the file of an object of the store."""
        entry = self._entries[key]
        if entry.data is not None:
            return True
        try:
            status = os.stat(f"{self.folders[entry.folder]}/{file_name(key)}")
        except OSError:
            return False
        return status.st_size == entry.size + self.trailer_size(entry.folder)

    def trailer_size(self, folder: int) -> int:
        """Return how many bytes follow an object in each file of a folder: on disk, the bytes of its checksum."""
        return TRAILER_SIZE if self.folders[folder] == self.folders[DISK] else 0

    def path(self, key: int) -> str | None:
        """Return the path of an object's file; None if the store does not have the object.

        If the store still keeps the object in the agent's memory, this method first writes it to a file.

        Raises:
            StoreFullError: There is no room for the file.
        """
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.data is not None:
            incoming = Incoming(self, key, entry.size, small=False)
            incoming.write(entry.data)
            del self._entries[key]
            try:
                incoming.finish()
            except StoreFullError:
                self._entries[key] = entry  # the object stays in memory
                raise
            self.small_bytes -= entry.size
            entry = self._entries[key]
        return f"{self.folders[entry.folder]}/{file_name(key)}"

    def put(self, key: int, data: Buffer) -> None:
        """Add an object by copying its bytes. Do nothing if the store has the object already.

        Raises:
            StoreFullError: There is no room for the object.
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

    def keep(self, key: int, data: Buffer) -> None:
        """Add a small object that must not become a file, because there is no room for files."""
        self.small_bytes += len(data)
        self._entries[key] = Entry(len(data), bytes(data), MEMORY)

    def take_file(self, key: int, size: int, folder: int, suffix: str, name: str | None = None) -> bool:
        """Add a file that a worker wrote.

        Args:
            key: Key of the object.
            size: Bytes of the object.
            folder: Index of the folder that has the file.
            suffix: What the worker has appended to the name of the file. The store removes the suffix from the name.
            name: The name that the worker gave the file, without the suffix. Default: the name for the key.

        Returns:
            True if the store has the object now. False if the file does not exist or has another size.
        """
        path = f"{self.folders[folder]}/{file_name(key)}"
        written = f"{self.folders[folder]}/{name or file_name(key)}{suffix}"
        try:
            if os.stat(written).st_size != size + self.trailer_size(folder):
                return False
            if key in self._entries:
                # Two attempts made this object. The file of the first attempt stays, because workers may have mapped
                # this file.
                os.unlink(written)
                return True
            os.rename(written, path)
        except OSError:
            return False
        self._add_file(key, size, folder)
        return True

    def _add_file(self, key: int, size: int, folder: int) -> None:
        self._entries[key] = Entry(size, None, folder)
        if folder == MEMORY:
            self.file_bytes += size

    def drop(self, key: int) -> None:
        """Delete an object. A worker that has mapped the object's file keeps the bytes."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        if entry.data is not None:
            self.small_bytes -= entry.size
            return
        if entry.folder == MEMORY:
            self.file_bytes -= entry.size
        _remove(f"{self.folders[entry.folder]}/{file_name(key)}")

    def is_file(self, key: int) -> bool:
        """Return True if the store has an object as a file."""
        return key in self._entries and self._entries[key].data is None

    def open(self, key: int) -> Outgoing:
        """Return a source from which an object can be streamed, even if the store drops the object meanwhile.

        Raises:
            KeyError: The store does not have the object.
            OSError: The object's file cannot be opened, or another program has changed its size.
        """
        entry = self._entries[key]
        if entry.data is not None:
            return Outgoing(entry.size, data=entry.data)
        if not self.is_whole(key):
            raise OSError(f"the file of the object {key:x} has vanished")
        path = f"{self.folders[entry.folder]}/{file_name(key)}"
        checked = bool(self.trailer_size(entry.folder))
        return Outgoing(entry.size, fd=os.open(path, os.O_RDONLY | os.O_CLOEXEC), checked=checked)

    def clean_up_after(self, suffix: str) -> None:
        """Remove the files that a worker wrote but did not report before it ended.

        Args:
            suffix: What the worker has appended to the names of these files.
        """
        for folder in set(self.folders):
            try:
                names = os.listdir(folder)
            except OSError:
                continue
            for file in names:
                if file.endswith(suffix):
                    _remove(f"{folder}/{file}")


class Outgoing(Source):
    """Provides the bytes of an object that is streamed to the controller.

    Args:
        size: The object's size in bytes.
        data: The object's bytes, or None if the object is a file.
        fd: Descriptor of the file.
        checked: True if the file ends with a checksum. The agent must then call `check` before it sends the object.
    """

    def __init__(self, size: int, *, data: bytes | None = None, fd: int = -1, checked: bool = False) -> None:
        self.size = size
        #: `close` calls this after it has closed the file.
        self.on_closed: Callable[[], None] = lambda: None
        #: False until `check` has read the whole file.
        self.is_checked = not checked
        self._data = data
        self._fd = fd
        self._at = 0
        self._crc = 0

    def check(self) -> bool:
        """Compare the next piece of the file with the checksum. Return False once the file turns out to be damaged.

        The file is checked in pieces, so that the agent's event loop never waits for long.
        """
        data = self.read(self._at, _CHECK_SIZE)
        self._crc = zlib.crc32(data, self._crc)
        self._at += len(data)
        self.is_checked = self._at == self.size
        if self.is_checked:
            return os.pread(self._fd, TRAILER_SIZE + 1, self.size) == crc_bytes(self._crc)
        return bool(data)

    def read(self, offset: int, size: int) -> Buffer:
        """Return at most ``size`` bytes of the object, from ``offset`` on."""
        if self._data is not None:
            return memoryview(self._data)[offset : offset + size]
        return os.pread(self._fd, min(size, self.size - offset), offset)

    def close(self) -> None:
        """Close the file, if the object is a file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self.on_closed()


class Incoming:
    """An object that is written into the store in pieces.

    Another program may remove the file meanwhile. The object then ends as one whose file is removed later: the store
    has the object, but `ObjectStore.is_whole` is False, so the agent reports the object as vanished.

    Args:
        store: The store.
        key: Key of the object.
        size: Bytes of the object.
        small: True if the object may stay in the agent's memory, provided that it is small. False if the object must
            become a file.

    Raises:
        StoreFullError: There is no room for a file.
    """

    def __init__(self, store: ObjectStore, key: int, size: int, *, small: bool = True) -> None:
        self._store = store
        self.key = key
        self.size = size
        self._small: bytearray | None = bytearray() if small and size <= INLINE else None
        self._folder = MEMORY
        self._path = ""
        #: Two streams may bring one object at one time, each into a file of its own.
        self._number = next(_numbers)
        #: How many bytes the file has so far, and their checksum if the file will end with one.
        self._written = 0
        self._crc = 0
        if self._small is None:
            self._make(DISK if store.file_bytes + size > store._limit else MEMORY)

    def _make(self, folder: int) -> None:
        self._folder = folder
        self._path = f"{self._store.folders[folder]}/{file_name(self.key)}.{self._number}.in"
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        except OSError as error:
            if folder == DISK:
                raise self._full(error) from None
            self._make(DISK)  # the folder in memory may be full, or another program may have removed it

    def _full(self, error: OSError) -> StoreFullError:
        disk = self._store.folders[DISK]
        return StoreFullError(disk, self.size, free_bytes(disk), why_refused(disk, error))

    def write(self, data: Buffer) -> None:
        """Write the next piece.

        Raises:
            StoreFullError: There is no room for the piece. The earlier pieces have been removed.
        """
        if self._small is not None:
            self._small += data
            return
        try:
            self._append(memoryview(data))
        except FileNotFoundError:
            pass  # another program has removed the file, so there is no use for the piece
        except OSError as error:
            if self._folder == DISK:
                self.give_up()
                raise self._full(error) from None
            self._move_to_disk()
            self.write(data)

    def _append(self, view: memoryview) -> None:
        """Write bytes behind those of `_written`.

        The file is open only meanwhile: more objects may arrive at one time than a process may have open files.
        """
        fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            done = 0
            while done < len(view):
                done += os.pwrite(fd, view[done:], self._written + done)
        finally:
            os.close(fd)
        if self._store.trailer_size(self._folder):
            self._crc = zlib.crc32(view, self._crc)
        self._written += len(view)

    def _move_to_disk(self) -> None:
        path, size = self._path, self._written
        try:
            with open(path, "rb", buffering=0) as old:
                self._make(DISK)
                self._written = 0
                while self._written < size:
                    data = old.read(min(_COPY_SIZE, size - self._written))
                    if not data:
                        raise FileNotFoundError  # another program has shortened the file
                    self._append(memoryview(data))
        except FileNotFoundError:
            self.give_up()  # the file on disk has only a part of the object
        except OSError as error:
            self.give_up()
            raise self._full(error) from None
        finally:
            _remove(path)

    def finish(self) -> None:
        """Add the object to the store, after the last piece was written.

        Raises:
            StoreFullError: There is no room for the object.
        """
        store = self._store
        if self._small is not None:
            store.put(self.key, self._small)
            return
        if self.key in store:
            self.give_up()
            return
        try:
            if store.trailer_size(self._folder):
                self._append(memoryview(crc_bytes(self._crc)))
            os.rename(self._path, f"{store.folders[self._folder]}/{file_name(self.key)}")
        except FileNotFoundError:
            pass  # another program has removed the file
        except OSError as error:
            self.give_up()
            raise self._full(error) from None
        store._add_file(self.key, self.size, self._folder)

    def give_up(self) -> None:
        """Discard the pieces that have been written, because no further pieces will come."""
        if self._small is None:
            _remove(self._path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
