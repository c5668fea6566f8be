"""The journal: what happened in runs, and the results that are committed, in one file and a folder beside it.

A result is committed when its bytes are in the journal: small ones in the file itself (SQLite, write-ahead log), large
ones as files named by their content. What is committed survives the end of the program at any instruction. After a
power cut the last commits may be missing, and their tasks run again; starts of functions that must not run twice,
and large files, are on the disk before anything goes on.
"""

from __future__ import annotations

from handout.journal.reading import AttemptRecord, RunRecord, Story, TaskRecord, read
from handout.journal.store import INLINE, CommittedTask, Journal, ResultBatch, StoredPart

__all__ = [
    "INLINE",
    "AttemptRecord",
    "CommittedTask",
    "Journal",
    "ResultBatch",
    "RunRecord",
    "StoredPart",
    "Story",
    "TaskRecord",
    "read",
]
