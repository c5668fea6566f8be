"""The journal: what happened in runs, and the results that are committed, in one file and a folder beside it.

A result is committed when its bytes are in the journal: small ones in the file itself (SQLite with a write-ahead log),
large ones as files that are named by their content. A committed result is kept even if the program is
killed at any instruction. After a power cut the last commits may be missing, and their tasks run again. Two things are
forced to the disk: the start of a function that must not run twice, before the function is handed over, and a large
file, before the row that names it is committed.
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
