"""Records the checkpoints of a run's tasks in the journal: the newest of each task, once a second at most."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from handout.errors import DamagedFileError, JournalError
from handout.execution.shell.run_checkpoints import TaskCheckpoint
from handout.execution.shell.run_state import RunState
from handout.journal import CheckpointRecord, Journal
from handout.journal.checksums import Segments

__all__ = ["CheckpointRecorder"]

logger = logging.getLogger("handout")

#: Seconds between two commits of checkpoints of one task.
_INTERVAL_S = 1.0


@dataclass(slots=True)
class _Uncommitted:
    """A checkpoint that is committed a little later."""

    record: CheckpointRecord
    segments: Segments
    digest: str | None


class CheckpointRecorder:
    """Commits the checkpoints of one run.

    Args:
        journal: The open journal.
        identities: The identity of each task.
        ids: The id of each task.
    """

    def __init__(self, journal: Journal, identities: Sequence[bytes], ids: Sequence[str]) -> None:
        self._journal = journal
        self._identities = identities
        self._ids = ids
        self._loop = asyncio.get_running_loop()
        #: The tasks of which the journal has a checkpoint.
        self.recorded: set[int] = set()
        self._waiting: dict[int, _Uncommitted] = {}
        #: For each task whose last commit was less than `_INTERVAL_S` seconds ago: the timer of the next commit.
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def take(self, run: RunState, task: int, checkpoint: TaskCheckpoint) -> None:
        """Commit a checkpoint that has arrived at the controller, now or a little later."""
        try:
            segments = run.objects.segments(checkpoint.key)
        except (OSError, DamagedFileError, JournalError) as error:
            logger.warning("The checkpoint of task %r is not committed to the journal: %s", self._ids[task], error)
            return
        if segments is None:
            return
        file = run.objects.file(checkpoint.key)
        record = CheckpointRecord(
            self._identities[task], self._ids[task], checkpoint.host, checkpoint.data_only, checkpoint.nbytes
        )
        self._waiting[task] = _Uncommitted(record, segments, None if file is None else file.digest)
        if task not in self._timers:
            self._commit(task)

    def _commit(self, task: int) -> None:
        self._timers.pop(task, None)
        waiting = self._waiting.pop(task, None)
        if waiting is not None:
            self._journal.commit_checkpoint(waiting.record, waiting.segments, waiting.digest)
            self.recorded.add(task)
            self._timers[task] = self._loop.call_later(_INTERVAL_S, self._commit, task)

    def over(self, task: int, well: bool) -> None:
        """Commit the newest checkpoint of a task that has ended. If the task has ended well, drop it instead."""
        if well:
            self._waiting.pop(task, None)
            if task in self.recorded:
                self.recorded.discard(task)
                self._journal.drop_checkpoints([self._identities[task]])
        else:
            self._commit(task)
        timer = self._timers.pop(task, None)
        if timer is not None:
            timer.cancel()

    def flush(self) -> None:
        """Commit all checkpoints that wait, because the run is over."""
        for task in [*self._waiting, *self._timers]:
            self.over(task, False)
