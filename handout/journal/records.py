"""The records that a run writes to its journal, and those that a later run reads from the journal."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

__all__ = ["AttemptStart", "ClassName", "CommittedTask", "ResultBatch", "StoredPart"]


class AttemptStart(NamedTuple):
    """The start of an attempt of a task that must not run twice."""

    identity: bytes
    id: str
    host: str
    attempt: int


class ClassName(NamedTuple):
    """The name of a class of ``__main__`` that occurs in committed results.

    In the results, a token takes the place of the name. The token is `origin` and `number`. The name is `module` and
    `name`.
    """

    origin: str
    number: int
    module: str
    name: str


@dataclass(slots=True)
class ResultBatch:
    """Results of tasks that ended together on one host.

    A batch holds the same part of each task's result: the whole result, or the element at one path.
    """

    host: str
    #: The path to the element, as text. It is empty for the whole result.
    part: str = ""
    #: True if the host was trusted with data only.
    data_only: bool = False
    #: For each result: the number of the task, the number of the attempt, and the size in bytes. The size is -1 if only
    #: the end of the task is recorded, without the result.
    tasks: list[int] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    #: The bytes of each result whose size is not -1, in the order of ``tasks``.
    data: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class StoredPart:
    """One committed object: a result, or an element of a result."""

    #: The host that made the object. `data_only` is True if that host was trusted with data only.
    host: str
    data_only: bool
    nbytes: int
    #: The file that holds a large object; None for a small one.
    file: Path | None
    #: The row that holds a small object, and the offset of the object's bytes in the data of that row.
    row: int
    at: int
    #: The object's bytes; None until they are loaded.
    data: bytes | None = None


@dataclass(slots=True)
class CommittedTask:
    """A task that ended well in an earlier run."""

    host: str
    #: The committed parts of the task's result. A key is the path to an element as text, or empty for the whole result.
    parts: dict[str, StoredPart] = field(default_factory=dict)
