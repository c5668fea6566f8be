"""Stores large objects as files in the folder beside a journal's file. A file's name is the digest of its bytes.

Files are read, and not mapped into memory. If a sector of a mapped file cannot be read, or if another program shortens
the file, the system kills the process with SIGBUS.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from handout.errors import DamagedFileError
from handout.journal import checksums
from handout.journal.checksums import Segments

__all__ = [
    "NO_DESCRIPTOR",
    "PAUSE_S",
    "TRIES",
    "ObjectFile",
    "ObjectFolder",
    "check",
    "damaged_file",
    "is_whole",
    "read_whole",
]

#: The error numbers of a file that cannot be opened, because the process or the system has too many open files.
NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})
#: How often the controller tries to open a file while there are too many open files, and the seconds between two tries.
#: A program that has too many open files for less than these 5 s, for example in a burst of connections, loses nothing.
TRIES: Final = 50
PAUSE_S: Final = 0.1

#: The names of files that are still being written begin with this.
_UNFINISHED: Final = "new-"
#: The size of the pieces in which a file is read.
_BLOCK: Final = 1 << 20


class ObjectFolder:
    """The folder of a journal's large objects. The first call of `write` makes the folder.

    Args:
        path: Path of the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def file(self, name: str) -> Path:
        """Return the path of the file whose name `write` returned."""
        return self._path / name

    def keep_only(self, names: Collection[str]) -> None:
        """Remove all files but those with the given names. A file that cannot be removed stays."""
        for file in self._path.glob("*"):
            if file.name not in names:
                with contextlib.suppress(OSError):
                    file.unlink()

    def remove_unfinished(self) -> None:
        """Remove the files that a program was writing when it was killed.

        The caller must hold the journal's lock. Otherwise another run might still be writing these files.

        Raises:
            OSError: The folder cannot be written to.
        """
        for unfinished in self._path.glob(f"{_UNFINISHED}*"):
            unfinished.unlink()

    def write(self, segments: Segments, digest: str | None = None) -> str:
        """Write an object to the file that is named by the object's digest, and return this name.

        If the file exists already and has the object's bytes, it is not written again. A written file is on the disk
        when the method returns.

        Args:
            segments: The object's bytes, in pieces.
            digest: The digest of the object, if it is known.

        Raises:
            OSError: The file cannot be written.
            ValueError: The bytes do not have this digest.
            DamagedFileError: The bytes are those of a file, which cannot be read.
        """
        name = checksums.of_object(segments)
        if digest not in (None, name):
            raise ValueError(f"the object with the digest {digest} has other bytes now")
        if isinstance(segments, ObjectFile):
            size = segments.nbytes
        else:
            size = sum(memoryview(segment).nbytes for segment in segments)
        self._path.mkdir(mode=0o700, exist_ok=True)
        path = self._path / name
        # An object that was made again because its file is damaged has the same name, so a file is read before it is
        # taken for the object.
        try:
            check(path, size, name)
        except (OSError, DamagedFileError):
            self._write_new(path, segments)
        return name

    def _write_new(self, path: Path, segments: Segments) -> None:
        # The file's new name is on the disk only after the folder has been synced. The folder is opened first: if it
        # cannot be opened, the file does not get its name, and another try begins with a new file.
        folder = os.open(self._path, os.O_RDONLY)
        try:
            descriptor, unfinished = tempfile.mkstemp(prefix=_UNFINISHED, dir=self._path)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    for segment in segments:
                        file.write(segment)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(unfinished, path)
            except BaseException:
                os.unlink(unfinished)
                raise
            os.fsync(folder)
        finally:
            os.close(folder)


def is_whole(path: Path, nbytes: int) -> bool:
    """Return True if a file exists and has the given size. A file that was removed or truncated fails this test."""
    try:
        return path.stat().st_size == nbytes
    except OSError:
        return False


class ObjectFile(Sequence[bytes]):
    """An object in a file of its own. As a sequence, it has the file's bytes in pieces, which are read when needed.

    The file is open only while a piece is read: more objects may wait to be sent, or to be written to the journal, than
    a process may have open files.

    Args:
        path: Path of the file.
        nbytes: The size of the file.
        digest: The digest that the bytes had when they were written; see `checksums.of_object`.
    """

    def __init__(self, path: Path, nbytes: int, digest: str) -> None:
        self.path = path
        self.nbytes = nbytes
        self.digest = digest

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset`` on, or fewer bytes at the end of the file. They are not checked.

        Raises:
            DamagedFileError: The file cannot be read, or does not have its size any more.
            OSError: The file cannot be opened now; see `NO_DESCRIPTOR`.
        """
        size = max(0, min(size, self.nbytes - offset))
        try:
            with _open(self.path) as file:
                if os.fstat(file.fileno()).st_size != self.nbytes:
                    raise damaged_file(self.path)
                data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                raise
            raise damaged_file(self.path, f"the file cannot be read ({error.strerror})") from error
        if len(data) != size:
            raise damaged_file(self.path)
        return data

    def __len__(self) -> int:
        return -(-self.nbytes // _BLOCK)

    def __getitem__(self, index: Any) -> Any:
        """Return one piece. Slices are not supported."""
        if index >= len(self):
            raise IndexError(index)
        return self.read(index * _BLOCK, _BLOCK)


def check(path: Path, nbytes: int, digest: str) -> None:
    """Compare the bytes of a file with their digest.

    Raises:
        OSError: The file cannot be opened now; see `NO_DESCRIPTOR`.
        DamagedFileError: The file does not have the bytes that were written to it, or cannot be read.
    """
    if checksums.of_object(ObjectFile(path, nbytes, digest)) != digest:
        raise damaged_file(path)


def _open(path: Path) -> io.FileIO:
    """Open a file to read it. If there is a pipe in place of the file, this does not wait for its other end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise damaged_file(path, "another program has put something else in its place")
    return io.FileIO(descriptor)


def read_whole(path: Path, nbytes: int, digest: str) -> memoryview:
    """Return the bytes of a file in memory of the caller's own, after a comparison with their digest.

    Raises:
        OSError: The file cannot be read.
        DamagedFileError: The file does not have the bytes that were written to it.
    """
    with _open(path) as file:
        if os.fstat(file.fileno()).st_size != nbytes:
            raise damaged_file(path)
        data, made, at = memoryview(bytearray(nbytes)), checksums.new_digest(), 0
        while count := file.readinto(data[at : at + _BLOCK]):
            made.update(data[at : at + count])
            at += count
    if at != nbytes or made.hexdigest() != digest:
        raise damaged_file(path)
    return data


def damaged_file(path: Path, reason: str = "its bytes are not those that were written") -> DamagedFileError:
    """Return the error for a file that does not have the bytes that were written to it."""
    return DamagedFileError(
        f"A result in the file {str(path)!r} is damaged: {reason}.",
        remedy="Check the disk, and the programs that remove files. Then run the graph again. With a journal, only the "
        "tasks whose results are damaged or missing run anew.",
        path=str(path),
    )
