"""The requests that the scheduler's core makes to the custom allocator of one run."""

from __future__ import annotations

from collections.abc import Mapping

from handout.allocators import HostView

__all__ = ["AllocatorRequests"]


class AllocatorRequests:
    """The open request to the allocator, and the facts that decide when the core makes the next request."""

    __slots__ = ("_first_shown", "asks_again", "changed", "fleet_version", "hosts", "number", "tasks", "waits_for")

    def __init__(self) -> None:
        #: Number of the open request, or -1 if no request is open.
        self.number = -1
        #: The numbers of the tasks that the last request showed to the allocator, by task id.
        self.tasks: Mapping[str, int] = {}
        #: The hosts that the last request showed to the allocator, by name.
        self.hosts: Mapping[str, HostView] = {}
        #: The hosts that are not ready and on which the last answer placed tasks, by task number.
        self.waits_for: dict[int, str] = {}
        #: The value of `Fleet.version` at the time of the last request.
        self.fleet_version = -1
        #: Number of timers that are set because the allocator wants to be asked again at a certain time.
        self.asks_again = 0
        #: True if something that may change the allocator's answer has happened since the last request.
        self.changed = True
        #: The time at which the core first showed each task to the allocator, by task number.
        self._first_shown: dict[int, float] = {}

    def open(self, number: int, tasks: Mapping[str, int], hosts: Mapping[str, HostView], fleet_version: int) -> None:
        """Note that a request was made, and what it showed to the allocator."""
        self.number = number
        self.tasks = tasks
        self.hosts = hosts
        self.fleet_version = fleet_version
        self.changed = False

    def close(self) -> None:
        """Note that the allocator has answered the open request, or that its answer does not count any more."""
        self.number = -1
        self.waits_for = {}

    def wait_for(self, t: int, host: str) -> None:
        """Note that the allocator has placed a task on a host that is not ready, so that the task waits for it."""
        self.waits_for[t] = host

    def note_change(self) -> None:
        """Note that the allocator may answer differently now."""
        self.changed = True

    def will_ask_again(self) -> None:
        """Note that a timer is set, because the allocator wants to be asked again at a certain time."""
        self.asks_again += 1

    def ask_again(self) -> None:
        """Note that the time has come at which the allocator wants to be asked again."""
        self.asks_again = max(0, self.asks_again - 1)
        self.changed = True

    def waiting_s(self, t: int, now: float) -> float:
        """Return the seconds since the core first showed a ready task to the allocator.

        The first call for a task records the time and returns 0.
        """
        return now - self._first_shown.setdefault(t, now)
