"""The data that a journal takes from a run and gives to a later one."""

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
    """The name of a class of ``__main__`` in committed results, and the token that stands for the class there."""

    origin: str
    number: int
    module: str
    name: str


@dataclass(slots=True)
class ResultBatch:
    """Results of tasks that ended together on one host. Each is the same part of its task's result."""

    host: str
    part: str = ""
    #: True if the host was trusted with data only.
    data_only: bool = False
    #: By result: its task's number, the attempt that made it, and its size in bytes. Size -1 records only that the task
    #: ended well.
    tasks: list[int] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    #: The bytes of each result whose size is not -1, in the order of ``tasks``.
    data: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class StoredPart:
    """One committed object."""

    #: The host that made the bytes, and True if that host was trusted with data only.
    host: str
    data_only: bool
    nbytes: int
    #: The file that holds a large object; None for a small one.
    file: Path | None
    #: The row that holds a small object, and the offset of its bytes in that row.
    row: int
    at: int
    #: The bytes once they are loaded.
    data: bytes | None = None


@dataclass(slots=True)
class CommittedTask:
    """A task that ended well in an earlier run."""

    host: str
    #: By part of its result: empty for the whole result, otherwise the path to an element.
    parts: dict[str, StoredPart] = field(default_factory=dict)
