"""Stores large objects as files in the folder beside a journal's file. A file's name is the digest of its bytes."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import Final

from handout.errors import DamagedFileError
from handout.journal import checksums
from handout.journal.checksums import Segments

__all__ = ["ObjectFolder", "damaged", "is_whole", "map_file", "read_whole"]

#: The names of files that are still being written begin with this.
_UNFINISHED: Final = "new-"


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
        """
        name = checksums.of_object(segments)
        if digest not in (None, name):
            raise ValueError(f"the object with the digest {digest} has other bytes now")
        size = sum(memoryview(segment).nbytes for segment in segments)
        self._path.mkdir(mode=0o700, exist_ok=True)
        path = self._path / name
        # An object that was made again because its file is damaged has the same name, so a file is read before it is
        # taken for the object.
        if not is_whole(path, size) or checksums.of_object([map_file(path, size)]) != name:
            self._write_new(path, segments)
        return name

    def _write_new(self, path: Path, segments: Segments) -> None:
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
        # The file's new name is on the disk only after the folder has been synced.
        folder = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def is_whole(path: Path, nbytes: int) -> bool:
    """Return True if a file exists and has the given size. A file that was removed or truncated fails this test."""
    try:
        return path.stat().st_size == nbytes
    except OSError:
        return False


def map_file(path: Path, nbytes: int) -> memoryview:
    """Return the bytes of a file as a read-only view.

    Raises:
        OSError: The file cannot be read.
        DamagedFileError: The file does not have ``nbytes`` bytes.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != nbytes:
            raise damaged(path)
        return memoryview(mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_READ) if nbytes else b"")


def read_whole(path: Path, nbytes: int, digest: str) -> memoryview:
    """Return the bytes of a file as a read-only view, after a comparison with their digest.

    Raises:
        OSError: The file cannot be read.
        DamagedFileError: The file does not have the bytes that were written to it.
    """
    data = map_file(path, nbytes)
    if checksums.of_object([data]) != digest:
        raise damaged(path)
    return data


def damaged(path: Path) -> DamagedFileError:
    """Return the error for a file that does not have the bytes that were written to it."""
    return DamagedFileError(
        f"A result in the file {str(path)!r} is damaged: its bytes are not those that were written.",
        remedy="Check the disk. Then run the graph again. With a journal, only the tasks whose results are damaged or "
        "missing run anew.",
        path=str(path),
    )
