"""Large objects as files that are named by their content, in the folder beside a journal's file."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["ObjectFolder", "Segments", "is_whole"]

#: Begins the names of files that are being written.
_UNFINISHED: Final = "new-"

Segments = Sequence[bytes | bytearray | memoryview]


class ObjectFolder:
    """The folder of one journal's files. `write` makes it with the first file.

    Args:
        path: Path of the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def file(self, name: str) -> Path:
        """Return the path of the file with a name that `write` returned."""
        return self._path / name

    def remove_unfinished(self) -> None:
        """Remove files that a killed program was writing. The caller holds the journal's lock.

        Raises:
            OSError: The folder cannot be written to.
        """
        for unfinished in self._path.glob(f"{_UNFINISHED}*"):
            unfinished.unlink()

    def write(self, segments: Segments) -> str:
        """Write an object, unless its file is there; return the file's name once the file is on the disk.

        Raises:
            OSError: The file cannot be written.
        """
        digest = hashlib.blake2b(digest_size=20)
        for segment in segments:
            digest.update(segment)
        name = digest.hexdigest()
        size = sum(memoryview(segment).nbytes for segment in segments)
        self._path.mkdir(mode=0o700, exist_ok=True)
        path = self._path / name
        if path.exists() and path.stat().st_size == size:
            return name
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
        # A rename is on the disk only after the folder has been synced.
        folder = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def is_whole(path: Path, nbytes: int) -> bool:
    """Return True if a file exists with the given size, so that it was neither removed nor cut."""
    try:
        return path.stat().st_size == nbytes
    except OSError:
        return False
