"""The ready tasks that wait for one host, as far as the list of waiting tasks has been read."""

from __future__ import annotations

__all__ = ["Waiters"]


class Waiters:
    """Tasks that wait for one host. Tasks that need the same amounts and lack the same ones there share an entry."""

    __slots__ = ("alike", "seen")

    def __init__(self) -> None:
        #: How many entries of `World.waiting` have been read.
        self.seen = 0
        #: The priority of the most urgent task, by the names of what tasks lack on the host and of what they need.
        self.alike: dict[tuple[frozenset[str], frozenset[str]], float] = {}
