"""The simulated journal of one run. It is in memory, and survives the death of the simulated controller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import NamedTuple

from handout.journal import AttemptStart, CommittedTask, OpenStart, ResultBatch, StoredPart
from handout.protocol.frames import Buffer
from handout.sim.clock import Clock

__all__ = ["SimulatedIdentities", "SimulatedJournal"]

#: Virtual seconds until the record of a start, or of the end of a run, counts as written to the disk.
_FSYNC_S = 0.002
_NO_START = OpenStart("", -1, 0)


class _Record(NamedTuple):
    """One record of a journal."""

    kind: str
    identity: bytes = b""
    part: str = ""
    attempt: int = 0
    host: str = ""
    data: bytes = b""
    nbytes: int = -1


class SimulatedIdentities:
    """The identities by which the journal recognizes tasks. In a simulation, the identity of a task is its number."""

    def __init__(self, tasks: int) -> None:
        self.tasks = [b"%d" % task for task in range(tasks)]
        self.unrecognizable: set[int] = set()

    def part_of(self, number: int) -> str:
        """Return the journal's name for a part of a result: its object number, or ``""`` for the whole result."""
        return "" if number < len(self.tasks) else str(number)


class SimulatedJournal:
    """Replaces `handout.journal.Journal`. When the controller dies, the last record may be torn, which means lost.

    Args:
        clock: The virtual clock.
        instruction: Called after each record has been added. The simulated controller may die in this call.
    """

    path = "simulated"

    def __init__(self, clock: Clock, instruction: Callable[[], None]) -> None:
        self.on_error: Callable[[Exception], None] = lambda error: None
        self._clock = clock
        self._instruction = instruction
        self._records: list[_Record] = []
        #: Records before this index cannot be torn any more, because a new controller has read them.
        self._torn_from = 0

    def _write(self, record: _Record) -> None:
        self._records.append(record)
        self._instruction()

    # ---- see `handout.journal.Journal` -------------------------------------------------------------------------

    def begin_run(self, *columns: object) -> None:
        """Record nothing, because the beginning of a run is not read back."""

    def record_failure(self, *columns: object) -> None:
        """Record nothing, because failures are not read back."""

    def commit(self, batch: ResultBatch) -> None:
        """Commit results."""
        at = 0
        for t, attempt, size in zip(batch.tasks, batch.attempts, batch.sizes, strict=True):
            data = b""
            if size >= 0:
                data, at = batch.data[at], at + 1
            self._write(_Record("result", b"%d" % t, batch.part, attempt, batch.host, data, size))

    def commit_file(self, batch: ResultBatch, segments: Sequence[Buffer], digest: str | None = None) -> None:
        """Commit one large object."""
        record = _Record("result", b"%d" % batch.tasks[0], batch.part, batch.attempts[0], batch.host)
        self._write(record._replace(data=b"".join(segments), nbytes=batch.sizes[0]))

    def record_starts(self, rows: Sequence[AttemptStart], then: Callable[[Exception | None], None]) -> None:
        """Record the starts of attempts. Call ``then`` once the records are on the disk."""
        for identity, _, host, attempt, shown in rows:
            self._write(_Record("start", identity, "", attempt, host, nbytes=shown))
        self._clock.after(_FSYNC_S, lambda: then(None))

    def clear_starts(self, identities: Iterable[bytes]) -> None:
        """Record that the controller knows the ends of these tasks' attempts."""
        for identity in identities:
            self._write(_Record("clear", identity))

    def cancel_starts(self, starts: Iterable[tuple[bytes, int]]) -> None:
        """Record that these attempts have not begun."""
        for identity, attempt in starts:
            self._write(_Record("cancel", identity, "", attempt))

    def end_run(self, outcome: str, then: Callable[[Exception | None], None]) -> None:
        """Record the end of the run. Call ``then`` once all records are committed."""
        self._write(_Record("end"))
        self._clock.after(_FSYNC_S, lambda: then(None))

    # ---- after a death -----------------------------------------------------------------------------------------

    def recover(self, rng: Random) -> str:
        """Tear the last record with a probability of one half, because the controller has died.

        Return a text that describes the torn record, or ``""`` if no record was torn. The record of a start is never
        torn, because the task may have been handed over already, and in this case the record is on the disk.
        """
        torn = ""
        if len(self._records) > self._torn_from and self._records[-1].kind != "start" and rng.random() < 0.5:
            record = self._records.pop()
            torn = " ".join((record.kind, record.identity.decode(), record.part))
        self._torn_from = len(self._records)
        return torn

    def committed(self) -> dict[bytes, CommittedTask]:
        """Return a mapping from the identity of each task that succeeded to the task with its committed results."""
        found: dict[bytes, CommittedTask] = {}
        for record in self._records:
            if record.kind == "result":
                task = found.setdefault(record.identity, CommittedTask(record.host))
                if record.nbytes >= 0:
                    part = StoredPart(record.host, False, record.nbytes, None, 0, 0, data=record.data)
                    task.parts[record.part] = part
        return found

    def open_starts(self) -> dict[bytes, OpenStart]:
        """Return a mapping from the identity of a task to an attempt that has a start and no known end.

        The mapping gives the start of each such attempt.
        """
        open_: dict[bytes, OpenStart] = {}
        for record in self._records:
            if record.kind == "start":
                open_[record.identity] = OpenStart(record.host, record.attempt, record.nbytes)
            elif record.kind == "clear" or (
                record.kind == "cancel" and open_.get(record.identity, _NO_START).attempt == record.attempt
            ):
                open_.pop(record.identity, None)
        return open_
