"""Which hosts have which warm values. To the core, a warm value is a text that identifies it."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

__all__ = ["WarmHosts"]

_NONE: frozenset[int] = frozenset()


class WarmHosts:
    """The hosts that have warm values, by index, and what it takes to make the values on other hosts."""

    __slots__ = ("_counts", "_hosts", "_seconds", "_used")

    def __init__(self) -> None:
        self._hosts: dict[str, set[int]] = {}
        #: How long it took when the value was made last. A value that no host has any more has no entry.
        self._seconds: dict[str, float] = {}
        #: How many values a host has, for hosts that have any.
        self._counts: dict[int, int] = {}
        #: When a value was made on such a host, or a task that takes one was handed to it.
        self._used: dict[int, float] = {}

    def add(self, value: str, index: int, seconds: float, now: float) -> None:
        """Note that a host has a value, which took so many seconds to make."""
        hosts = self._hosts.setdefault(value, set())
        if index not in hosts:
            hosts.add(index)
            self._counts[index] = self._counts.get(index, 0) + 1
            self._used[index] = now
        self._seconds[value] = seconds

    def remove(self, value: str, index: int) -> None:
        """Note that a host does not have a value any more."""
        hosts = self._hosts.get(value)
        if hosts is None or index not in hosts:
            return
        hosts.remove(index)
        if not hosts:
            del self._hosts[value], self._seconds[value]
        self._counts[index] -= 1
        if not self._counts[index]:
            del self._counts[index], self._used[index]

    def remove_host(self, index: int) -> None:
        """Note that a host is lost."""
        for value in list(self._hosts):
            self.remove(value, index)

    def of(self, value: str) -> set[int] | frozenset[int]:
        """Return the hosts that have a value."""
        return self._hosts.get(value, _NONE)

    def hosts(self) -> set[int]:
        """Return the hosts that have any value."""
        return set().union(*self._hosts.values())

    def use(self, index: int, now: float) -> None:
        """Note that a task that takes a value is handed to a host."""
        if index in self._used:
            self._used[index] = now

    def last_use(self, index: int) -> float:
        """Return when a value of a host was used last; less than any time if the host has no value."""
        return self._used.get(index, -inf)

    def seconds(self, value: str) -> float:
        """Return how long it takes to make a value on a host that does not have it; 0 if no host has it."""
        return self._seconds.get(value, 0.0)

    def missing_s(self, values: Iterable[str], index: int) -> float:
        """Return how long it takes to make the values among some that a host does not have."""
        return sum([self.seconds(value) for value in values if index not in self.of(value)])
