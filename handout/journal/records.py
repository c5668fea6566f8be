"""The records that a run writes to its journal, and the records that a later run reads from the journal."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "AttemptStart",
    "CheckpointRecord",
    "ClassName",
    "CommittedTask",
    "OpenStart",
    "ResultBatch",
    "StoredCheckpoint",
    "StoredPart",
]


class AttemptStart(NamedTuple):
    """The start of an attempt of a task that must not run twice. ``identity`` and ``id`` are those of the task."""

    identity: bytes
    id: str
    host: str
    #: The number of the hand-over, which the ids of attempts contain.
    attempt: int
    #: The number of the attempt that users know. It counts only attempts that began.
    shown: int


class OpenStart(NamedTuple):
    """A recorded start, after which nothing is known of the attempt; see `AttemptStart`."""

    host: str
    attempt: int
    shown: int


class ClassName(NamedTuple):
    """The name and the token of a class that is pickled by value, such as a class of ``__main__``.

    A committed result that contains such a class refers to it by the token, which consists of `origin` and `number`.
    The name consists of `module` and `name`.
    """

    origin: str
    number: int
    module: str
    name: str


class CheckpointRecord(NamedTuple):
    """The newest checkpoint of a task; ``identity`` and ``id`` are those of the task."""

    identity: bytes
    id: str
    #: The host that made the checkpoint.
    host: str
    #: True if only data is accepted from that host. The checkpoint is then restored only there.
    data_only: bool
    nbytes: int


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint that an earlier run has left."""

    record: CheckpointRecord
    #: The file that holds a large checkpoint; None for a small one.
    file: Path | None
    #: The checksum of a small checkpoint; see `checksums.of_data`. The digest of a large one is its file's name.
    crc: int


@dataclass(slots=True)
class ResultBatch:
    """Results of tasks that ended together.

    A batch holds the same part of each task's result: either the whole result, or the element at a certain path.
    """

    #: The host that ran the tasks. If `data_only` is True, the host with ``trust="data"`` that sent the results.
    host: str
    #: The path to the element, as text. The text is empty for the whole result.
    part: str = ""
    #: True if the results came from a host with ``trust="data"``, from which only data is accepted.
    data_only: bool = False
    #: For each result: the number of its task.
    tasks: list[int] = field(default_factory=list)
    #: For each result: the number of the attempt that made it.
    attempts: list[int] = field(default_factory=list)
    #: For each result: its size in bytes, or -1 if only the end of the task is recorded, without the result.
    sizes: list[int] = field(default_factory=list)
    #: The bytes of the small results, in the order of ``tasks``. The list has no entry for a large result, or for a
    #: result of size -1.
    data: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class StoredPart:
    """One committed object: a result, or an element of a result."""

    #: The host that made the object. If `data_only` is True, the host with ``trust="data"`` that sent the object.
    host: str
    #: True if the object came from a host with ``trust="data"``, from which only data is accepted.
    data_only: bool
    nbytes: int
    #: The file that holds a large object; None for a small one.
    file: Path | None
    #: Number of the database row that records the object. The row also holds the bytes of a small object.
    row: int
    #: The offset of a small object's bytes in the data of the row.
    at: int
    #: The checksum of a small object's bytes; see `checksums.of_data`. The digest of a large object is its file's name.
    crc: int = 0
    #: The object's bytes; None until the bytes are loaded.
    data: bytes | None = None


@dataclass(slots=True)
class CommittedTask:
    """A task that succeeded in an earlier run."""

    #: The host on which the task succeeded.
    host: str
    #: The committed parts of the task's result. A key is the path to an element as text, or empty for the whole result.
    parts: dict[str, StoredPart] = field(default_factory=dict)
