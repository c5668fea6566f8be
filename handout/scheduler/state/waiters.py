"""The ready tasks that wait for one host, as far as the list of waiting tasks has been read."""

from __future__ import annotations

__all__ = ["Waiters"]


class Waiters:
    """Tasks that wait for one host. Tasks that lack the same there and need the same are one entry."""

    __slots__ = ("alike", "seen")

    def __init__(self) -> None:
        #: How many entries of `World.waiting` have been read.
        self.seen = 0
        #: By what they lack on the host and by what they need: the priority of the most urgent task.
        self.alike: dict[tuple[frozenset[str], frozenset[str]], float] = {}
