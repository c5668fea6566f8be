"""The checkpoints of the tasks of one run, as far as the controller knows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from handout.protocol import numbering

__all__ = ["RunCheckpoints", "TaskCheckpoint"]


class TaskCheckpoint(NamedTuple):
    """A checkpoint of a task."""

    key: int
    #: The host that made the checkpoint.
    host: str
    nbytes: int
    #: True if only data is accepted from that host. The checkpoint is then restored only there.
    data_only: bool
    #: The controller numbers the checkpoints in the order in which it was told of them; 0 if it is from an earlier run.
    order: int = 0

    @property
    def attempt(self) -> int:
        """The number of the attempt that made the checkpoint; 0 if it is from an earlier run."""
        return numbering.checkpoint_parts(self.key)[2]


@dataclass(slots=True)
class RunCheckpoints:
    """The newest checkpoint of each task that has not ended."""

    #: For each task, its newest checkpoint.
    newest: dict[int, TaskCheckpoint] = field(default_factory=dict)
    #: For each task, the newest checkpoint that the controller has. The bytes are in the run's `RunObjects`, with the
    #: key as their number.
    here: dict[int, TaskCheckpoint] = field(default_factory=dict)
    #: For each task whose newest checkpoint a host still has: that host.
    on_hosts: dict[int, str] = field(default_factory=dict)
    #: The attempts that are not handed over before the controller has a checkpoint: the task and the number of the
    #: attempt, mapped to the host.
    held: dict[tuple[int, int], str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.newest)

    def is_here(self, task: int) -> bool:
        """Return True if the controller has the newest checkpoint of a task."""
        return task in self.here and self.here[task].key == self.newest[task].key

    def found(self, host: str, key: int, nbytes: int) -> None:
        """Note a checkpoint that an agent has from an earlier controller."""
        task = numbering.checkpoint_parts(key)[1]
        known = self.newest.get(task)
        if known is None or known.key < key:  # the upper bits are the attempt and the count
            self.newest[task] = TaskCheckpoint(key, host, nbytes, False)
            self.on_hosts[task] = host

    def lose(self, task: int) -> None:
        """Go back to the checkpoint that the controller has, because the host does not have the newest one any more."""
        self.on_hosts.pop(task, None)
        here = self.here.get(task)
        if here is None:
            self.newest.pop(task, None)
        else:
            self.newest[task] = here
