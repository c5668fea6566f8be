"""Reads a journal as data, after a run or during one.

A task has ended well if one of its attempts has succeeded. A result is committed when its bytes are in the journal.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from handout.errors import JournalError
from handout.journal.tables import DAMAGE, DamagedRowError, check, checked_rows, identity_at, prepare

__all__ = ["AttemptRecord", "RunRecord", "Story", "TaskRecord", "read"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One recorded run.

    Attributes:
        number: Number of the run, from 1 for the journal's first run.
        began: Time at which the run began, in ISO 8601 and UTC.
        ended: Time at which the run ended; None if the run goes on, or if its program ended before the run did.
        outcome: ``"done"``, ``"failed"`` or ``"cancelled"``; None if `ended` is None.
        tasks: Number of all tasks of the run.
        reused: Number of those tasks that this run did not run again, because they had ended well in an earlier run.
    """

    number: int
    began: str
    ended: str | None
    outcome: str | None
    tasks: int
    reused: int


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task that ended well.

    Attributes:
        run: Number of the run in which the task ended well.
        id: The task's id.
        host: Name of the host that ran the task.
        attempt: Number of the attempt that ended well, from 1.
        nbytes: Size of the task's committed result in bytes; None if the task's result was not committed.
        identity: The task's identity in hexadecimal: a digest of the task's function and arguments. A task with the
            same function and the same arguments has the same identity in every run.
    """

    run: int
    id: str
    host: str
    attempt: int
    nbytes: int | None
    identity: str


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt that failed, or whose end is not known.

    Attributes:
        run: Number of the run that made the attempt.
        id: The task's id.
        host: Name of the host that the attempt was handed over to; empty if it was never handed over.
        attempt: Number of the attempt, from 1.
        outcome: The kind of failure, or ``"started"`` if the end of the attempt is not known. Such an attempt is
            recorded only if its function is marked ``idempotent=False``.
        error: The error's message; empty for ``"started"``.
    """

    run: int
    id: str
    host: str
    attempt: int
    outcome: str
    error: str


@dataclass(frozen=True, slots=True)
class Story:
    """The contents of a journal, as `read` returns them.

    Attributes:
        runs: All runs, in order.
        tasks: All tasks that ended well. If several runs recorded the same task, only its last record is included.
        attempts: All attempts that failed. An attempt whose end is not known is included if its function is marked
            ``idempotent=False``.
    """

    runs: Sequence[RunRecord]
    tasks: Sequence[TaskRecord]
    attempts: Sequence[AttemptRecord]


def read(path: str | PathLike[str]) -> Story:
    """Read a journal. A run may write to the journal at the same time.

    Args:
        path: The journal's file.

    Returns:
        The journal's runs, tasks and attempts. All three are empty if no run has begun yet.

    Raises:
        JournalError: The file does not exist, is not a journal, has another format, or cannot be read.

    Example:
        ```python
        results = await handout.execute(graph, journal="run.db")
        for run in handout.journal.read("run.db").runs:
            print(run.number, run.began, run.outcome, run.reused, "of", run.tasks)
        ```
    """
    path = Path(path)
    if not path.is_file():
        raise JournalError(f"There is no journal {str(path)!r}.", remedy="Check the path.", path=str(path))
    try:
        with closing(prepare(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True))) as database:
            return _story(database) if check(database, path) else Story((), (), ())
    except DamagedRowError as error:
        raise JournalError(
            f"The journal {str(path)!r} is damaged: {error}.",
            remedy="Reading has not changed the file. Run the graph again with this journal: the run leaves out the "
            "damaged rows, and runs their tasks anew. It refuses the journal if a task has idempotent=False, and it is "
            "not known whether that task has run.",
            path=str(path),
        ) from error
    except DAMAGE as error:
        raise JournalError(
            f"The journal {str(path)!r} cannot be read: {type(error).__name__}: {error}.",
            remedy="Reading has not changed the file. Check that you may read it, and that it is not damaged. If it is "
            "damaged, give the next run the path of another file: all tasks then run anew.",
            path=str(path),
        ) from error


def _story(database: sqlite3.Connection) -> Story:
    ends = {run: (ended, outcome) for run, ended, outcome in checked_rows(database, "ends")}
    runs, known = list[RunRecord](), dict[int, tuple[list[str], bytes]]()
    for run, began, reused, _, text, identities in checked_rows(database, "runs", "ORDER BY run"):
        ids = json.loads(text)
        known[run] = ids, identities
        runs.append(RunRecord(run, began, *ends.get(run, (None, None)), len(ids), reused))
    attempts = [AttemptRecord(*row) for row in checked_rows(database, "attempts")]
    starts = [
        AttemptRecord(run, id, host, shown, "started", "")
        for _, run, id, host, _, shown in checked_rows(database, "starts")
    ]
    return Story(runs, _tasks(database, known), sorted((*attempts, *starts), key=lambda record: record.run))


def _tasks(database: sqlite3.Connection, runs: Mapping[int, tuple[list[str], bytes]]) -> list[TaskRecord]:
    """Return the last record of each task, in the order in which these records were written.

    Records with the same identity are records of the same task.

    Args:
        database: The journal.
        runs: For each run, the ids of its tasks and their joined identities.
    """
    found: dict[bytes, TaskRecord] = {}
    for run, host, _, _, *columns, _, _ in checked_rows(database, "results", "WHERE part = '' ORDER BY rowid"):
        ids, identities = runs[run]
        for task, attempt, nbytes in zip(*map(json.loads, columns), strict=True):
            identity = identity_at(identities, task)
            found.pop(identity, None)
            size = None if nbytes < 0 else nbytes
            found[identity] = TaskRecord(run, ids[task], host, attempt, size, identity.hex())
    return list(found.values())
