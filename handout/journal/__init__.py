"""The journal of runs, which records what happens in them and holds their committed results.

A journal is a file with a folder beside it. A result is committed when its bytes are in the journal. Small results are
in the file, which is an SQLite database with a write-ahead log. Each large result is a file of its own in the folder,
named by a digest of its bytes.

A committed result is kept even if the program is killed, at whatever instruction. But most commits are not forced to
the disk, so the last commits may be missing after a power cut. The tasks of these commits then run again.

Two things are forced to the disk. The recorded start of a task that must not run twice is on the disk before the
controller hands over the task. The file of a large result is on the disk before the database names the file.
"""

from __future__ import annotations

from handout.journal.reading import AttemptRecord, RunRecord, Story, TaskRecord, read
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
from handout.journal.store import INLINE, Journal

__all__ = [
    "INLINE",
    "AttemptRecord",
    "AttemptStart",
    "CheckpointRecord",
    "ClassName",
    "CommittedTask",
    "Journal",
    "OpenStart",
    "ResultBatch",
    "RunRecord",
    "StoredCheckpoint",
    "StoredPart",
    "Story",
    "TaskRecord",
    "read",
]
