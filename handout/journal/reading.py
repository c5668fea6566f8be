"""A journal as data, after the fact or while its run goes on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from handout.errors import JournalError
from handout.journal.tables import check, identity_at

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
        runs = database.execute(
            "SELECT run, began, ended, outcome, json_array_length(ids), reused FROM runs ORDER BY run"
        )
        attempts = database.execute(
            "SELECT run, id, host, attempt, outcome, error FROM attempts UNION ALL "
            "SELECT run, id, host, attempt, 'started', '' FROM starts ORDER BY 1"
        )
        return Story([RunRecord(*row) for row in runs], _tasks(database), [AttemptRecord(*row) for row in attempts])
    except sqlite3.Error as error:
        raise JournalError(
            f"The journal {str(path)!r} cannot be read: {error}.", remedy="Check the file.", path=str(path)
        ) from error
    finally:
        database.close()


def _tasks(database: sqlite3.Connection) -> list[TaskRecord]:
    """What is recorded last of each identity, in the order in which that was written."""
    runs = {
        run: (json.loads(ids), identities)
        for run, ids, identities in database.execute("SELECT run, ids, identities FROM runs")
    }
    found: dict[bytes, TaskRecord] = {}
    rows = database.execute("SELECT run, host, tasks, attempts, sizes FROM results WHERE part = '' ORDER BY rowid")
    for run, host, *columns in rows:
        ids, identities = runs[run]
        for task, attempt, nbytes in zip(*map(json.loads, columns), strict=True):
            identity = identity_at(identities, task)
            found.pop(identity, None)
            size = None if nbytes < 0 else nbytes
            found[identity] = TaskRecord(run, ids[task], host, attempt, size, identity.hex())
    return list(found.values())
