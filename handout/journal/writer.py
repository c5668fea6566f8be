"""The thread that writes a journal. It commits entries in batches. An entry is either some rows or a large object."""

from __future__ import annotations

import json
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from handout.errors import DamagedFileError
from handout.journal import checksums
from handout.journal.checksums import Segments
from handout.journal.object_files import NO_DESCRIPTOR, PAUSE_S, TRIES, ObjectFolder
from handout.journal.opening import of_error
from handout.journal.records import CheckpointRecord, ResultBatch
from handout.journal.tables import INSERT, sealed

__all__ = ["INLINE", "CheckpointEntry", "LargeObject", "Rows", "Writer", "result_rows"]

logger = logging.getLogger("handout")

#: Results and checkpoints of up to this many bytes are in the database. Each larger one is a file of its own.
INLINE: Final = 64 << 10
#: The largest number of entries in one commit.
_BATCH: Final = 4096
#: For this many seconds, the thread gathers entries before a commit, unless a caller waits for the commit.
_GATHER_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Rows:
    """An SQL statement, and the rows of values with which it is executed."""

    statement: str
    rows: Sequence[Sequence[Any]]
    #: True: `then` is called once the rows are on the disk. False: `then` is called once the operating system has them.
    durable: bool = False
    #: Called with None once the rows are committed, or with the error that prevented the commit.
    then: Callable[[Exception | None], None] | None = None
    #: True if files of checkpoints may be needed no more after the commit.
    sweeps: bool = False


@dataclass(frozen=True, slots=True)
class LargeObject:
    """A large object. The thread writes the object to a file, and then commits a row that names the file."""

    run: int
    batch: ResultBatch
    segments: Segments
    #: The digest of an object that is in a file of the controller; None if the object is in memory. If the file has
    #: other bytes now, they are not committed.
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """The newest checkpoint of a task. If it is large, the thread writes it to a file before it commits the row."""

    run: int
    record: CheckpointRecord
    segments: Segments
    #: See `LargeObject.digest`.
    digest: str | None = None


def checkpoint_rows(entry: CheckpointEntry, file: str | None) -> Rows:
    """Return the row that records a checkpoint, which is in a file of this name if it is large."""
    data = None if file else b"".join(entry.segments)
    crc = 0 if data is None else checksums.of_data(data)
    identity, id, host, data_only, nbytes = entry.record
    row = sealed((identity, entry.run, id, host, int(data_only), nbytes, crc, file))
    return Rows(INSERT["checkpoints"], [(*row, data)], sweeps=True)


def result_rows(run: int, batch: ResultBatch, file: str | None = None) -> Rows:
    """Return the rows that record a batch, or the one large object of a batch, which is in a file of this name."""
    crcs = [checksums.of_data(data) for data in batch.data]
    columns = [json.dumps(column) for column in (batch.tasks, batch.attempts, batch.sizes, crcs)]
    row = sealed((run, batch.host, int(batch.data_only), batch.part, *columns, file))
    return Rows(INSERT["results"], [(*row, None if file else b"".join(batch.data))])


