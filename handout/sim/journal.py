"""What survives the controller: results that were committed, and starts of what must not run twice."""

from __future__ import annotations

from random import Random
from typing import Literal

__all__ = ["SimulatedJournal", "Task"]

#: A run's number in the scenario and a task's number in it.
Task = tuple[int, int]
_Kind = Literal["ended", "result", "start", "settled"]


class SimulatedJournal:
    """Records in the order in which they were written. When the controller dies, the last one may be torn."""

    __slots__ = ("_records", "_torn_from")

    def __init__(self) -> None:
        self._records: list[tuple[_Kind, Task, int]] = []
        #: What was written before this was read back whole, after an earlier death.
        self._torn_from = 0

    def ended(self, task: Task) -> None:
        """A task ended well."""
        self._records.append(("ended", task, -1))

    def commit(self, task: Task, object_: int) -> None:
        """Write down an object that a task made.

        Raises:
            ValueError: It has been written before.
        """
        record: tuple[_Kind, Task, int] = ("result", task, object_)
        if record in self._records:
            raise ValueError(f"object {object_} of task {task} was committed twice")
        self._records.append(record)

    def start(self, task: Task, attempt: int) -> None:
        """A task that must not run twice is about to be handed over."""
        self._records.append(("start", task, attempt))

    def settle(self, task: Task) -> None:
        """It is known how such a task ended."""
        self._records.append(("settled", task, -1))

    def recover(self, rng: Random) -> str:
        """The controller has died: says what was torn, if anything. A start is on the disk before it counts."""
        torn = ""
        if len(self._records) > self._torn_from and self._records[-1][0] != "start" and rng.random() < 0.5:
            torn = " ".join(map(str, self._records.pop()))
        self._torn_from = len(self._records)
        return torn

    @property
    def committed(self) -> dict[Task, set[int]]:
        """Tasks that ended well, with those of their objects that are here."""
        found: dict[Task, set[int]] = {}
        for kind, task, object_ in self._records:
            if kind == "ended":
                found.setdefault(task, set())
            elif kind == "result":
                found.setdefault(task, set()).add(object_)
        return found

    @property
    def unknown(self) -> dict[Task, int]:
        """Tasks that must not run twice, were handed over, and were not seen to end, with their latest attempts."""
        open_: dict[Task, int] = {}
        for kind, task, attempt in self._records:
            if kind == "start":
                open_[task] = attempt
            elif kind == "settled":
                open_.pop(task, None)
        return {task: attempt for task, attempt in open_.items() if task not in self.committed}
