"""The tables of a journal, the check that a file is a journal, and the check that its rows are as they were written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from handout.errors import JournalError
from handout.journal import checksums
from handout.journal.value_walk import DIGEST_SIZE

__all__ = [
    "DAMAGE", "FORMAT", "INSERT", "DamagedRowError", "check", "checked_rows", "create", "identity_at", "is_sound",
    "prepare", "sealed", "select",
]  # fmt: skip

#: The number of the format. It changes when the tables change. A journal of another format is refused, not converted.
FORMAT = 5

#: Errors that reading a damaged journal raises. All but the first two come from rows with unexpected contents.
DAMAGE = (sqlite3.Error, OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)

#: SQLite's application id of a journal: the letters ``HAND``.
_APPLICATION = 0x48414E44

#: A part of a result is either the whole result, or the element at a certain path. One row of ``results`` records
#: several tasks that ended together on one host, and the same part of each task's result. A row for each task would
#: cost more than all other recording. The column ``part`` has the path as text, which is empty for the whole result.
#: ``tasks``, ``attempts``, ``sizes`` and ``crcs`` are JSON lists with one entry for each task. ``tasks`` has the tasks'
#: numbers within the run. The run's row in ``runs`` has the tasks' ids and identities. ``data`` holds the bytes of
#: small results one after another, and ``crcs`` has the checksum of each. ``file`` is the name of the file that holds a
#: large result.
#:
#: Rows of ``results`` are never changed. If several rows record the same part for the same identity, the last of these
#: rows is valid for that identity.
#:
#: A row of ``checkpoints`` records the newest checkpoint of a task that has not ended well.
#:
#: The column ``checksum`` has the checksum of all columns before it; see `checksums.of_row`.
_TABLES = """
CREATE TABLE runs (
    run INTEGER PRIMARY KEY, began TEXT, reused INTEGER, number INTEGER, ids TEXT, identities BLOB, checksum BLOB);
CREATE TABLE ends (run INTEGER PRIMARY KEY, ended TEXT, outcome TEXT, checksum BLOB);
CREATE TABLE agents (host TEXT PRIMARY KEY, token TEXT, started TEXT, checksum BLOB);
CREATE TABLE results (
    run INTEGER, host TEXT, data_only INTEGER, part TEXT, tasks TEXT, attempts TEXT, sizes TEXT, crcs TEXT, file TEXT,
    checksum BLOB, data BLOB);
CREATE TABLE starts (
    identity BLOB PRIMARY KEY, run INTEGER, id TEXT, host TEXT, attempt INTEGER, shown INTEGER, checksum BLOB)
    WITHOUT ROWID;
CREATE TABLE attempts (
    run INTEGER, id TEXT, host TEXT, attempt INTEGER, outcome TEXT, error TEXT, checksum BLOB);
CREATE TABLE checkpoints (
    identity BLOB PRIMARY KEY, run INTEGER, id TEXT, host TEXT, data_only INTEGER, nbytes INTEGER, crc INTEGER,
    file TEXT, checksum BLOB, data BLOB);
CREATE TABLE classes (
    origin TEXT, number INTEGER, module TEXT, name TEXT, checksum BLOB, PRIMARY KEY (origin, number));
"""

#: The columns of each table that the column ``checksum`` covers.
_COLUMNS: Final = {
    "runs": "run, began, reused, number, ids, identities",
    "ends": "run, ended, outcome",
    "agents": "host, token, started",
    "results": "run, host, data_only, part, tasks, attempts, sizes, crcs, file",
    "starts": "identity, run, id, host, attempt, shown",
    "attempts": "run, id, host, attempt, outcome, error",
    "checkpoints": "identity, run, id, host, data_only, nbytes, crc, file",
    "classes": "origin, number, module, name",
}
#: The tables whose last column has bytes of its own, which the checksum of the row does not cover.
_WITH_DATA: Final = ("results", "checkpoints")
#: For each table, the statement that inserts a row. In `_WITH_DATA`, the row's data follows the checksum.
INSERT: Final = {
    table: f"INSERT OR REPLACE INTO {table} ({columns}, checksum{', data' if table in _WITH_DATA else ''}) "
    f"VALUES ({', '.join('?' * (columns.count(',') + (3 if table in _WITH_DATA else 2)))})"
    for table, columns in _COLUMNS.items()
}


def sealed(row: Sequence[Any]) -> tuple[Any, ...]:
    """Return a row with its checksum as the last value."""
    return (*row, checksums.of_row(row))


def is_sound(row: Sequence[Any]) -> bool:
    """Return True if the values of a row match the checksum that is the last value."""
    return bool(checksums.of_row(row[:-1]) == row[-1])


class DamagedRowError(ValueError):
    """A row of a table does not match its checksum."""


def select(table: str, extra: str = "", first: str = "") -> str:
    """Return the statement that selects a table's rows with their checksums.

    Args:
        table: The table.
        extra: What the statement ends with, such as an order.
        first: Further columns, which come first.
    """
    return f"SELECT {first}{_COLUMNS[table]}, checksum FROM {table} {extra}"


def checked_rows(database: sqlite3.Connection, table: str, extra: str = "") -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table, without their checksums.

    Raises:
        DamagedRowError: A row does not match its checksum.
    """
    for row in database.execute(select(table, extra)):
        if not is_sound(row):
            raise DamagedRowError(f"a row of the table {table!r} does not match its checksum")
        yield row[:-1]


def prepare(database: sqlite3.Connection) -> sqlite3.Connection:
    """Have a connection return damaged text too, so that the checksum of the row tells the damage."""
    database.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    return database


def identity_at(identities: bytes, task: int) -> bytes:
    """Return the identity of one task from the joined identities of all tasks of its run, which come first there."""
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
