"""The ready tasks that wait for one host. They are read from `World.waiting` as decisions need them."""

from __future__ import annotations

__all__ = ["Waiters"]


class Waiters:
    """Tasks that wait for one host. Tasks that need and lack amounts of the same names share an entry."""

    __slots__ = ("alike", "seen")

    def __init__(self) -> None:
        #: How many entries of `World.waiting` have been read.
        self.seen = 0
        #: Key: the names of amounts that tasks lack on this host, and the names of all that they need. Value: the
        #: priority of the most urgent such task.
        self.alike: dict[tuple[frozenset[str], frozenset[str]], float] = {}
