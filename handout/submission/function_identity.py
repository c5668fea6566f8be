"""Makes the digest of a function, which is equal for a function that was defined again with the same code.

The digest is made from the bytes as which the function would travel, but without what differs between two equal
definitions: the names of files, the numbers of lines, and the names that runs give to namespaces and classes.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import types
from collections.abc import Callable
from typing import Any, Final

from handout.serialization import functions_by_value
from handout.serialization.calls import PLAIN_TYPES, Path
from handout.serialization.definitions import Blob, Definitions
from handout.serialization.pickling import Pickler, Snapshot, dumps, write_definition
from handout.serialization.user_objects import is_interruption

__all__ = ["digest", "function_digest", "path_digest"]

_SIZE: Final = 16


def digest(*parts: bytes | bytearray | memoryview) -> bytes:
    """Return the digest of these parts, one after another."""
    made = hashlib.blake2b(digest_size=_SIZE)
    for part in parts:
        made.update(part)
    return made.digest()


class _TimelessSnapshot(Snapshot):
    """Pickles what two runs have in common. Nothing that it has written may be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.serial = 0
        self._spaces: dict[int, int] = {}

    def write(self, obj: Any) -> Blob:
        """Write the definition, but do not note that this process has sent it."""
        return write_definition(self, obj)

    def marshalled(self, code: types.CodeType) -> tuple[Any, ...]:
        """Return the code without the names of files and the numbers of lines."""
        return functions_by_value.marshalled(_placeless(code))

    def key(self, space: dict[str, Any]) -> functions_by_value.Key:
        """Return a key that tells namespaces apart by their order."""
        self.kept_alive.append(space)
        return "", 0, self._spaces.setdefault(id(space), len(self._spaces))


def _placeless(code: types.CodeType) -> types.CodeType:
    constants = tuple([_placeless(each) if type(each) is types.CodeType else each for each in code.co_consts])
    return code.replace(co_filename="", co_firstlineno=1, co_linetable=b"", co_consts=constants)


def function_digest(fn: Callable[..., Any]) -> tuple[bytes, frozenset[str]]:
    """Return the digest of a function, and the names of the modules that it refers to.

    If the function cannot be pickled twice, the digest matches no other.
    """
    snapshot = _TimelessSnapshot()
    try:
        return digest(*dumps(fn, snapshot)), frozenset(snapshot.modules)
    except BaseException as error:  # a __reduce__ may raise anything
        if is_interruption(error):
            raise
        return os.urandom(_SIZE), frozenset()


def path_digest(path: Path) -> bytes:
    """Return the digest of a path to an element of a result. It is random if a key cannot be pickled."""
    if all(type(key) in PLAIN_TYPES for _, key in path):
        return digest(pickle.dumps(path, 5))
    try:
        return digest(*dumps(path, _TimelessSnapshot()))
    except BaseException as error:  # a __reduce__ may raise anything
        if is_interruption(error):
            raise
        return os.urandom(_SIZE)
