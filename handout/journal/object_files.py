"""Stores large objects as files in the folder beside a journal's file. A file's name is a digest of its bytes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["ObjectFolder", "Segments", "is_whole"]

#: The names of files that are still being written begin with this.
_UNFINISHED: Final = "new-"

Segments = Sequence[bytes | bytearray | memoryview]


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

    def write(self, segments: Segments) -> str:
        """Write an object to the file that is named by the object's digest, and return this name.

        If the file exists already and has the object's size, it is not written again. A written file is on the disk
        when the method returns.

        Args:
            segments: The object's bytes, in pieces.

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
