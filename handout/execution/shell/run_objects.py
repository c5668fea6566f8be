"""Objects of one run that the controller holds: what it supplies, and results that came to it."""

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
    """An object in a file of its own; it is opened while somebody reads it, for there may be thousands."""

    path: Path
    nbytes: int
    #: Whether it goes with the object.
    spilled: bool = False


@dataclass(frozen=True, slots=True)
class _Later:
    """An object that somebody else has, and gives when it is needed."""

    read: Callable[[], bytes]
    nbytes: int


_Held = bytes | bytearray | memoryview | list[Segment] | _File | _Later


class RunObjects:
    """Bytes by object number; nothing is unpickled before somebody asks for the value.

    Args:
        values: What the controller supplies, by number. Does not count towards the bound.
        max_memory: Bytes of results to hold in memory; whoever fetches more brings a file.
    """

    def __init__(self, values: Mapping[int, Sequence[Segment]] | None = None, max_memory: int = 1 << 30) -> None:
        self.max_memory = max_memory
        self._spill = TempFolder("handout-spill-")
        #: Bytes of results in memory.
        self.nbytes = 0
        #: Bytes of memory promised to results that are on their way.
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
        """Promise memory to a result that is on its way, where there is enough left."""
        if nbytes > self.memory_left:
            return False
        self.claimed += nbytes
        return True

    def release(self, nbytes: int) -> None:
        """Take a promise back: the result is here, or does not come."""
        self.claimed -= nbytes

    def put(self, number: int, data: bytes | bytearray | memoryview | IO[bytes], nbytes: int) -> None:
        """Hold an object that arrived; one that is here already stays as it is.

        Args:
            number: Of the object.
            data: Its bytes, or a file of `new_file` that holds them.
            nbytes: How many.
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
        """A new file for a result that there is no memory for, open for writing; its name is that of the path.

        Files have names, rather than descriptors that stay open: there may be more of them than descriptors.
        """
        descriptor, path = tempfile.mkstemp(dir=self._spill.path)
        os.close(descriptor)
        return open(path, "w+b")

    def put_file(self, number: int, path: Path, nbytes: int) -> None:
        """`put` for an object whose bytes are in a file that stays."""
        if number not in self._held:
            self._held[number] = _File(path, nbytes)

    def put_later(self, number: int, read: Callable[[], bytes], nbytes: int) -> None:
        """`put` for an object that is read each time somebody needs it."""
        if number not in self._held:
            self._held[number] = _Later(read, nbytes)

    def put_new(self, number: int, data: bytes) -> None:
        """`put` for results that come as a whole, once each; what there is no memory for goes to a file."""
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
        """An object's bytes, in parts, or None where it is not here.

        Raises:
            OSError: Its file cannot be read.
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
        """An object's bytes where they are here, in memory, and at most `limit` many."""
        held = self._held.get(number)
        if type(held) is bytes:
            return held if len(held) <= limit else None
        if held is None or isinstance(held, _File | _Later) or self.size(number) > limit:
            return None
        return b"".join(held) if isinstance(held, list) else bytes(held)

    def size(self, number: int) -> int:
        """How many bytes an object has that is here."""
        held = self._held.get(number)
        if isinstance(held, _File | _Later):
            return held.nbytes
        return sum(memoryview(segment).nbytes for segment in self.segments(number) or ())

    def value(self, number: int, load: Callable[[Segment], Any] = loads) -> Any:
        """Unpickle an object, anew each time, with ``load``.

        Raises:
            KeyError: It is not here.
        """
        segments = self.segments(number)
        if segments is None:
            raise KeyError(number)
        data = segments[0] if len(segments) == 1 else b"".join(segments)
        # Read-only, so that what is loaded owns its buffers: writing to a result must not change the object.
        return load(memoryview(data).toreadonly())

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget objects that nothing needs any more."""
        for number in numbers:
            held = self._held.pop(number, None)
            if isinstance(held, bytes | bytearray | memoryview):
                self.nbytes -= len(held)
            elif isinstance(held, _File) and held.spilled:
                held.path.unlink()
