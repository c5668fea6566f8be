"""Packs a folder into one block of bytes, and makes the folder again from the block.

A link counts as the file or folder to which it leads, because the target of a link may not exist on another machine.
"""

from __future__ import annotations

import os
import pickle
import stat
import tempfile
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["MAX_ENTRIES", "MAX_FOLDER_BYTES", "Entry", "pack", "unpack"]

#: A folder may have at most this many files and folders. To pack a folder is one step of the program's event loop, and
#: while it takes, no host hears from the controller. Each file takes about 50 us on a local disk, and some milliseconds
#: on a network file system. The default lease is 15 s.
MAX_ENTRIES = 2_000
#: The files of a folder may have at most this many bytes together. They are copied while the folder is packed.
MAX_FOLDER_BYTES = 256 << 20

#: The path of a file or folder below the packed folder, its permissions, and its size in bytes, or -1 for a folder.
#: The path is in bytes, because the file systems of the two machines may have different encodings.
Entry = tuple[bytes, int, int]

_COPIED = 1 << 20
_KINDS = {
    stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}  # fmt: skip


def kind_of(mode: int) -> str:
    """Return what is at a path that is neither a file nor a folder, for a message."""
    return _KINDS.get(stat.S_IFMT(mode), "something of an unknown kind")


def pack(folder: str) -> tuple[tuple[Entry, ...], Any]:
    """Return the entries of a folder, a folder before what is in it, and the contents of all files one after the other.

    The contents are mapped from a temporary file, so that they are not held in memory.

    Raises:
        OSError: Something in the folder cannot be read, is neither a file nor a folder, or is a link to a folder that
            contains the link. Or the folder has too many entries or bytes.
    """
    import mmap  # here, because every import of this module on a host would take longer

    entries: list[Entry] = []
    total = 0
    with tempfile.TemporaryFile(prefix="handout-folder-") as packed:
        for path, status in _walk(folder, (os.stat(folder),)):
            if len(entries) >= MAX_ENTRIES:
                raise _too_much(folder, f"more than {MAX_ENTRIES:,} files and folders")
            size = -1
            if not stat.S_ISDIR(status.st_mode):
                size = _append(path, packed, MAX_FOLDER_BYTES - total)
                total += max(size, 0)
                if size < 0:
                    raise _too_much(folder, f"more than {MAX_FOLDER_BYTES >> 20} MiB")
            entries.append((os.fsencode(os.path.relpath(path, folder)), stat.S_IMODE(status.st_mode) & 0o777, size))
        packed.flush()
        mapped = mmap.mmap(packed.fileno(), total, access=mmap.ACCESS_READ) if total else b""
    return tuple(entries), pickle.PickleBuffer(mapped)


def _walk(folder: str, around: tuple[os.stat_result, ...]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield all files and folders in a folder, sorted by name.

    Args:
        folder: The folder.
        around: The folder itself and all folders that contain it.
    """
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path!r} is a link to {os.readlink(path)!r}, which does not exist") from None
        if stat.S_ISDIR(status.st_mode):
            if any(os.path.samestat(status, each) for each in around):
                raise OSError(f"{path!r} is a link to a folder that contains the link")
            yield path, status
            yield from _walk(path, (*around, status))
        elif stat.S_ISREG(status.st_mode):
            yield path, status
        else:
            raise OSError(f"{path!r} is {kind_of(status.st_mode)}, and neither a file nor a folder")


def _append(path: str, packed: IO[bytes], most: int) -> int:
    """Copy a file to the end of another file, and return the number of bytes, or -1 if there are more than ``most``."""
    size = 0
    with open(path, "rb") as stream:
        while True:
            block = stream.read(_COPIED)
            if not block:
                return size
            size += len(block)
            if size > most:
                return -1
            packed.write(block)


def _too_much(folder: str, what: str) -> OSError:
    return OSError(
        f"the folder {folder!r} has {what}, and a folder can travel only up to this limit. Pack it into an archive, "
        "which has no limit, with shutil.make_archive, and pass the File of the archive. The function unpacks it with "
        "shutil.unpack_archive"
    )


def unpack(folder: str, entries: tuple[Entry, ...], content: Any) -> None:
    """Make a folder with the files and folders that `pack` has returned.

    Raises:
        OSError: The folder exists, or cannot be written.
    """
    os.makedirs(folder)
    rest = memoryview(content)
    folders = []
    for name, mode, size in entries:
        path = os.path.join(folder, os.fsdecode(name))
        if size < 0:
            os.mkdir(path)
            folders.append((path, mode | 0o700))
            continue
        with open(path, "wb") as stream:
            stream.write(rest[:size])
        os.chmod(path, mode | 0o600)
        rest = rest[size:]
    for path, mode in folders:
        os.chmod(path, mode)
