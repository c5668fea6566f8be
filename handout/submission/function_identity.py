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
from handout.serialization.definitions import Blob
from handout.serialization.pickling import Snapshot, dumps, write_definition
from handout.serialization.user_objects import is_interruption

__all__ = ["SIZE", "FunctionDigests", "TimelessSnapshot", "digest", "path_digest", "timeless"]

#: The size of a digest in bytes.
SIZE: Final = 16


def digest(*parts: bytes | bytearray | memoryview) -> bytes:
    """Return the digest of these parts, one after another."""
    return hashlib.sha256(parts[0] if len(parts) == 1 else b"".join(parts)).digest()[:SIZE]


class TimelessSnapshot(Snapshot):
    """Pickles what two runs have in common. Nothing that it has written may be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.serial = 0

    def write(self, obj: Any) -> Blob:
        """Write the definition, but do not note that this process has sent it."""
        return write_definition(self, obj)

    def marshalled(self, code: types.CodeType) -> tuple[Any, ...]:
        """Return the code without the names of files and the numbers of lines."""
        return functions_by_value.marshalled(_placeless(code))


def _placeless(code: types.CodeType) -> types.CodeType:
    constants = tuple([_placeless(each) if type(each) is types.CodeType else each for each in code.co_consts])
    return code.replace(co_filename="", co_firstlineno=1, co_linetable=b"", co_consts=constants)


class FunctionDigests:
    """Makes the digests of the functions of one run.

    A graph may have thousands of lambdas and closures, and to pickle these twice would make such a run a fifth slower.
    So their digests are made from the bytes that travel, without the serial of the run. Such a function is equal only
    to one that was defined in the same line of the same file.

    Args:
        snapshot: The snapshot of the run.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._serial = snapshot.serial
        self._timeless = TimelessSnapshot()

    def of(self, fn: Callable[..., Any], blob: bytes, is_by_value: bool) -> bytes:
        """Return the digest of a function. If the function cannot be pickled twice, the digest matches no other.

        Args:
            fn: The function.
            blob: The function as it travels.
            is_by_value: True if these bytes hold code.
        """
        if not is_by_value:
            return digest(blob)
        if type(fn) is types.FunctionType and "<" in fn.__qualname__:  # "<lambda>" or "outer.<locals>.inner"
            return digest(timeless(blob, self._serial))
        try:
            return digest(*dumps(fn, self._timeless))
        except BaseException as error:  # a __reduce__ may raise anything
            if is_interruption(error):
                raise
            return os.urandom(SIZE)


def timeless(blob: bytes, serial: int) -> bytes:
    """Return bytes that hold code by value without the serial of the run's snapshot, which differs in each run."""
    return blob.replace(serial.to_bytes(8, "little"), bytes(8))  # as pickle writes the number


def path_digest(path: Path) -> bytes:
    """Return the digest of a path to an element of a result. It is random if a key cannot be pickled."""
    if all(type(key) in PLAIN_TYPES for _, key in path):
        return digest(pickle.dumps(path, 5))
    try:
        return digest(*dumps(path, TimelessSnapshot()))
    except BaseException as error:  # a __reduce__ may raise anything
        if is_interruption(error):
            raise
        return os.urandom(SIZE)
