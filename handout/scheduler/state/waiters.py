"""The tasks that wait for one host, as far as they have been found out."""

from __future__ import annotations

__all__ = ["Waiters"]


class Waiters:
    """Ready tasks that wait for one host; tasks that lack the same and need the same are one entry."""

    __slots__ = ("alike", "seen")

    def __init__(self) -> None:
        #: How many entries of `World.waiting` have been read.
        self.seen = 0
        #: By what they lack on the host and by what they need: the priority of the most urgent task.
        self.alike: dict[tuple[frozenset[str], frozenset[str]], float] = {}
