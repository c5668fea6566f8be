"""A private temporary folder of a process, removed when the process ends.

If the process is killed, a later process removes its folder.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import stat
import tempfile
import weakref

__all__ = ["TempFolder"]

#: Name of the file that the process locks in its folder. The lock lasts as long as the process.
_LOCK = "lock"


class TempFolder:
    """A folder that the first read of `path` makes. It is removed with this object, or when this process ends.

    A process that makes a folder first removes the folders of the same prefix whose processes were killed.

    Args:
        prefix: How the folder's name begins.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._path: str | None = None

    @property
    def path(self) -> str:
        """Path of the folder.

        Raises:
            OSError: The folder cannot be made.
        """
        if self._path is None:
            _remove_orphans(os.path.join(tempfile.gettempdir(), self._prefix))
            self._path, lock = _make(self._prefix)
            weakref.finalize(self, _remove_own, self._path, lock, os.getpid())
        return self._path


def _make(prefix: str) -> tuple[str, int]:
    while True:
        path = tempfile.mkdtemp(prefix=prefix)
        try:
            lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            raise
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue  # another process locked it first, took it for an orphan, and removes it
        except OSError:
            pass  # a file system without locks: if this process is killed, its folder stays
        return path, lock


def _remove_orphans(beginning: str) -> None:
    """Remove this user's folders whose paths begin with ``beginning`` and whose locks are free."""
    for folder in glob.glob(f"{glob.escape(beginning)}*"):
        lock = None
        try:
            status = os.lstat(folder)
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                lock = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # its process lives, or has not made the lock yet, or another process removes the folder
        finally:
            if lock is not None:
                os.close(lock)


def _remove_own(folder: str, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # a fork of this process must not remove the folder when it ends
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
