"""The requests of one run to its custom allocator."""

from __future__ import annotations

from collections.abc import Mapping

from handout.scheduler.state.hosts import HostRecord

__all__ = ["AllocatorRequests"]


class AllocatorRequests:
    """The request that is open, and when to make the next one."""

    __slots__ = ("_first_shown", "asks_again", "changed", "fleet_version", "hosts", "number", "tasks")

    def __init__(self) -> None:
        #: Number of the open request, -1 for none.
        self.number = -1
        #: Task numbers by id, as the allocator was shown them in the last request.
        self.tasks: Mapping[str, int] = {}
        #: The hosts that the allocator was shown in that request, and the fleet's version at that time.
        self.hosts: Mapping[str, HostRecord] = {}
        self.fleet_version = -1
        #: How many times at which the allocator wants to be asked again are still to come.
        self.asks_again = 0
        #: True if something has happened since the last request that may change the answer.
        self.changed = True
        #: By task: when the allocator was first shown it.
        self._first_shown: dict[int, float] = {}

    def open(self, number: int, tasks: Mapping[str, int], hosts: Mapping[str, HostRecord], fleet_version: int) -> None:
        """Note a request and what it shows."""
        self.number = number
        self.tasks = tasks
        self.hosts = hosts
        self.fleet_version = fleet_version
        self.changed = False

    def close(self) -> None:
        """Note that the open request is answered, or that its answer does not count any more."""
        self.number = -1

    def note_change(self) -> None:
        """Note that the allocator may answer differently now."""
        self.changed = True

    def will_ask_again(self) -> None:
        """Note that the allocator asked to be asked again at some time."""
        self.asks_again += 1

    def ask_again(self) -> None:
        """Note that the time has come at which the allocator wanted to be asked again."""
        self.asks_again = max(0, self.asks_again - 1)
        self.changed = True

    def waiting_s(self, t: int, now: float) -> float:
        """Return the seconds since a ready task was first shown to the allocator."""
        return now - self._first_shown.setdefault(t, now)
