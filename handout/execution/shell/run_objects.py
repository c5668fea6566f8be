"""The objects of one run that the controller holds: values from the caller, and results from hosts."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from handout.serialization.pickling import Segment, loads
from handout.serialization.temp_folder import TempFolder

__all__ = ["RunObjects"]


@dataclass(frozen=True, slots=True)
class _File:
    """An object in a file of its own. The file is open only while it is read, because many objects may have files."""

    path: Path
    nbytes: int
    #: True if the file is deleted when the object is dropped.
    spilled: bool = False


@dataclass(frozen=True, slots=True)
class _Later:
    """An object that is read from the journal each time it is needed."""

    read: Callable[[], bytes]
    nbytes: int


_Held = bytes | bytearray | memoryview | list[Segment] | _File | _Later


class RunObjects:
    """The bytes of objects, by object number. An object is unpickled only when `value` is called.

    The bytes of one object may be split into several segments.

    Args:
        values: Pickled values from the caller, by object number. They do not count towards ``max_memory``.
        max_memory: Bytes of results to hold in memory. A result that does not fit is written to a file.
    """

    def __init__(self, values: Mapping[int, Sequence[Segment]] | None = None, max_memory: int = 1 << 30) -> None:
        self.max_memory = max_memory
        self._spill = TempFolder("handout-spill-")
        #: Bytes of results in memory.
        self.nbytes = 0
        #: Bytes of memory that are reserved for arriving results.
        self.claimed = 0
        self._held: dict[int, _Held] = {number: list(segments) for number, segments in (values or {}).items()}

    def __contains__(self, number: object) -> bool:
        return number in self._held

    def __len__(self) -> int:
        return len(self._held)

    @property
    def memory_left(self) -> int:
        """Bytes that may still be held in memory."""
        left = self.max_memory - self.nbytes - self.claimed
        return left if left > 0 else 0

    def claim(self, nbytes: int) -> bool:
        """Reserve memory for an arriving result. Return False if there is not enough left."""
        if nbytes > self.memory_left:
            return False
        self.claimed += nbytes
        return True

    def release(self, nbytes: int) -> None:
        """Free reserved memory, because the result has arrived or will not come."""
        self.claimed -= nbytes

    def put(self, number: int, data: bytes | bytearray | memoryview | IO[bytes], nbytes: int) -> None:
        """Hold an object that has arrived. Do nothing if the object is already held.

        Args:
            number: The object's number.
            data: The object's bytes, or a file that `new_file` returned and that contains these bytes.
            nbytes: The size of the object in bytes.
        """
        if isinstance(data, bytes | bytearray | memoryview):
            if number not in self._held:
                self.nbytes += nbytes
                self._held[number] = data
            return
        data.close()
        path = Path(data.name)
        if number in self._held:
            path.unlink()
        else:
            self._held[number] = _File(path, nbytes, spilled=True)

    def new_file(self) -> IO[bytes]:
        """Return a new open file for a result that does not fit into memory. Its ``name`` is its path.

        `put` closes the file and keeps only its path, because there may be more results than file descriptors.
        """
        descriptor, path = tempfile.mkstemp(dir=self._spill.path)
        os.close(descriptor)
        return open(path, "w+b")

    def put_file(self, number: int, path: Path, nbytes: int) -> None:
        """Hold an object whose bytes are in a file that is not deleted with the object."""
        if number not in self._held:
            self._held[number] = _File(path, nbytes)

    def put_later(self, number: int, read: Callable[[], bytes], nbytes: int) -> None:
        """Hold an object by a function. Each time that the object's bytes are needed, ``read`` returns them."""
        if number not in self._held:
            self._held[number] = _Later(read, nbytes)

    def put_new(self, number: int, data: bytes) -> None:
        """Hold a complete result: in memory, or in a file if there is not enough memory."""
        held = self._held
        if number in held:
            return
        if len(data) <= self.memory_left:
            held[number] = data
            self.nbytes += len(data)
        else:
            file = self.new_file()
            file.write(data)
            self.put(number, file, len(data))

    def segments(self, number: int) -> list[Segment] | None:
        """Return the segments of an object, or None if the object is not held.

        Raises:
            OSError: The object's file cannot be read.
        """
        held = self._held.get(number)
        if held is None:
            return None
        if isinstance(held, _File):
            if not held.nbytes:
                return [b""]
            with held.path.open("rb") as file:
                return [memoryview(mmap.mmap(file.fileno(), held.nbytes, access=mmap.ACCESS_READ))]
        if isinstance(held, _Later):
            return [held.read()]
        return held if isinstance(held, list) else [held]

    def small(self, number: int, limit: int) -> bytes | None:
        """Return an object's bytes, or None if they are not in memory or are more than ``limit`` bytes."""
        held = self._held.get(number)
        if type(held) is bytes:
            return held if len(held) <= limit else None
        if held is None or isinstance(held, _File | _Later) or self.size(number) > limit:
            return None
        return b"".join(held) if isinstance(held, list) else bytes(held)

    def size(self, number: int) -> int:
        """Return the size of a held object in bytes."""
        held = self._held.get(number)
        if isinstance(held, _File | _Later):
            return held.nbytes
        return sum(memoryview(segment).nbytes for segment in self.segments(number) or ())

    def value(self, number: int, load: Callable[[Segment], Any] = loads) -> Any:
        """Unpickle an object with ``load``. Each call makes a new value.

        Raises:
            KeyError: The object is not held.
        """
        segments = self.segments(number)
        if segments is None:
            raise KeyError(number)
        data = segments[0] if len(segments) == 1 else b"".join(segments)
        # `load` copies the bytes of a read-only view. Without a copy, writing to the value would change the object.
        return load(memoryview(data).toreadonly())

    def drop(self, numbers: Iterable[int]) -> None:
        """Delete objects that no task and no caller needs any more."""
        for number in numbers:
            held = self._held.pop(number, None)
            if isinstance(held, bytes | bytearray | memoryview):
                self.nbytes -= len(held)
            elif isinstance(held, _File) and held.spilled:
                held.path.unlink()
