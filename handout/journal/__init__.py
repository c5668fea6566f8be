"""The journal: what happened in runs, and the results that are committed, in one file and a folder beside it.

A result is committed when its bytes are in the journal: small ones in the file itself (SQLite with a write-ahead log),
large ones as files that are named by their content. A committed result survives the end of the program at any
instruction. After a power cut the last commits may be missing, and their tasks run again. Two things are on the disk
before the run goes on: the start of a function that must not run twice, and a large file.
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