class Writer:
    """Commits entries in the order in which `put` got them. `put` never waits for the disk.

    Args:
        path: The journal's file, for messages.
        database: The open database, which the thread uses until `close`.
        folder: The folder for large objects.
        checkpoints: The folder for large checkpoints.

    Raises:
        RuntimeError: The system cannot start another thread.
    """

    def __init__(
        self, path: Path, database: sqlite3.Connection, folder: ObjectFolder, checkpoints: ObjectFolder
    ) -> None:
        self._path = path
        self._database = database
        self._folder = folder
        self._checkpoints = checkpoints
        #: The first error, or None. After an error, the thread commits nothing any more.
        self.error: Exception | None = None
        #: Called once, in the writer's thread, with the first error.
        self.on_error: Callable[[Exception], None] = lambda error: None
        self._closing = False
        #: How often `_write_file` may still try to open files until a file is written again.
        self._tries = TRIES
        self._entries: queue.SimpleQueue[Rows | LargeObject | CheckpointEntry | None] = queue.SimpleQueue()
        #: Set when a caller begins to wait for a commit, so that the thread does not gather entries first.
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._write, name="handout-journal", daemon=True)
        self._thread.start()

    def put(self, entry: Rows | LargeObject | CheckpointEntry) -> None:
        """Queue an entry. The caller must not change the entry afterwards."""
        self._entries.put(entry)
        if isinstance(entry, Rows) and entry.then is not None:
            self._hurry.set()

    def close(self) -> None:
        """Commit the waiting entries, except large objects, and end the thread."""
        self._closing = True
        self._entries.put(None)
        self._hurry.set()
        self._thread.join()

    # ---- the thread ------------------------------------------------------------------------------------------

    def _write(self) -> None:
        going = True
        while going:
            entry = self._entries.get()
            if isinstance(entry, Rows) and entry.then is None:
                # Without this wait, almost every entry would wake the thread. The waking would cost the event loop more
                # time than the commits.
                self._hurry.wait(_GATHER_S)
            self._hurry.clear()
            going = self._commit_with_rest(entry)

    def _commit_with_rest(self, entry: Rows | LargeObject | CheckpointEntry | None) -> bool:
        """Commit an entry and the entries that wait in the queue. Return False once `close` has ended the queue."""
        batch: list[Rows] = []
        while entry is not None:
            rows = self._as_rows(entry)
            if rows is not None:
                batch.append(rows)
            if len(batch) >= _BATCH:
                break
            try:
                entry = self._entries.get_nowait()
            except queue.Empty:
                break
        self._commit(batch)
        return entry is not None

    def _as_rows(self, entry: Rows | LargeObject | CheckpointEntry) -> Rows | None:
        """Return an entry as rows. For a large object or checkpoint, first write the file that the row names.

        Return None for such an entry if the journal is closing, if this write or an earlier one has failed, if the
        object is damaged, or if too many files stay open. In the last two cases, the next run makes the result again.
        """
        if isinstance(entry, Rows):
            return entry
        if isinstance(entry, CheckpointEntry) and entry.record.nbytes <= INLINE:
            return checkpoint_rows(entry, None)
        if self.error is not None or self._closing:
            return None
        try:
            file = self._write_file(entry)
        except (ValueError, DamagedFileError) as error:
            what = _name_of(entry)
            logger.warning("%s is not committed to the journal %s, because it is damaged: %s.", what, self._path, error)
            return None
        except Exception as error:  # the thread must go on, because callers wait until it calls `then`
            self._give_up(error)
            return None
        if file is None:
            return None
        if isinstance(entry, CheckpointEntry):
            return checkpoint_rows(entry, file)
        return result_rows(entry.run, entry.batch, file)

    def _write_file(self, entry: LargeObject | CheckpointEntry) -> str | None:
        """Write the file of a large object, and return its name. While too many files are open, wait and try again.

        Return None if the journal is closing, or if too many files stay open. The tries count for all objects together,
        because the entries behind them wait meanwhile, such as the starts of tasks that must not run twice.
        """
        while not self._closing:
            try:
                folder = self._checkpoints if isinstance(entry, CheckpointEntry) else self._folder
                name = folder.write(entry.segments, entry.digest)
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR:
                    raise
                self._tries -= 1
                if self._tries <= 0:
                    logger.warning(
                        "%s is not committed to the journal %s, because this program has too many open files. "
                        "Close files, or raise the limit that `ulimit -n` shows.",
                        _name_of(entry),
                        self._path,
                    )
                    return None
                time.sleep(PAUSE_S)
            else:
                self._tries = TRIES
                return name
        return None

    def _commit(self, batch: Sequence[Rows]) -> None:
        if batch and self.error is None:
            durable = any(entry.durable for entry in batch)
            try:
                if durable:
                    self._database.execute("PRAGMA synchronous=FULL")
                self._database.execute("BEGIN IMMEDIATE")
                for entry in batch:
                    self._database.executemany(entry.statement, entry.rows)
                self._database.execute("COMMIT")
                if durable:
                    self._database.execute("PRAGMA synchronous=NORMAL")
                if any(entry.sweeps for entry in batch):
                    self._sweep()
            except Exception as error:  # see `_as_rows`
                self._give_up(error)
        for entry in batch:
            if entry.then is not None:
                entry.then(self.error)

    def _sweep(self) -> None:
        """Remove the files of checkpoints that no row names any more."""
        rows = self._database.execute("SELECT file FROM checkpoints WHERE file IS NOT NULL")
        self._checkpoints.keep_only({name for (name,) in rows})

    def _give_up(self, error: Exception) -> None:
        """Stop committing, because later entries may depend on the entry that could not be committed."""
        self.error = of_error(self._path, error)
        self.error.__cause__ = error
        try:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # the transaction ends, without a commit, when the database is closed
        self.on_error(self.error)


def _name_of(entry: LargeObject | CheckpointEntry) -> str:
    return f"The checkpoint of task {entry.record.id!r}" if isinstance(entry, CheckpointEntry) else "A result"
