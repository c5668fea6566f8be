"""Gives a process a private temporary folder, which is removed when the process ends.

If the process is killed, the folder stays. The next process that makes a folder with the same prefix then removes it.
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

#: Name of a file in the folder. The process that made the folder keeps this file locked until the process ends.
_LOCK = "lock"


class TempFolder:
    """A temporary folder. It is made when `path` is read for the first time.

    The folder is removed when this object is garbage-collected, or when this process ends. Before a process makes its
    folder, it removes the folders that killed processes have left with the same prefix.

    Args:
        prefix: The beginning of the folder's name.
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
            continue  # another process took this folder for an orphan, locked the file first, and removes the folder
        except OSError:
            pass  # the file system has no locks, so no process will remove the folder if this process is killed
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
            pass  # the folder's process lives or has not made the lock file yet, or another process removes the folder
        finally:
            if lock is not None:
                os.close(lock)


def _remove_own(folder: str, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # a fork of the process must not remove the folder when the fork ends
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
