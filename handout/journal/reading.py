"""A journal as data, after the fact or while its run goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from handout.errors import JournalError
from handout.journal.tables import check

__all__ = ["AttemptRecord", "RunRecord", "Story", "TaskRecord", "read"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run that was recorded."""

    number: int
    #: ISO 8601, UTC.
    began: str
    #: None: it goes on, or its program came to an end before it did.
    ended: str | None
    #: ``done``, ``failed``, ``cancelled``, or None.
    outcome: str | None
    tasks: int
    #: Those of them that an earlier run had seen to their ends.
    reused: int


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task that ended well."""

    #: The run that ran it.
    run: int
    id: str
    host: str
    attempt: int
    #: Bytes of its committed result; None where only that it ended was recorded.
    nbytes: int | None
    #: Hexadecimal.
    identity: str


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt that did not end well."""

    run: int
    id: str
    host: str
    attempt: int
    #: ``started`` for a function that must not run twice and was not seen to end, else the kind of failure.
    outcome: str
    error: str


@dataclass(frozen=True, slots=True)
class Story:
    """What a journal says."""

    runs: Sequence[RunRecord]
    tasks: Sequence[TaskRecord]
    attempts: Sequence[AttemptRecord]


def read(path: str | PathLike[str]) -> Story:
    """Read a journal, also while it is being written.

    Raises:
        JournalError: There is none, or it is of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise JournalError(f"There is no journal {str(path)!r}.", remedy="Check the path.", path=str(path))
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        if not check(database, path):
            return Story((), (), ())
        runs = database.execute("SELECT run, began, ended, outcome, tasks, reused FROM runs ORDER BY run")
        tasks = database.execute(
            "SELECT run, id, host, attempt, nbytes, identity FROM results "
            "WHERE rowid IN (SELECT max(rowid) FROM results WHERE part = '' GROUP BY identity) ORDER BY rowid"
        )
        attempts = database.execute(
            "SELECT run, id, host, attempt, outcome, error FROM attempts UNION ALL "
            "SELECT run, id, host, attempt, 'started', '' FROM starts ORDER BY 1"
        )
        return Story(
            [RunRecord(*row) for row in runs],
            [TaskRecord(r, i, h, a, None if n < 0 else n, d.hex()) for r, i, h, a, n, d in tasks],
            [AttemptRecord(*row) for row in attempts],
        )
    except sqlite3.Error as error:
        raise JournalError(
            f"The journal {str(path)!r} cannot be read: {error}.", remedy="Check the file.", path=str(path)
        ) from error
    finally:
        database.close()
