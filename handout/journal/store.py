"""The journal of a run. It gives the run the records of earlier runs, and takes the run's own records."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

from handout.errors import DamagedFileError
from handout.journal import checksums, opening
from handout.journal.checksums import Segments
from handout.journal.object_files import ObjectFolder, check, damaged_file, is_whole, read_whole
from handout.journal.records import (
    AttemptStart,
    CheckpointRecord,
    ClassName,
    CommittedTask,
    OpenStart,
    ResultBatch,
    StoredCheckpoint,
    StoredPart,
)
from handout.journal.tables import DAMAGE, INSERT, identity_at, is_sound, sealed, select
from handout.journal.writer import INLINE, CheckpointEntry, LargeObject, Rows, Writer, result_rows

__all__ = ["INLINE", "Journal"]


class Journal:
    """A journal for one run at a time. Opening, reading and closing wait for the disk; recording does not.

    Args:
        path: The journal's file. If it does not exist, it is made with mode 0600.

    Raises:
        JournalError: The file is in use, is not a journal, has another format, or cannot be written.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = opening.resolve(path)
        self._folder = ObjectFolder(self.path.with_name(self.path.name + ".objects"))
        self._checkpoints = ObjectFolder(self.path.with_name(self.path.name + ".checkpoints"))
        self._lock = opening.take_lock(self.path)
        try:
            self._database = opening.connect(self.path)
        except BaseException:
            os.close(self._lock)
            raise
        #: The journal's number for the run that is being recorded; 0 before `begin_run`. Agents have a number of their
        #: own for the run.
        self.run = 0
        #: For each table, how many rows the last read of the table left out, because they do not match their checksums.
        self.damaged_rows: dict[str, int] = {}
        #: The files that the last call of `committed` left out, because they are missing or do not have their sizes.
        self.damaged_files: list[Path] = []
        #: A thread holds this lock while it reads, so that `close` waits for the end of the read. `close` may be called
        #: during a read, because the asyncio task that asked for the read may have been cancelled.
        self._reading = threading.Lock()
        #: The number and the data of the row that was read last, because the parts of one row are often read together.
        self._last_row: tuple[int, bytes] = 0, b""
        try:
            self._folder.remove_unfinished()
            self._checkpoints.remove_unfinished()
            self._writer = Writer(self.path, self._database, self._folder, self._checkpoints)
        except (OSError, RuntimeError) as error:  # the folder cannot be written to, or no thread can be started
            self._database.close()
            os.close(self._lock)
            raise opening.unusable(self.path, str(error)) from error

    @property
    def on_error(self) -> Callable[[Exception], None]:
        """The function that is called in the writer's thread with the first error.

        After the first error, nothing is committed any more.
        """
        return self._writer.on_error

    @on_error.setter
    def on_error(self, then: Callable[[Exception], None]) -> None:
        self._writer.on_error = then

    def close(self) -> None:
        """Commit the waiting records, except large objects, and release the file. A second call does nothing."""
        if self._lock < 0:
            return
        self._writer.close()
        with self._reading:
            self._database.close()
        os.close(self._lock)
        self._lock = -1

    # ---- the records of earlier runs -------------------------------------------------------------------------

    def committed(self, identities: Iterable[bytes]) -> dict[bytes, CommittedTask]:
        """Find tasks that succeeded in earlier runs, without loading their results.

        Damaged rows of ``runs`` and ``results`` are left out. The results of a run whose row is damaged count as
        damaged, too. Objects whose files are missing, or do not have their sizes, are left out; see `damaged_files`.

        Args:
            identities: The identities of the tasks to look for.

        Returns:
            The tasks that were found, by identity.
        """
        wanted, found = set(identities), dict[bytes, CommittedTask]()
        with self._reading_lock():
            known = {run: identities for run, *_, identities in self._sound_rows("runs")}
            rows = self._database.execute(select("results", "ORDER BY rowid", "rowid, "))
            self.damaged_rows["results"] = 0
            for row, *values in rows:
                if is_sound(values) and values[0] in known:
                    self._take(found, wanted, known, row, values)
                else:
                    self.damaged_rows["results"] += 1
        self._leave_out_files(found)
        return found

    def _sound_rows(self, table: str, extra: str = "") -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a table that match their checksums. Count the others in `damaged_rows`."""
        self.damaged_rows[table] = 0
        for row in self._database.execute(select(table, extra)):
            if is_sound(row):
                yield row[:-1]
            else:
                self.damaged_rows[table] += 1

    def _take(
        self,
        found: dict[bytes, CommittedTask],
        wanted: Collection[bytes],
        known: Mapping[int, bytes],
        row: int,
        values: Sequence[Any],
    ) -> None:
        """Add the tasks of one row of ``results`` to ``found``. ``known`` has the identities of each run's tasks."""
        run, host, data_only, part, tasks, _, sizes, crcs, file, _ = values
        at, checks = 0, iter(json.loads(crcs))
        for task, nbytes in zip(json.loads(tasks), json.loads(sizes), strict=True):
            crc = next(checks) if nbytes >= 0 and file is None else 0
            identity = identity_at(known[run], task)
            if identity in wanted:
                committed = found.setdefault(identity, CommittedTask(host))
                committed.host = host
                path = None if file is None else self._folder.file(file)
                if nbytes >= 0:
                    committed.parts[part] = StoredPart(host, bool(data_only), nbytes, path, row, at, crc)
            at += max(0, nbytes)

    def _leave_out_files(self, found: Mapping[bytes, CommittedTask]) -> None:
        """Leave out the objects whose files are missing or do not have their sizes, and note these files."""
        damaged = dict[Path, None]()
        for committed in found.values():
            for name, part in list(committed.parts.items()):
                if part.file is not None and not is_whole(part.file, part.nbytes):
                    damaged[part.file] = None
                    del committed.parts[name]
        self.damaged_files = list(damaged)

    def check_structure(self) -> None:
        """Find rows that have vanished, because the structure of the file is damaged.

        Raises:
            JournalError: The structure is damaged.
        """
        with self._reading_lock():
            (said,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                raise ValueError(said)

    def open_starts(self, identities: Iterable[bytes]) -> dict[bytes, OpenStart]:
        """Find the recorded starts that neither `clear_starts` nor `cancel_starts` has removed.

        Damaged rows are left out.

        Args:
            identities: The identities of the tasks to look for.

        Returns:
            The starts, by identity of the task.
        """
        wanted = set(identities)
        with self._reading_lock():
            rows = self._sound_rows("starts")
            return {identity: OpenStart(*start) for identity, _, _, *start in rows if identity in wanted}

    def load_parts(self, parts: Iterable[StoredPart], limit: int) -> list[StoredPart]:
        """Check the bytes of each object, and load them into the ``data`` of its `StoredPart`.

        The bytes of an object are not kept if they would bring the sum of the loaded bytes above ``limit``.

        Returns:
            The objects whose bytes are damaged or cannot be read.
        """
        refused = []
        with self._reading_lock():
            for part in sorted(parts, key=lambda part: part.row):
                try:
                    if part.file is not None and part.nbytes > limit:
                        check(part.file, part.nbytes, part.file.name)
                        continue
                    data = self._read(part)
                except (DamagedFileError, OSError):
                    refused.append(part)
                    continue
                if len(data) <= limit:
                    limit -= len(data)
                    part.data = bytes(data)
        return refused

    def read_part(self, part: StoredPart) -> bytes:
        """Return the bytes of one small object.

        Raises:
            DamagedFileError: The bytes are not those that were committed.
        """
        with self._reading_lock():
            return bytes(self._read(part))

    def _read(self, part: StoredPart) -> bytes | memoryview:
        if part.file is not None:
            return read_whole(part.file, part.nbytes, part.file.name)
        row, joined = self._last_row
        if row != part.row:
            (joined,) = self._database.execute("SELECT data FROM results WHERE rowid = ?", (part.row,)).fetchone()
            self._last_row = part.row, joined
        data: bytes = joined[part.at : part.at + part.nbytes]
        if len(data) != part.nbytes or checksums.of_data(data) != part.crc:
            raise damaged_file(self.path)
        return data

    def checkpoints(self) -> list[StoredCheckpoint]:
        """Return the checkpoints of tasks that have not ended well. Damaged rows are left out."""
        found = []
        with self._reading_lock():
            for identity, _, id, host, data_only, nbytes, crc, name in self._sound_rows("checkpoints"):
                record = CheckpointRecord(identity, id, host, bool(data_only), nbytes)
                found.append(StoredCheckpoint(record, None if name is None else self._checkpoints.file(name), crc))
        return found

    def read_checkpoint(self, stored: StoredCheckpoint) -> bytes:
        """Return the bytes of a small checkpoint.

        Raises:
            DamagedFileError: The bytes are not those that were committed.
        """
        with self._reading_lock():
            identity = stored.record.identity
            row = self._database.execute("SELECT data FROM checkpoints WHERE identity = ?", (identity,)).fetchone()
        data: bytes = b"" if row is None or row[0] is None else row[0]
        if len(data) != stored.record.nbytes or checksums.of_data(data) != stored.crc:
            raise damaged_file(self.path)
        return data

    def classes(self) -> list[ClassName]:
        """Return the names of classes that are pickled by value, and that committed results may contain.

        Damaged rows are left out.
        """
        with self._reading_lock():
            return [ClassName(*row) for row in self._sound_rows("classes")]

    def left_agents(self) -> list[tuple[str, str, str]]:
        """Return the agents that an earlier controller may have left running.

        Each entry has the host's name, the secret that the agent's controller must know, and the agent's `StartedAgent`
        as JSON. Damaged rows are left out.
        """
        with self._reading_lock():
            return [(host, token, started) for host, token, started in self._sound_rows("agents")]

    def last_run(self) -> tuple[int, bytes]:
        """Return the number that agents used for the last run, and the joined identities of its tasks and objects.

        The number is 0 if the journal has no run. Damaged rows are left out, so the run may be an earlier one than the
        last. `damaged_rows` then tells that there is a later one.
        """
        with self._reading_lock():
            for _, _, _, number, _, identities in self._sound_rows("runs", "ORDER BY run DESC"):
                return number, identities
        return 0, b""

    @contextmanager
    def _reading_lock(self) -> Iterator[None]:
        """Keep the journal open while a thread reads, and raise an error of the read as a JournalError."""
        with self._reading:
            try:
                yield
            except sqlite3.OperationalError as error:
                raise opening.unusable(self.path, str(error)) from error
            except DAMAGE as error:
                raise opening.damaged_journal(self.path, f"{type(error).__name__}: {error}") from error

    # ---- the records of the run ------------------------------------------------------------------------------

    def begin_run(
        self,
        ids: Sequence[str],
        identities: Sequence[bytes],
        reused: int,
        number: int,
        classes: Iterable[ClassName],
    ) -> None:
        """Begin a run. All later records belong to this run.

        Args:
            ids: The ids of the run's tasks.
            identities: The identities of the run's tasks, and then that of its objects.
            reused: How many of the run's tasks succeeded in an earlier run.
            number: The number that agents use for the run.
            classes: The names of the program's classes that are pickled by value; see `classes`.
        """
        with self._reading_lock():
            self.run = self._database.execute("SELECT coalesce(max(run), 0) + 1 FROM runs").fetchone()[0]
        began = datetime.now(UTC).isoformat(timespec="seconds")
        self._insert("classes", classes)
        self._insert("runs", [(self.run, began, reused, number, json.dumps(list(ids)), b"".join(identities))])

    def record_agent(self, host: str, token: str, started: str) -> None:
        """Record that an agent serves the run. A later run that resumes this run can then take over the agent.

        Args:
            host: The agent's host.
            token: The secret that the agent's controller must know.
            started: The agent's `StartedAgent` as JSON.
        """
        self._insert("agents", [(host, token, started)])

    def forget_agent(self, host: str) -> None:
        """Record that a host's agent has ended."""
        self._put("DELETE FROM agents WHERE host = ?", [(host,)])

    def commit(self, batch: ResultBatch) -> None:
        """Commit small results. The caller must not change `batch` afterwards."""
        self._writer.put(result_rows(self.run, batch))

    def commit_file(self, batch: ResultBatch, segments: Segments, digest: str | None = None) -> None:
        """Commit one object of more than `INLINE` bytes.

        Args:
            batch: The record of the object, without data.
            segments: The object's bytes, in pieces. The caller must not change the pieces afterwards.
            digest: The digest of an object that is in a file of the controller. If the file has other bytes now, they
                are not committed.
        """
        self._writer.put(LargeObject(self.run, batch, segments, digest))

    def commit_checkpoint(self, record: CheckpointRecord, segments: Segments, digest: str | None = None) -> None:
        """Commit the newest checkpoint of a task in place of the one before.

        Args:
            record: Describes the checkpoint.
            segments: The checkpoint's bytes, in pieces. The caller must not change the pieces afterwards.
            digest: See `commit_file`.
        """
        self._writer.put(CheckpointEntry(self.run, record._replace(id=_text(record.id)), segments, digest))

    def drop_checkpoints(self, identities: Sequence[bytes]) -> None:
        """Remove the checkpoints of tasks that have ended well."""
        rows = [(identity,) for identity in identities]
        self._writer.put(Rows("DELETE FROM checkpoints WHERE identity = ?", rows, sweeps=True))

    def record_starts(self, starts: Sequence[AttemptStart], then: Callable[[Exception | None], None]) -> None:
        """Record the starts of tasks that must not run twice, before the tasks are handed over to a host.

        Args:
            starts: One start for each attempt.
            then: Called in the writer's thread, either with None once the starts are on the disk, or with the error.
        """
        rows = [sealed((start.identity, self.run, _text(start.id), *start[2:])) for start in starts]
        self._writer.put(Rows(INSERT["starts"], rows, True, then))

    def clear_starts(self, identities: Iterable[bytes]) -> None:
        """Remove the recorded starts of these tasks, which no later run needs. For example, the tasks have ended."""
        self._put("DELETE FROM starts WHERE identity = ?", [(identity,) for identity in identities])

    def cancel_starts(self, starts: Iterable[tuple[bytes, int]]) -> None:
        """Remove the recorded starts of these attempts, which have not begun. A start of another attempt stays.

        Args:
            starts: For each attempt: the identity of its task, and the number of the attempt.
        """
        self._put("DELETE FROM starts WHERE identity = ? AND attempt = ?", list(starts))

    def record_failure(self, id: str, host: str, attempt: int, outcome: str, error: str) -> None:
        """Record an attempt that failed."""
        self._insert("attempts", [(self.run, _text(id), host, attempt, outcome, _text(error))])

    def end_run(self, outcome: str, then: Callable[[Exception | None], None]) -> None:
        """End the run.

        Args:
            outcome: ``done``, ``failed`` or ``cancelled``.
            then: Called in the writer's thread, either with None once all records are committed, or with the error.
        """
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        self._writer.put(Rows(INSERT["ends"], [sealed((self.run, ended, outcome))], False, then))

    def _insert(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        self._put(INSERT[table], [sealed(row) for row in rows])

    def _put(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._writer.put(Rows(statement, rows))


def _text(text: str) -> str:
    """Return a text with its lone surrogates escaped, because SQLite cannot store lone surrogates.

    In Python, a file name that is not UTF-8 contains lone surrogates.
    """
    return text.encode("utf-8", "backslashreplace").decode()
