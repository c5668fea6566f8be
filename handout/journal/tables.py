"""The tables of a journal, and the check that a file is a journal."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from handout.errors import JournalError
from handout.journal.value_walk import DIGEST_SIZE

__all__ = ["FORMAT", "check", "create", "identity_at"]

#: The number of the format. It changes when the tables change. A journal of another format is refused, not converted.
FORMAT = 3

#: SQLite's application id of a journal: the letters ``HAND``.
_APPLICATION = 0x48414E44

#: One row of ``results`` records all tasks that ended together on one host, for one part of their results. A row for
#: each task would cost more than all other recording. ``tasks``, ``attempts`` and ``sizes`` are JSON lists. ``tasks``
#: has the tasks' numbers within the run. The run's row in ``runs`` has the tasks' ids and identities. ``data`` holds
#: the bytes of all results one after another. Rows of ``results`` are never changed. If several rows have the same
#: identity and the same part, the last row is valid.
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
    """Return one task's identity from the joined identities of its run."""
    return identities[task * DIGEST_SIZE : (task + 1) * DIGEST_SIZE]


def create(database: sqlite3.Connection) -> None:
    """Make the tables in an empty file."""
    database.executescript(
        f"BEGIN; PRAGMA application_id={_APPLICATION}; PRAGMA user_version={FORMAT}; {_TABLES} COMMIT;"
    )


def check(database: sqlite3.Connection, path: Path) -> bool:
    """Return True if a file is a journal, False if it is empty.

    Raises:
        JournalError: The file is not a journal, or has another format.
    """
    try:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        raise JournalError(
            f"The journal {str(path)!r} cannot be opened: {error}.",
            remedy="Check its permissions and the free space. If its file system is read-only, copy it and its -wal "
            "file to another one.",
            path=str(path),
        ) from error
    except sqlite3.DatabaseError as error:
        raise JournalError(
            f"{str(path)!r} is not a journal: {error}.", remedy="Name another file, or remove it.", path=str(path)
        ) from error
    if not application and not tables:
        return False
    _check_format(path, application, version)
    return True


def _check_format(path: Path, application: int, version: int) -> None:
    if application != _APPLICATION:
        raise JournalError(
            f"{str(path)!r} is not a journal, but a database of another program.",
            remedy="Name another file.",
            path=str(path),
        )
    if version != FORMAT:
        raise JournalError(
            f"The journal {str(path)!r} has format {version}; this version of Handout uses format {FORMAT}.",
            remedy="Use the version of Handout that wrote it, or name another file.",
            path=str(path),
        )
