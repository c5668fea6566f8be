"""A walk through a value, which takes it apart by rules and digests the parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from typing import Any, Final

from handout.graph.output import Input
from handout.serialization.calls import PLAIN_TYPES

__all__ = ["DIGEST_SIZE", "Rule", "ValueWalk", "digest"]

#: Bytes of an identity.
DIGEST_SIZE: Final = 16

_SCALARS = frozenset({*PLAIN_TYPES, type(Ellipsis), type(NotImplemented)})


def digest(*parts: bytes | memoryview) -> bytes:
    """Return one identity of several parts."""
    made = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for part in parts:
        made.update(part)
    return made.digest()


class ValueWalk:
    """One walk through a value.

    A value that the walk meets again counts by the place where it was first met, so cycles end.

    Args:
        rule_for: Returns the rule for a type.
        promise: Returns the identity of the result that an output inside the arguments stands for.
        sources: Identities of modules by name. Several walks can share it.
    """

    def __init__(
        self,
        rule_for: Callable[[type], Rule],
        promise: Callable[[Any, ValueWalk], bytes] | None = None,
        sources: dict[str, bytes] | None = None,
    ) -> None:
        self._rule_for = rule_for
        self._promise = promise
        self.sources = {} if sources is None else sources
        #: By address: the place where the value was first met, and the value, so that its address is not used again.
        self._met: dict[int, tuple[int, Any]] = {}
        #: True if all parts of the value could be taken apart.
        self.is_complete = True

    def of(self, value: Any) -> bytes:
        """Return the identity of a value."""
        kind = type(value)
        if kind in _SCALARS:
            return digest(kind.__name__.encode(), repr(value).encode("utf-8", "surrogatepass"))
        if isinstance(value, Input) and self._promise is not None:
            return self._promise(value, self)
        if (met := self._met.get(id(value))) is not None:
            return digest(b"met", b"%d" % met[0])
        self._met[id(value)] = len(self._met), value
        return self._rule_for(kind)(self, value)

    def whole(self, value: Any) -> bytes:
        """Return the identity of a value by itself; `unknown` if it is nested too deeply."""
        try:
            return self.of(value)
        except RecursionError:
            return self.unknown()

    def unknown(self) -> bytes:
        """Return the identity of a value that cannot be taken apart: it matches nothing, not even itself."""
        self.is_complete = False
        return os.urandom(DIGEST_SIZE)

    def sequence(self, tag: bytes, values: Iterable[Any]) -> bytes:
        """Return the identity of several values in order."""
        return digest(tag, *[self.of(value) for value in values])

    def mapping(self, value: Any) -> bytes:
        """Return the identity of a dictionary, in its order."""
        return self.sequence(b"dict", (each for pair in value.items() for each in pair))

    def unordered(self, values: Iterable[Any]) -> bytes:
        """Return the identity of a set.

        The order of a set depends on hashes. So each member is taken as if it were the first, and the identities are
        sorted.
        """
        found, before = [], len(self._met)
        for value in values:
            found.append(self.of(value))
            while len(self._met) > before:
                self._met.popitem()
        return digest(b"set", *sorted(found))


Rule = Callable[[ValueWalk, Any], bytes]
