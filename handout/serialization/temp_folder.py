"""A folder of this process's own among the temporary ones, gone with it, however it ends."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import stat
import tempfile
import weakref

__all__ = ["TempFolder"]

#: Locked for as long as the process lives whose folder it is in.
_LOCK = "lock"


class TempFolder:
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
        try:
            lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            raise
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue  # somebody who removes what is left was faster, and removes it
        except OSError:
            pass  # a file system without locks: were this process killed, nobody would know
        return path, lock


def _remove_left(beginning: str) -> None:
    for folder in glob.glob(f"{glob.escape(beginning)}*"):
        lock = None
        try:
            status = os.lstat(folder)
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                lock = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # its process lives, or has not come to its lock yet; or somebody else removes it
        finally:
            if lock is not None:
                os.close(lock)


def _remove_own(folder: str, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # a fork of it that ends leaves it alone
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
