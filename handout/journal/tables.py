"""The tables of a journal, and the check that a file is a journal."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from handout.errors import JournalError
from handout.journal.value_walk import DIGEST_SIZE

__all__ = ["DAMAGE", "FORMAT", "check", "create", "identity_at"]

#: The number of the format. It changes when the tables change. A journal of another format is refused, not converted.
FORMAT = 3

#: Errors that reading a damaged journal raises. All but the first two come from rows with unexpected contents.
DAMAGE = (sqlite3.Error, OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)

#: SQLite's application id of a journal: the letters ``HAND``.
_APPLICATION = 0x48414E44

#: A part of a result is either the whole result, or the element at a certain path. One row of ``results`` records
#: several tasks that ended together on one host, and the same part of each task's result. A row for each task would
#: cost more than all other recording. The column ``part`` has the path as text, which is empty for the whole result.
#: ``tasks``, ``attempts`` and ``sizes`` are JSON lists with one entry for each task. ``tasks`` has the tasks' numbers
#: within the run. The run's row in ``runs`` has the tasks' ids and identities. ``data`` holds the bytes of small
#: results one after another. ``file`` is the name of the file that holds a large result.
#:
#: Rows of ``results`` are never changed. If several rows record the same part for the same identity, the last of these
#: rows is valid for that identity.
_TABLES = """
CREATE TABLE runs (
    run INTEGER PRIMARY KEY, began TEXT, ended TEXT, outcome TEXT, reused INTEGER, number INTEGER,
    ids TEXT, identities BLOB);
CREATE TABLE agents (host TEXT PRIMARY KEY, token TEXT, started TEXT);
CREATE TABLE results (
    run INTEGER, host TEXT, data_only INTEGER, part TEXT, tasks TEXT, attempts TEXT, sizes TEXT, data BLOB, file TEXT);
CREATE TABLE starts (identity BLOB PRIMARY KEY, run INTEGER, id TEXT, host TEXT, attempt INTEGER) WITHOUT ROWID;
CREATE TABLE attempts (run INTEGER, id TEXT, host TEXT, attempt INTEGER, outcome TEXT, error TEXT);
CREATE TABLE classes (origin TEXT, number INTEGER, module TEXT, name TEXT, PRIMARY KEY (origin, number));
"""


def identity_at(identities: bytes, task: int) -> bytes:
    """Return the identity of one task from the joined identities of all tasks of its run."""
    return identities[task * DIGEST_SIZE : (task + 1) * DIGEST_SIZE]


def create(database: sqlite3.Connection) -> None:
    """Make the tables in an empty file."""
    database.executescript(
        f"BEGIN; PRAGMA application_id={_APPLICATION}; PRAGMA user_version={FORMAT}; {_TABLES} COMMIT;"
    )


def check(database: sqlite3.Connection, path: Path) -> bool:
    """Return True if a file is a journal, and False if the file is empty.

    Raises:
        JournalError: The file is not a journal, has another format, or cannot be opened.
    """
    try:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        raise JournalError(
            f"The journal {str(path)!r} cannot be opened: {error}.",
            remedy="Check the permissions of the journal and the free space. If the journal is on a read-only file "
            "system, copy the journal and its -wal file to a writable file system.",
            path=str(path),
        ) from error
    except sqlite3.DatabaseError as error:
        raise JournalError(
            f"{str(path)!r} is not a journal: {error}.",
            remedy="Give the path of another file, or remove this file.",
            path=str(path),
        ) from error
    if not application and not tables:
        return False
    _check_format(path, application, version)
    return True


def _check_format(path: Path, application: int, version: int) -> None:
    if application != _APPLICATION:
        raise JournalError(
            f"{str(path)!r} is not a journal, but a database of another program.",
            remedy="Give the path of another file.",
            path=str(path),
        )
    if version != FORMAT:
        raise JournalError(
            f"The journal {str(path)!r} has format {version}; this version of Handout uses format {FORMAT}.",
            remedy="Use the version of Handout that made this journal, or give the path of another file.",
            path=str(path),
        )
