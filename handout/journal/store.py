"""A journal that is being written: one thread, which commits in batches what it is given."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import queue
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Final

from handout.errors import JournalError
from handout.journal.tables import check, create, identity_at

__all__ = ["INLINE", "CommittedTask", "Journal", "ResultBatch", "StoredPart"]

#: Results up to this many bytes are in the database itself.
INLINE: Final = 64 << 10
#: Entries that become one commit, at most, and the seconds that they are gathered for where nobody waits for them.
_BATCH: Final = 4096
_GATHER_S: Final = 0.01
#: Begins the names of files that are being written.
_UNFINISHED: Final = "new-"

Segments = Sequence[bytes | bytearray | memoryview]


@dataclass(slots=True)
class StoredPart:
    """One committed object: the file that holds it, or its place in the journal."""

    #: Whose bytes they are, and whether that host was trusted with data alone.
    host: str
    data_only: bool
    nbytes: int
    file: Path | None
    #: Of a small one: its row, and where in its bytes it begins; and the bytes once they are loaded.
    row: int
    at: int
    data: bytes | None = None


@dataclass(slots=True)
class CommittedTask:
    """A task that an earlier run saw to its end."""

    host: str
    #: By part of its result: empty for the whole of it.
    parts: dict[str, StoredPart] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Entry:
    """Rows for one statement, and who wants to know when they are committed."""

    statement: str
    rows: Sequence[Sequence[Any]]
    #: Whether they must be on the disk, rather than with the system, when that is said.
    durable: bool = False
    then: Callable[[Exception | None], None] | None = None


@dataclass(slots=True)
class ResultBatch:
    """Results of tasks that ended together: of one host, and the same part of each."""

    host: str
    part: str = ""
    #: Whether the host was trusted with data alone.
    data_only: bool = False
    #: By result: its task's number, the attempt that made it, and its size; -1 says only that the task ended well.
    tasks: list[int] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    #: The bytes of all that have a size, in that order.
    data: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Large:
    """An object that is to become a file, and then the row that names it."""

    batch: ResultBatch
    segments: Segments


_RESULT = "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Journal:
    """A journal for one run at a time. Opening and closing wait for the disk; everything else does not.

    Args:
        path: The file; made where there is none, with mode 0600.

    Raises:
        JournalError: It is in use, of another format, or cannot be written.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        try:
            # One file, one lock, by whatever name; and the program may change its working directory.
            self.path = Path(os.path.realpath(os.fsdecode(path)))
            if not self.path.name:
                raise ValueError("it is a folder")
        except ValueError as error:
            raise JournalError(f"{path!r} is no path of a journal: {error}.", path=str(path)) from error
        self._folder = self.path.with_name(self.path.name + ".objects")
        self._lock = self._take_lock()
        try:
            self._database = self._connect()
        except BaseException:
            os.close(self._lock)
            raise
        self.run = 0
        #: Held while a thread reads: whoever wanted to know may have given up by then, and close.
        self._reading = threading.Lock()
        #: What went wrong; nothing is written after it.
        self.error: Exception | None = None
        #: Called with it (in another thread), once.
        self.on_error: Callable[[Exception], None] = lambda error: None
        self._closing = False
        self._entries: queue.SimpleQueue[_Entry | _Large | None] = queue.SimpleQueue()
        #: Somebody waits for a commit.
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._write, name="handout-journal", daemon=True)
        try:
            for unfinished in self._folder.glob(f"{_UNFINISHED}*"):
                unfinished.unlink()  # of a program that was killed: the lock says that nobody writes it now
            self._thread.start()
        except (OSError, RuntimeError) as error:  # the folder is not to be written to, or no thread is left
            self._database.close()
            os.close(self._lock)
            raise self._unusable(str(error)) from error

    def _take_lock(self) -> int:
        """Two writers would each commit what the other one runs."""
        path = self.path.with_name(self.path.name + "-lock")
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise JournalError(
                f"The journal {str(self.path)!r} is in use by another run.",
                remedy="Wait for that run to end, or name another file.",
                path=str(self.path),
            ) from None
        return lock

    def _connect(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(str(error)) from error
        try:
            if not check(database, self.path):
                create(database)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
        except sqlite3.Error as error:
            database.close()
            raise self._unusable(str(error)) from error
        except BaseException:
            database.close()
            raise
        return database

    def _unusable(self, reason: str) -> JournalError:
        return JournalError(
            f"The journal {str(self.path)!r} cannot be used: {reason}.",
            remedy="Check the path, its permissions and the free space; what is committed is kept for the next call.",
            path=str(self.path),
        )

    # ---- what an earlier run left ----------------------------------------------------------------------------

    def committed(self, identities: Iterable[bytes]) -> dict[bytes, CommittedTask]:
        """The tasks among `identities` that ended well before, with what is committed of their results, not loaded."""
        wanted, found = set(identities), dict[bytes, CommittedTask]()
        with self._reading_of():
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
                        path = None if file is None else self._folder / file
                        if nbytes >= 0 and (path is None or _is_whole(path, nbytes)):
                            committed.parts[part] = StoredPart(host, bool(data_only), nbytes, path, row, at)
                    at += max(0, nbytes)
        return found

    def open_starts(self, identities: Iterable[bytes]) -> dict[bytes, tuple[str, int]]:
        """Those that must not run twice, were handed over, and were not seen to end; with host and attempt."""
        with self._reading_of(), self._database:
            if self._database.execute("SELECT 1 FROM starts").fetchone() is None:
                return {}
            self._ask_for(identities)
            rows = self._database.execute("SELECT identity, host, attempt FROM starts NATURAL JOIN temp.wanted")
            return {identity: (host, attempt) for identity, host, attempt in rows}

    def _ask_for(self, identities: Iterable[bytes]) -> None:
        self._database.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (identity BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")
        self._database.execute("DELETE FROM temp.wanted")
        self._database.executemany("INSERT OR IGNORE INTO temp.wanted VALUES (?)", ((each,) for each in identities))

    def load_parts(self, pieces: Iterable[StoredPart], limit: int) -> None:
        """Read objects into their pieces, as far as ``limit`` bytes go."""
        with self._reading_of():
            row, data = -1, b""
            for piece in sorted(pieces, key=lambda piece: piece.row):
                if piece.nbytes > limit:
                    continue
                limit -= piece.nbytes
                if piece.file is not None:
                    piece.data = piece.file.read_bytes()
                    continue
                if piece.row != row:
                    row = piece.row
                    (data,) = self._database.execute("SELECT data FROM results WHERE rowid = ?", (row,)).fetchone()
                piece.data = data[piece.at : piece.at + piece.nbytes]

    def read_part(self, piece: StoredPart) -> bytes:
        """The bytes of one small object."""
        with self._reading_of():
            (data,) = self._database.execute(
                "SELECT substr(data, ?, ?) FROM results WHERE rowid = ?", (piece.at + 1, piece.nbytes, piece.row)
            ).fetchone()
        return data or b""

    @contextmanager
    def _reading_of(self) -> Iterator[None]:
        """Not while it is being closed; and what cannot be read is told by name."""
        with self._reading:
            try:
                yield
            except sqlite3.OperationalError as error:
                raise self._unusable(str(error)) from error
            except (sqlite3.Error, OSError, ValueError, TypeError, LookupError) as error:
                raise JournalError(
                    f"The journal {str(self.path)!r} cannot be read: {type(error).__name__}: {error}.",
                    remedy="It is damaged: name another file, and everything runs anew.",
                    path=str(self.path),
                ) from error

    def classes(self) -> list[tuple[str, int, str, str]]:
        """What classes of ``__main__`` were called in committed results: origin, number, module, name."""
        with self._reading_of():
            return list(self._database.execute("SELECT origin, number, module, name FROM classes"))

    def left_agents(self) -> list[tuple[str, str, str]]:
        """Agents that a controller left behind when it was lost: host, token, and how to reach it."""
        with self._reading_of():
            return list(self._database.execute("SELECT host, token, started FROM agents"))

    def last_run(self) -> tuple[int, bytes]:
        """The number that agents knew the last run by, 0 where there was none, and its tasks' identities, joined."""
        with self._reading_of():
            row = self._database.execute("SELECT number, identities FROM runs ORDER BY run DESC LIMIT 1").fetchone()
        return (0, b"") if row is None else row

    # ---- a run -----------------------------------------------------------------------------------------------

    def begin_run(
        self,
        ids: Sequence[str],
        identities: Sequence[bytes],
        reused: int,
        number: int,
        classes: Iterable[tuple[str, int, str, str]],
    ) -> None:
        """A run begins. What is recorded from here on is of it.

        Args:
            ids: Of its tasks.
            identities: Of its tasks.
            reused: How many of them an earlier run saw to their ends.
            number: What agents know the run by.
            classes: See :meth:`classes`.
        """
        with self._reading_of():
            self.run = self._database.execute("SELECT coalesce(max(run), 0) + 1 FROM runs").fetchone()[0]
        began = datetime.now(UTC).isoformat(timespec="seconds")
        self._post("INSERT OR IGNORE INTO classes VALUES (?, ?, ?, ?)", list(classes))
        row = (self.run, began, reused, number, json.dumps(list(ids)), b"".join(identities))
        self._post("INSERT INTO runs VALUES (?, ?, NULL, NULL, ?, ?, ?, ?)", [row])

    def record_agent(self, host: str, token: str, started: str) -> None:
        """An agent serves the run: whoever resumes it can go on with that."""
        self._post("INSERT OR REPLACE INTO agents VALUES (?, ?, ?)", [(host, token, started)])

    def forget_agent(self, host: str) -> None:
        """A host's agent has ended."""
        self._post("DELETE FROM agents WHERE host = ?", [(host,)])

    def commit(self, batch: ResultBatch) -> None:
        """Commit small results; `batch` must not change any more."""
        dumps = json.dumps
        columns = dumps(batch.tasks), dumps(batch.attempts), dumps(batch.sizes)
        source = (self.run, batch.host, batch.data_only, batch.part)
        self._post(_RESULT, [(*source, *columns, b"".join(batch.data), None)])

    def commit_file(self, batch: ResultBatch, segments: Segments) -> None:
        """Commit one object of more than `INLINE` bytes, which must not change any more.

        Args:
            batch: Says which; has no data.
            segments: The data.
        """
        self._put(_Large(batch, segments))

    def record_starts(
        self, rows: Sequence[tuple[bytes, str, str, int]], then: Callable[[Exception | None], None]
    ) -> None:
        """Attempts that must not be made twice are about to be handed over: identity, id, host, attempt.

        Args:
            rows: One an attempt.
            then: Called (in another thread) once that is on the disk, or with what went wrong.
        """
        run = self.run
        made = [(identity, run, _text(id), host, attempt) for identity, id, host, attempt in rows]
        self._put(_Entry("INSERT OR REPLACE INTO starts VALUES (?, ?, ?, ?, ?)", made, True, then))

    def clear_starts(self, identities: Iterable[bytes]) -> None:
        """Attempts that must not be made twice are known to have ended, or not to have begun."""
        self._post("DELETE FROM starts WHERE identity = ?", [(identity,) for identity in identities])

    def cancel_starts(self, starts: Iterable[tuple[bytes, int]]) -> None:
        """Attempts, by identity and number, are known not to have begun; a later one of the same task may have."""
        self._post("DELETE FROM starts WHERE identity = ? AND attempt = ?", list(starts))

    def record_failure(self, id: str, host: str, attempt: int, outcome: str, error: str) -> None:
        """An attempt did not end well."""
        row = (self.run, _text(id), host, attempt, outcome, _text(error))
        self._post("INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?)", [row])

    def end_run(self, outcome: str, then: Callable[[Exception | None], None]) -> None:
        """The run is over. `then` is called (in another thread) when everything recorded is committed."""
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        row = (ended, outcome, self.run)
        self._put(_Entry("UPDATE runs SET ended = ?, outcome = ? WHERE run = ?", [row], False, then))

    def close(self) -> None:
        """Commit what is left, without large objects that nobody waited for, and let the file go. May be repeated."""
        if self._lock < 0:
            return
        self._closing = True
        self._put(None)
        self._thread.join()
        with self._reading:
            self._database.close()
        os.close(self._lock)
        self._lock = -1

    def _post(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._put(_Entry(statement, rows))

    def _put(self, entry: _Entry | _Large | None) -> None:
        self._entries.put(entry)
        if entry is None or (isinstance(entry, _Entry) and entry.then is not None):
            self._hurry.set()

    # ---- the thread ------------------------------------------------------------------------------------------

    def _write(self) -> None:
        going = True
        while going:
            entry = self._entries.get()
            if isinstance(entry, _Entry) and entry.then is None:
                # To wake up for each would cost the loop more than the commit does.
                self._hurry.wait(_GATHER_S)
            self._hurry.clear()
            batch: list[_Entry] = []
            while entry is not None:
                made = self._filed(entry)
                if made is not None:
                    batch.append(made)
                if len(batch) >= _BATCH:
                    break
                try:
                    entry = self._entries.get_nowait()
                except queue.Empty:
                    break
            going = entry is not None
            self._commit(batch)

    def _filed(self, entry: _Entry | _Large) -> _Entry | None:
        """An entry as rows: what is large is a file by now."""
        if isinstance(entry, _Entry):
            return entry
        if self.error is not None or self._closing:
            return None
        batch = entry.batch
        try:
            file = self._file(entry.segments)
        except Exception as error:  # this thread must not end before it is told to: somebody waits for it
            self._give_up(error)
            return None
        row = (self.run, batch.host, batch.data_only, batch.part, json.dumps(batch.tasks), json.dumps(batch.attempts))
        return _Entry(_RESULT, [(*row, json.dumps(batch.sizes), None, file)])

    def _file(self, segments: Segments) -> str:
        """Write a file named by its content, unless it is there; it is on the disk when this returns."""
        digest = hashlib.blake2b(digest_size=20)
        for segment in segments:
            digest.update(segment)
        name = digest.hexdigest()
        size = sum(memoryview(segment).nbytes for segment in segments)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / name
        if path.exists() and path.stat().st_size == size:
            return name
        descriptor, made = tempfile.mkstemp(prefix=_UNFINISHED, dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for segment in segments:
                    file.write(segment)
                file.flush()
                os.fsync(file.fileno())
            os.rename(made, path)
        except BaseException:
            os.unlink(made)
            raise
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return name

    def _commit(self, batch: Sequence[_Entry]) -> None:
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
            except Exception as error:  # see `_filed`
                self._give_up(error)
        for entry in batch:
            if entry.then is not None:
                entry.then(self.error)

    def _give_up(self, error: Exception) -> None:
        """A journal with a gap must not go on: what came after it would look committed without what it needs."""
        self.error = self._unusable(str(error))
        self.error.__cause__ = error
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")
        self.on_error(self.error)


def _is_whole(path: Path, nbytes: int) -> bool:
    """Whether nobody has removed or cut a file."""
    try:
        return path.stat().st_size == nbytes
    except OSError:
        return False


def _text(text: str) -> str:
    """What SQLite can hold: file names that are no UTF-8 come as lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
