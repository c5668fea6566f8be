"""Files for results that the controller has no memory for."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import IO

__all__ = ["SpillFolder"]

_PREFIX = "handout-spill-"
#: Locked for as long as the process lives whose folder it is in.
_LOCK = "lock"


class SpillFolder:
    """A folder of this process's own, made with its first file and gone with this object.

    Files have names, rather than descriptors that stay open: there may be more of them than descriptors. What a process
    left that was killed, the next one that needs such a folder removes.
    """

    def __init__(self) -> None:
        self._path: Path | None = None

    def new_file(self) -> IO[bytes]:
        """A new file, open for writing; its name is that of the path."""
        if self._path is None:
            _sweep(Path(tempfile.gettempdir()))
            self._path, lock = _locked_folder()
            weakref.finalize(self, _remove, self._path, lock)
        descriptor, path = tempfile.mkstemp(dir=self._path)
        os.close(descriptor)
        return open(path, "w+b")


def _locked_folder() -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _lock(path, os.O_CREAT)
        if lock is not None:
            return path, lock
        # Somebody's sweep was faster, and removes it.


def _lock(folder: Path, flags: int = 0) -> int | None:
    """Lock a folder; None where its process lives, or has not come to that yet."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _sweep(where: Path) -> None:
    for folder in where.glob(f"{_PREFIX}*"):
        if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
            continue
        lock = _lock(folder)
        if lock is not None:
            _remove(folder, lock)


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
