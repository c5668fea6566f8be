"""Finds what fills a definition and must be written before another value.

A key names what can be used: it is the ``id`` of a function, class or module, or it names a global. A value needs the
definitions in it whole, and so all that these use. Definitions often use each other in circles. All members of a circle
use the same, so they form one group, and the groups are in no circle. So a search visits each use once, however many
values need it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Callable

from handout.serialization import functions_by_value

__all__ = ["Fill", "FillOrder", "Group"]


class Fill:
    """Values that fill a bare object. In the stream, it is the call that does so.

    Args:
        fill: The function that is called.
        target: The bare object.
        values: The values.
    """

    def __init__(self, fill: Callable[[Any, Any], None], target: Any, values: Any) -> None:
        self.fill, self.target, self.values = fill, target, values
        #: What the values need, as soon as `Definitions` has looked for it.
        self.needs: Group | None = None
        self.is_written = False
        self.is_late = fill in (functions_by_value.fill_names, functions_by_value.fill_attributes)

    def __reduce__(self) -> Any:
        return self.fill, (self.target, self.values)


class Group:
    """Keys of which each one uses all others. Most groups have one key.

    A search removes what needs no further visit. Each of the two lists of `fills` and of `uses` belongs to one search:
    the first one looks for what fills classes, and the second one for the rest.

    Args:
        fills: What fills the definitions of the group.
        uses: The other groups that the group uses.
    """

    def __init__(self, fills: Iterable[Fill], uses: Iterable[Group]) -> None:
        ordered = list(fills)[::-1]
        self.fills = [fill for fill in ordered if not fill.is_late], [fill for fill in ordered if fill.is_late]
        self.uses = list(uses)[::-1], list(uses)[::-1]
        #: Where each search that began at this group goes on: the groups from this one to the one that it visited last.
        self._paths: tuple[list[Group], list[Group]] = [], []

    def next_fill(self) -> Fill | None:
        """Return what fills a definition that this group uses and has not been begun, or None if there is nothing."""
        return self._next_fill(0) or self._next_fill(1)

    def _next_fill(self, search: int) -> Fill | None:
        path = self._paths[search]
        while True:
            last = path[-1] if path else self
            fills, uses = last.fills[search], last.uses[search]
            while fills and fills[-1].needs is not None:
                fills.pop()
            if fills:
                return fills[-1]
            if uses:
                path.append(uses[-1])
            elif path:
                path.pop()
                uses = (path[-1] if path else self).uses[search]
                if uses and uses[-1] is last:  # otherwise another search has removed it
                    uses.pop()
            else:
                return None


class FillOrder:
    """Knows what each definition uses, and what fills it."""

    def __init__(self) -> None:
        self._uses: dict[Hashable, list[Hashable]] = {}
        self._fills: dict[Hashable, list[Fill]] = {}
        self._groups: dict[Hashable, Group] = {}

    def add_uses(self, key: Hashable, used: Iterable[Hashable]) -> None:
        """Note which keys a key uses."""
        self._uses.setdefault(key, []).extend(used)

    def add_fill(self, key: Hashable, fill: Fill) -> None:
        """Note what fills the definition with a key."""
        self._fills.setdefault(key, []).append(fill)

    def needs(self, keys: Iterable[Hashable]) -> Group:
        """Return a group that uses these keys. All that they use must have been noted."""
        return Group((), [self._group(key) for key in keys])

    def _group(self, key: Hashable) -> Group:
        if key not in self._groups:
            for members in self._circles(key):
                self._add_group(members)
        return self._groups[key]

    def _circles(self, start: Hashable) -> Iterator[list[Hashable]]:
        """Yield the members of each group that a key uses, and that is not known. The group that is used comes first.

        This is Tarjan's algorithm (SIAM Journal on Computing 1, 1972). It has no recursion, because a chain of
        functions may be long.
        """
        #: In the order of the visits. The second number is that of the earliest key known to be in the same group.
        numbers, earliest, open_keys = {start: 0}, {start: 0}, [start]
        path = [(start, iter(self._uses.get(start, ())))]
        while path:
            key, rest = path[-1]
            used = next((each for each in rest if each not in self._groups), None)
            if used is None:
                path.pop()
                if earliest[key] == numbers[key]:
                    members = [open_keys.pop()]
                    while members[-1] != key:
                        members.append(open_keys.pop())
                    yield members[::-1]
                if path:
                    before = path[-1][0]
                    earliest[before] = min(earliest[before], earliest[key])
            elif used in numbers:
                earliest[key] = min(earliest[key], numbers[used])
            else:
                numbers[used] = earliest[used] = len(numbers)
                open_keys.append(used)
                path.append((used, iter(self._uses.get(used, ()))))

    def _add_group(self, members: list[Hashable]) -> None:
        own = set(members)
        used = (each for key in members for each in self._uses.get(key, ()) if each not in own)
        fills = (fill for key in members for fill in self._fills.get(key, ()))
        group = Group(fills, dict.fromkeys(self._groups[each] for each in used))
        self._groups.update(dict.fromkeys(members, group))
