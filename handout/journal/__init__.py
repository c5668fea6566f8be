"""A journal records what happens in runs, and holds their committed results. It is a file with a folder beside it.

A result is committed when its bytes are in the journal. Small results are in the file, which is an SQLite database with
a write-ahead log. Each large result is a file of its own in the folder, named by a digest of its bytes.

A committed result is kept even if the program is killed, at any instruction. Commits are not forced to the disk, so the
last ones may be missing after a power cut. Their tasks then run again. Two things are forced to the disk. The start of
a task that must not run twice is on the disk before the controller hands over the task. A large result's file is on the
disk before the row that names the file is committed.
"""

from __future__ import annotations

from handout.journal.reading import AttemptRecord, RunRecord, Story, TaskRecord, read
from handout.journal.records import AttemptStart, ClassName, CommittedTask, ResultBatch, StoredPart
from handout.journal.store import INLINE, Journal

__all__ = [
    "INLINE",
    "AttemptRecord",
    "AttemptStart",
    "ClassName",
    "CommittedTask",
    "Journal",
    "ResultBatch",
    "RunRecord",
    "StoredPart",
    "Story",
    "TaskRecord",
    "read",
]
