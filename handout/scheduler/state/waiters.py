"""The ready tasks that wait for one host. The core reads them from `World.waiting` only as far as it needs them."""

from __future__ import annotations

__all__ = ["Waiters"]


class Waiters:
    """The tasks that wait for one host.

    Tasks share an entry if they need amounts of the same names, and if the host lacks amounts of the same names.
    """

    __slots__ = ("alike", "seen")

    def __init__(self) -> None:
        #: How many entries of `World.waiting` have been read.
        self.seen = 0
        #: Key: (names of the amounts that the tasks lack on this host, names of all amounts that the tasks need).
        #: Value: the priority of the most urgent of these tasks.
        self.alike: dict[tuple[frozenset[str], frozenset[str]], float] = {}
