"""The tables of a journal, and what a file must say to be one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from handout.errors import JournalError

__all__ = ["FORMAT", "check", "create"]

#: Changes with the meaning of the tables. There is no conversion: another format is refused.
FORMAT = 1

_APPLICATION = 0x48414E44

#: Results are only ever added to, and the last row of an identity and part counts: keeping an index would cost more
#: than all the rest of recording, and it is needed once, when a run is resumed.
_TABLES = """
CREATE TABLE runs (
    run INTEGER PRIMARY KEY, began TEXT, ended TEXT, outcome TEXT, tasks INTEGER, reused INTEGER, number INTEGER,
    identities BLOB);
CREATE TABLE agents (host TEXT PRIMARY KEY, token TEXT, started TEXT);
CREATE TABLE results (
    identity BLOB, part TEXT, run INTEGER, id TEXT, host TEXT, attempt INTEGER, nbytes INTEGER, data BLOB, file TEXT);
CREATE TABLE starts (identity BLOB PRIMARY KEY, run INTEGER, id TEXT, host TEXT, attempt INTEGER) WITHOUT ROWID;
CREATE TABLE attempts (run INTEGER, id TEXT, host TEXT, attempt INTEGER, outcome TEXT, error TEXT);
CREATE TABLE classes (origin TEXT, number INTEGER, module TEXT, name TEXT, PRIMARY KEY (origin, number));
"""


def create(database: sqlite3.Connection) -> None:
    """Make an empty file a journal."""
    database.executescript(
        f"BEGIN; PRAGMA application_id={_APPLICATION}; PRAGMA user_version={FORMAT}; {_TABLES} COMMIT;"
    )


def check(database: sqlite3.Connection, path: Path) -> bool:
    """Whether a file is a journal already; False where it is empty.

    Raises:
        JournalError: It is something else, or of another format.
    """
    try:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        raise JournalError(
            f"{str(path)!r} is no journal: {error}.", remedy="Name another file, or remove it.", path=str(path)
        ) from error
    if not application and not tables:
        return False
    if application != _APPLICATION:
        raise JournalError(
            f"{str(path)!r} is no journal, but a database of something else.",
            remedy="Name another file.",
            path=str(path),
        )
    if version != FORMAT:
        raise JournalError(
            f"The journal {str(path)!r} has format {version}; this version of Handout reads and writes {FORMAT}.",
            remedy="Go on with the version that wrote it, or name another file.",
            path=str(path),
        )
    return True
