"""The journal of a run: reads what earlier runs left in it, and records the run."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from os import PathLike
from typing import Any, Final

from handout.errors import JournalError
from handout.journal import opening
from handout.journal.object_files import ObjectFolder, Segments, is_whole
from handout.journal.records import AttemptStart, ClassName, CommittedTask, ResultBatch, StoredPart
from handout.journal.tables import identity_at
from handout.journal.writer import INSERT_RESULT, LargeObject, Rows, Writer, result_row

__all__ = ["INLINE", "Journal"]

#: Results up to this many bytes are in the database itself.
INLINE: Final = 64 << 10


class Journal:
    """A journal for one run at a time. Opening, reading and closing wait for the disk; recording does not.

    Args:
        path: The file. If there is none, it is made with mode 0600.

    Raises:
        JournalError: It is in use, has another format, or cannot be written.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = opening.resolve(path)
        self._folder = ObjectFolder(self.path.with_name(self.path.name + ".objects"))
        self._lock = opening.take_lock(self.path)
        try:
            self._database = opening.connect(self.path)
        except BaseException:
            os.close(self._lock)
            raise
        #: Number of the run that is being recorded.
        self.run = 0
        #: Held while a thread reads, so that `close` waits for it. The journal may be closed during a read, because the
        #: task that asked for the read may be cancelled.
        self._reading = threading.Lock()
        try:
            self._folder.remove_unfinished()
            self._writer = Writer(self.path, self._database, self._folder)
        except (OSError, RuntimeError) as error:  # the folder cannot be written to, or no thread is left
            self._database.close()
            os.close(self._lock)
            raise opening.unusable(self.path, str(error)) from error

    @property
    def on_error(self) -> Callable[[Exception], None]:
        """Called with the first error of a commit, in another thread. Nothing is committed after it."""
        return self._writer.on_error

    @on_error.setter
    def on_error(self, then: Callable[[Exception], None]) -> None:
        self._writer.on_error = then

    def close(self) -> None:
        """Commit what is left, except large objects, and release the file. May be called again."""
        if self._lock < 0:
            return
        self._writer.close()
        with self._reading:
            self._database.close()
        os.close(self._lock)
        self._lock = -1

    # ---- what an earlier run left ----------------------------------------------------------------------------

    def committed(self, identities: Iterable[bytes]) -> dict[bytes, CommittedTask]:
        """Return the tasks among `identities` that ended well before, by identity. Their results are not loaded."""
        wanted, found = set(identities), dict[bytes, CommittedTask]()
        with self._reading_lock():
            known = dict(self._database.execute("SELECT run, identities FROM runs"))
            if not known:
                return found
            rows = self._database.execute(
                "SELECT rowid, run, host, data_only, part, tasks, sizes, file FROM results ORDER BY rowid"
            )
            for row, run, host, data_only, part, tasks, sizes, file in rows:
                at = 0
                for task, nbytes in zip(json.loads(tasks), json.loads(sizes), strict=True):
                    identity = identity_at(known[run], task)
                    if identity in wanted:
                        committed = found.setdefault(identity, CommittedTask(host))
                        committed.host = host
                        path = None if file is None else self._folder.file(file)
                        if nbytes >= 0 and (path is None or is_whole(path, nbytes)):
                            committed.parts[part] = StoredPart(host, bool(data_only), nbytes, path, row, at)
                    at += max(0, nbytes)
        return found

    def open_starts(self, identities: Iterable[bytes]) -> dict[bytes, tuple[str, int]]:
        """Return the starts among `identities` that were not cleared: host and attempt, by identity."""
        with self._reading_lock(), self._database:
            if self._database.execute("SELECT 1 FROM starts").fetchone() is None:
                return {}
            self._database.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (identity BLOB PRIMARY KEY) WITHOUT ROWID")
            self._database.execute("BEGIN")
            self._database.execute("DELETE FROM temp.wanted")
            wanted = ((identity,) for identity in identities)
            self._database.executemany("INSERT OR IGNORE INTO temp.wanted VALUES (?)", wanted)
            rows = self._database.execute("SELECT identity, host, attempt FROM starts NATURAL JOIN temp.wanted")
            return {identity: (host, attempt) for identity, host, attempt in rows}

    def load_parts(self, parts: Iterable[StoredPart], limit: int) -> None:
        """Read objects into their parts' `data`, as long as the sum of their sizes stays within ``limit`` bytes."""
        with self._reading_lock():
            row, data = -1, b""
            for part in sorted(parts, key=lambda part: part.row):
                if part.nbytes > limit:
                    continue
                limit -= part.nbytes
                if part.file is not None:
                    part.data = part.file.read_bytes()
                    continue
                if part.row != row:
                    row = part.row
                    (data,) = self._database.execute("SELECT data FROM results WHERE rowid = ?", (row,)).fetchone()
                part.data = data[part.at : part.at + part.nbytes]

    def read_part(self, part: StoredPart) -> bytes:
        """Return the bytes of one small object."""
        with self._reading_lock():
            (data,) = self._database.execute(
                "SELECT substr(data, ?, ?) FROM results WHERE rowid = ?", (part.at + 1, part.nbytes, part.row)
            ).fetchone()
        return data or b""

    def classes(self) -> list[ClassName]:
        """Return the names of the classes of ``__main__`` in committed results."""
        with self._reading_lock():
            rows = self._database.execute("SELECT origin, number, module, name FROM classes")
            return [ClassName(*row) for row in rows]

    def left_agents(self) -> list[tuple[str, str, str]]:
        """Return the agents that a lost controller left behind: host, token, and the started agent as JSON."""
        with self._reading_lock():
            return list(self._database.execute("SELECT host, token, started FROM agents"))

    def last_run(self) -> tuple[int, bytes]:
        """Return the number by which agents knew the last run (0 if there was none), and its tasks' identities."""
        with self._reading_lock():
            row = self._database.execute("SELECT number, identities FROM runs ORDER BY run DESC LIMIT 1").fetchone()
        return (0, b"") if row is None else row

    @contextmanager
    def _reading_lock(self) -> Iterator[None]:
        """Keep the journal open while a thread reads, and turn the errors of a read into a JournalError."""
        with self._reading:
            try:
                yield
            except sqlite3.OperationalError as error:
                raise opening.unusable(self.path, str(error)) from error
            except (sqlite3.Error, OSError, ValueError, TypeError, LookupError) as error:
                raise JournalError(
                    f"The journal {str(self.path)!r} cannot be read: {type(error).__name__}: {error}.",
                    remedy="The file is damaged: name another file, and all tasks run anew.",
                    path=str(self.path),
                ) from error

    # ---- a run -----------------------------------------------------------------------------------------------

    def begin_run(
        self,
        ids: Sequence[str],
        identities: Sequence[bytes],
        reused: int,
        number: int,
        classes: Iterable[ClassName],
    ) -> None:
        """Begin a run. All later records belong to it.

        Args:
            ids: The ids of its tasks.
            identities: The identities of its tasks.
            reused: How many of its tasks ended well in an earlier run.
            number: The number by which agents know the run.
            classes: See `classes`.
        """
        with self._reading_lock():
            self.run = self._database.execute("SELECT coalesce(max(run), 0) + 1 FROM runs").fetchone()[0]
        began = datetime.now(UTC).isoformat(timespec="seconds")
        self._put("INSERT OR IGNORE INTO classes VALUES (?, ?, ?, ?)", list(classes))
        row = (self.run, began, reused, number, json.dumps(list(ids)), b"".join(identities))
        self._put("INSERT INTO runs VALUES (?, ?, NULL, NULL, ?, ?, ?, ?)", [row])

    def record_agent(self, host: str, token: str, started: str) -> None:
        """Record that an agent serves the run, so that a run that resumes this one can take over the agent."""
        self._put("INSERT OR REPLACE INTO agents VALUES (?, ?, ?)", [(host, token, started)])

    def forget_agent(self, host: str) -> None:
        """Record that a host's agent has ended."""
        self._put("DELETE FROM agents WHERE host = ?", [(host,)])

    def commit(self, batch: ResultBatch) -> None:
        """Commit small results. `batch` must not change any more."""
        self._put(INSERT_RESULT, [result_row(self.run, batch, b"".join(batch.data), None)])

    def commit_file(self, batch: ResultBatch, segments: Segments) -> None:
        """Commit one object of more than `INLINE` bytes, which must not change any more.

        Args:
            batch: Describes the object; has no data.
            segments: The data.
        """
        self._writer.put(LargeObject(self.run, batch, segments))

    def record_starts(self, starts: Sequence[AttemptStart], then: Callable[[Exception | None], None]) -> None:
        """Record attempts that must not be made twice, before they are handed over to a host.

        Args:
            starts: One for each attempt.
            then: Called in another thread once the starts are on the disk, or with the error.
        """
        rows = [(start.identity, self.run, _text(start.id), start.host, start.attempt) for start in starts]
        self._writer.put(Rows("INSERT OR REPLACE INTO starts VALUES (?, ?, ?, ?, ?)", rows, True, then))

    def clear_starts(self, identities: Iterable[bytes]) -> None:
        """Record that the attempts of these tasks are known to have ended, or not to have begun."""
        self._put("DELETE FROM starts WHERE identity = ?", [(identity,) for identity in identities])

    def cancel_starts(self, starts: Iterable[tuple[bytes, int]]) -> None:
        """Record that these attempts have not begun. A later attempt of the same task may have.

        Args:
            starts: Identity and attempt number of each.
        """
        self._put("DELETE FROM starts WHERE identity = ? AND attempt = ?", list(starts))

    def record_failure(self, id: str, host: str, attempt: int, outcome: str, error: str) -> None:
        """Record an attempt that did not end well."""
        row = (self.run, _text(id), host, attempt, outcome, _text(error))
        self._put("INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?)", [row])

    def end_run(self, outcome: str, then: Callable[[Exception | None], None]) -> None:
        """End the run.

        Args:
            outcome: ``done``, ``failed`` or ``cancelled``.
            then: Called in another thread once all records are committed, or with the error.
        """
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        row = (ended, outcome, self.run)
        self._writer.put(Rows("UPDATE runs SET ended = ?, outcome = ? WHERE run = ?", [row], False, then))

    def _put(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._writer.put(Rows(statement, rows))


def _text(text: str) -> str:
    """Return a text that SQLite can hold, with lone surrogates escaped. File names that are not UTF-8 contain these."""
    return text.encode("utf-8", "backslashreplace").decode()
