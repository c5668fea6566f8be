"""Walks through a value to compute the value's identity, a digest by which a later run recognizes the same value.

The walk takes the value apart by rules, and digests the parts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from typing import Any, Final

from handout.graph.output import Input
from handout.serialization.calls import PLAIN_TYPES
from handout.serialization.user_objects import is_interruption

__all__ = ["DIGEST_SIZE", "Rule", "ValueWalk", "digest", "plain_text"]

#: The size of an identity in bytes.
DIGEST_SIZE: Final = 16

#: Integers with more bits are written in base 16. A program may lower Python's limit to 640 digits.
_MAX_BITS: Final = 2_000
#: Of longer texts and bytes, a digest is written.
_MAX_CHARACTERS: Final = 1 << 16

_SCALARS = frozenset({*PLAIN_TYPES, type(Ellipsis), type(NotImplemented)})


def digest(*parts: bytes | memoryview) -> bytes:
    """Return the digest of these parts, one after another."""
    made = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for part in parts:
        made.update(part)
    return made.digest()


def plain_text(value: Any) -> str:
    """Return the text of a plain value, such as a number. Different values of one type have different texts.

    Python refuses to write an integer of more than 4,300 digits in decimal. The ``repr`` of bytes takes up to four
    times their memory. So large values have other texts than their ``repr``.
    """
    kind = type(value)
    if kind is int and value.bit_length() > _MAX_BITS:
        return f"{value:#x}"
    if (kind is str or kind is bytes) and len(value) > _MAX_CHARACTERS:
        data = value if kind is bytes else value.encode("utf-8", "surrogatepass")
        return f"<{kind.__name__} {digest(data).hex()}>"
    return repr(value)


class ValueWalk:
    """One walk through a value.

    The walk numbers the values in the order in which it meets them. If it meets a value again, it digests only the
    value's number. So the walk ends even if a value contains itself.

    Args:
        rule_for: Returns the rule for a type.
        promise: Returns the identity of the value that an output or an `Arg` stands for. None: the walk takes an output
            apart like any other value.
        sources: The digests of modules that were computed before, by top-level name. The walk adds the digests that it
            computes. Several walks can share this dictionary.
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
        #: By memory address: the number of each value that the walk has met, and the value. The value is kept so that
        #: no other value gets its address.
        self._met: dict[int, tuple[int, Any]] = {}
        #: False once a part of the value could not be taken apart.
        self.is_complete = True

    def of(self, value: Any) -> bytes:
        """Return the identity of a value."""
        kind = type(value)
        if kind in _SCALARS:
            return digest(kind.__name__.encode(), plain_text(value).encode("utf-8", "surrogatepass"))
        if issubclass(kind, Input) and self._promise is not None:  # `isinstance` would ask for the ``__class__``
            return self._promise(value, self)
        if (met := self._met.get(id(value))) is not None:
            return digest(b"met", b"%d" % met[0])
        self._met[id(value)] = len(self._met), value
        return self._rule_for(kind)(self, value)

    def whole(self, value: Any) -> bytes:
        """Return the identity of the value that the walk is for.

        If the value is nested too deeply for a walk, or raises an error when its parts are read, the identity matches
        nothing.
        """
        try:
            return self.of(value)
        except BaseException as error:  # a property or an iterator of a user's class may raise anything
            if is_interruption(error):
                raise
            return self.unknown()

    def unknown(self) -> bytes:
        """Return a random identity, which matches no other, for a value that cannot be taken apart."""
        self.is_complete = False
        return os.urandom(DIGEST_SIZE)

    def sequence(self, tag: bytes, values: Iterable[Any]) -> bytes:
        """Return the identity of several values in order. ``tag`` tells sequences of different kinds apart."""
        return digest(tag, *[self.of(value) for value in values])

    def mapping(self, value: Any) -> bytes:
        """Return the identity of a dictionary, which depends on the order of the items."""
        return self.sequence(b"dict", (each for pair in value.items() for each in pair))

    def unordered(self, values: Iterable[Any]) -> bytes:
        """Return the identity of a set.

        The order of a set depends on hashes, which may differ between processes. So the walk treats each member as if
        it were the first one, and sorts the members' identities.
        """
        found, before = [], len(self._met)
        for value in values:
            found.append(self.of(value))
            while len(self._met) > before:
                self._met.popitem()
        return digest(b"set", *sorted(found))


#: Takes a value of a certain type apart and returns the value's identity.
Rule = Callable[[ValueWalk, Any], bytes]
