"""Opens a journal for writing: takes the journal's lock, which only one run can hold, and opens the database.

The database is the journal's file. The lock is on a second file, beside the journal's file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from os import PathLike
from pathlib import Path

from handout.errors import JournalError
from handout.journal.tables import check, create, prepare

logger = logging.getLogger("handout")

__all__ = ["connect", "damaged_journal", "of_error", "resolve", "take_lock", "unusable"]


def resolve(path: str | PathLike[str]) -> Path:
    """Return the absolute path of a journal's file, with symbolic links resolved.

    With this path, a journal has only one lock even if several paths lead to its file. And the path stays valid if the
    program changes its working directory.

    Raises:
        JournalError: `path` cannot be the path of a file.
    """
    try:
        resolved = Path(os.path.realpath(os.fsdecode(path)))
        if not resolved.name:
            raise ValueError("a folder has this path")
    except ValueError as error:
        raise JournalError(
            f"{path!r} cannot be the path of a journal: {error}.", remedy="Give the path of a file.", path=str(path)
        ) from error
    return resolved


def take_lock(path: Path) -> int:
    """Lock a journal and return the descriptor that holds the lock.

    Without the lock, two runs could use a journal at the same time. Both would then run the same tasks and commit the
    results.

    Raises:
        JournalError: Another run holds the lock, or the file of the lock cannot be opened.
    """
    try:
        lock = os.open(path.with_name(path.name + "-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(path, error.strerror or str(error)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise JournalError(
            f"The journal {str(path)!r} is in use by another run.",
            remedy="Wait until that run has ended, or give the path of another file.",
            path=str(path),
        ) from None
    return lock


def connect(path: Path) -> sqlite3.Connection:
    """Open the database of a journal. If its file does not exist, make the file with mode 0600.

    Raises:
        JournalError: The file is not a journal, has another format, or cannot be written.
    """
    objects = path.with_name(path.name + ".objects")
    try:
        was_there = path.exists()
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        database = prepare(sqlite3.connect(path, isolation_level=None, check_same_thread=False))
    except (OSError, sqlite3.Error) as error:
        raise unusable(path, str(error)) from error
    try:
        if not check(database, path):
            if was_there and any(objects.glob("*")):
                said = (
                    "The journal %s is empty, although its folder %s has results of earlier runs. All tasks run anew."
                )
                logger.warning(said, path, objects)
            create(database)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.Error as error:
        database.close()
        raise of_error(path, error) from error
    except BaseException:
        database.close()
        raise
    return database


def unusable(path: Path, reason: str) -> JournalError:
    """Return the error for a journal that cannot be opened, read or written."""
    return JournalError(
        f"The journal {str(path)!r} cannot be used: {reason}.",
        remedy="Check the path, the permissions of the file and its folder, and the free space. If results were "
        "committed, a later run can still use them.",
        path=str(path),
    )


def damaged_journal(path: Path, reason: str) -> JournalError:
    """Return the error for a journal whose file has other contents than were written to it."""
    return JournalError(
        f"The journal {str(path)!r} cannot be read: {reason}.",
        remedy="The file is damaged. Give the path of another file. All tasks then run anew.",
        path=str(path),
    )


def of_error(path: Path, error: Exception) -> JournalError:
    """Return the error for a journal of which SQLite or the system says that it cannot be used or is damaged."""
    if type(error) is sqlite3.DatabaseError:  # other errors of SQLite, such as a full disk, have classes of their own
        return damaged_journal(path, f"{type(error).__name__}: {error}")
    return unusable(path, str(error))
