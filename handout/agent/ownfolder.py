"""A folder of this process's own among the temporary ones, gone with it, however it ends."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
import weakref

__all__ = ["OwnFolder"]

#: Locked for as long as the process lives whose folder it is in.
_LOCK = "lock"


class OwnFolder:
    """Made when it is first asked for, and gone with this object, or else with this process.

    What a process left that was killed, the next one removes that needs a folder of that kind.

    Args:
        prefix: Begins the names of all folders of its kind.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._path: str | None = None

    @property
    def path(self) -> str:
        """Where it is.

        Raises:
            OSError: It cannot be made.
        """
        if self._path is None:
            _remove_left(os.path.join(tempfile.gettempdir(), self._prefix))
            self._path, lock = _make(self._prefix)
            weakref.finalize(self, _remove_own, self._path, lock, os.getpid())
        return self._path


def _make(prefix: str) -> tuple[str, int]:
    while True:
        path = tempfile.mkdtemp(prefix=prefix)
        lock = _take(path, os.O_CREAT)
        if lock is not None:
            return path, lock
        # Somebody who removes what is left was faster, and removes it.


def _take(folder: str, flags: int = 0) -> int | None:
    """Lock a folder; None where its process lives, or has not come to that yet."""
    try:
        lock = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _remove_left(beginning: str) -> None:
    for folder in glob.glob(f"{glob.escape(beginning)}*"):
        if os.path.islink(folder) or not os.path.isdir(folder) or os.stat(folder).st_uid != os.getuid():
            continue
        lock = _take(folder)
        if lock is not None:
            _remove(folder, lock)


def _remove_own(folder: str, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # a fork of it that ends leaves it alone
        _remove(folder, lock)


def _remove(folder: str, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
