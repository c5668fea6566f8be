"""The objects of one run that the controller holds: values from the caller, and results from hosts."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handout.journal import checksums
from handout.journal.object_files import ObjectFile, damaged_file, read_whole
from handout.protocol.frames import Buffer
from handout.protocol.messages import INLINE
from handout.serialization.pickling import Segment, loads
from handout.serialization.temp_folder import TempFolder

__all__ = ["RunObjects", "SpillFile"]


class SpillFile:
    """A new file for a result that does not fit into memory.

    The file is open only during a write: more results may arrive at one time than a process may have open files.

    Args:
        folder: The folder that gets the file.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, folder: str) -> None:
        descriptor, name = tempfile.mkstemp(dir=folder)
        os.close(descriptor)
        self._digest = checksums.new_digest()
        self.path = Path(name)

    @property
    def digest(self) -> str:
        """The digest of the bytes that have been written; see `checksums.of_object`."""
        return self._digest.hexdigest()

    def write(self, data: Buffer) -> None:
        """Write the next bytes.

        Raises:
            OSError: The bytes cannot be written.
        """
        self._digest.update(data)
        with self.path.open("ab") as file:
            file.write(data)

    def remove(self) -> None:
        """Delete the file, because the result will not come."""
        _remove(self.path)


@dataclass(frozen=True, slots=True)
class _Later:
    """An object that is read from the journal each time it is needed."""

    read: Callable[[], bytes]
    nbytes: int


Load = Callable[[Segment], Any]
_Held = bytes | bytearray | memoryview | list[Segment] | ObjectFile | _Later


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

    def supply(self, number: int, segments: Sequence[Segment]) -> None:
        """Hold a pickled value from the caller. It does not count towards ``max_memory``."""
        self._held[number] = list(segments)

    def put(self, number: int, data: bytes | bytearray | memoryview | SpillFile, nbytes: int) -> None:
        """Hold an object that has arrived. Do nothing if the object is already held.

        Args:
            number: The object's number.
            data: The object's bytes, or a file from `new_file` that contains these bytes.
            nbytes: The size of the object in bytes.
        """
        if not isinstance(data, SpillFile):
            if number not in self._held:
                self.nbytes += nbytes
                self._held[number] = data
        elif number in self._held:
            data.remove()
        else:
            file = self._held[number] = ObjectFile(data.path, nbytes, data.digest)
            # A dropped object may still wait to be sent or to be written to the journal, so the file goes with the last
            # reference to it. The folder stays until then.
            weakref.finalize(file, _remove_own, data.path, os.getpid(), self._spill).atexit = False

    def new_file(self) -> SpillFile:
        """Return a new file for a result that does not fit into memory.

        Raises:
            OSError: The file cannot be made.
        """
        return SpillFile(self._spill.path)

    def put_file(self, number: int, path: Path, nbytes: int, digest: str) -> None:
        """Hold an object whose bytes are in a file that is not deleted with the object."""
        if number not in self._held:
            self._held[number] = ObjectFile(path, nbytes, digest)

    def put_later(self, number: int, read: Callable[[], bytes], nbytes: int) -> None:
        """Hold an object by a function. Each time that the object's bytes are needed, ``read`` returns them."""
        if number not in self._held:
            self._held[number] = _Later(read, nbytes)

    def put_new(self, number: int, data: bytes) -> None:
        """Hold a complete result: in memory, or in a file if there is not enough memory.

        Raises:
            OSError: The file cannot be written.
        """
        held = self._held
        if number in held:
            return
        if len(data) <= self.memory_left:
            held[number] = data
            self.nbytes += len(data)
        else:
            file = self.new_file()
            try:
                file.write(data)
                self.put(number, file, len(data))
            except OSError:
                file.remove()
                raise

    def is_lasting(self, number: int) -> bool:
        """Return True if an object is held, and can also be read when the run's journal is closed."""
        return not isinstance(self._held.get(number), _Later | None)

    def share(self, number: int, other: RunObjects, there: int) -> None:
        """Hold an object of another run, whose bytes both runs then share. Do nothing if the object is already held.

        Args:
            number: The object's number in this run.
            other: The objects of the other run.
            there: The object's number in the other run.
        """
        if number not in self._held:
            held = self._held[number] = other._held[there]
            if isinstance(held, bytes | bytearray | memoryview):
                self.nbytes += len(held)

    def segments(self, number: int) -> Sequence[Segment] | None:
        """Return the segments of an object, or None if the object is not held.

        An object of more than `INLINE` bytes in a file of its own is returned as an `ObjectFile`. The caller must
        compare the bytes that it reads with the file's digest before they are used.

        Raises:
            OSError: The object's file cannot be read.
            DamagedFileError: The object's file or its record in the journal is damaged.
            JournalError: The journal cannot be read.
        """
        held = self._held.get(number)
        return None if held is None else _segments(held)

    def file(self, number: int) -> ObjectFile | None:
        """Return the file of an object; None if the object is not in a file of its own."""
        held = self._held.get(number)
        return held if isinstance(held, ObjectFile) else None

    def small(self, number: int, limit: int) -> bytes | None:
        """Return an object's bytes, or None if they are not in memory or are more than ``limit`` bytes."""
        held = self._held.get(number)
        if type(held) is bytes:
            return held if len(held) <= limit else None
        if held is None or isinstance(held, ObjectFile | _Later) or self.size(number) > limit:
            return None
        return b"".join(held) if isinstance(held, list) else bytes(held)

    def size(self, number: int) -> int:
        """Return the size of a held object in bytes."""
        held = self._held.get(number)
        if isinstance(held, ObjectFile | _Later):
            return held.nbytes
        return sum(memoryview(segment).nbytes for segment in self.segments(number) or ())

    def value(self, number: int, load: Load = loads) -> Any:
        """Unpickle an object with ``load``; see `reader`. Each call makes a new value."""
        return self.reader(number)(load)

    def reader(self, number: int) -> Callable[[Load], Any]:
        """Return a function that unpickles an object, also after it was dropped. Any thread may call the function.

        The function raises:
            OSError: The object's file cannot be read.
            DamagedFileError: The object's file does not have the bytes that were written to it, or is not there.
            Exception: Unpickling raised it.

        Raises:
            KeyError: The object is not held.
        """
        held = self._held[number]
        return lambda load: _value(held, load)

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget objects that no task and no caller needs any more."""
        for number in numbers:
            held = self._held.pop(number, None)
            if isinstance(held, bytes | bytearray | memoryview):
                self.nbytes -= len(held)


def _segments(held: _Held) -> Sequence[Segment]:
    if isinstance(held, ObjectFile):
        if held.nbytes > INLINE:
            return held
        return [read_whole(held.path, held.nbytes, held.digest)]
    if isinstance(held, _Later):
        return [held.read()]
    return held if isinstance(held, list) else [held]


def _value(held: _Held, load: Load) -> Any:
    if isinstance(held, ObjectFile):
        return load(_read(held))
    segments = _segments(held)
    data = segments[0] if len(segments) == 1 else b"".join(segments)
    # `load` copies the bytes of a read-only view. Without a copy, writing to the value would change the object.
    return load(memoryview(data).toreadonly())


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:
        pass  # the file is gone, or its disk has failed; the folder is removed when the process ends


def _remove_own(path: Path, owner: int, folder: TempFolder) -> None:
    if os.getpid() == owner:  # a fork of the process must not remove the file when the fork frees the object
        _remove(path)


def _read(file: ObjectFile) -> memoryview:
    """Return the checked bytes of an object's file.

    Raises:
        OSError: The file cannot be read.
        DamagedFileError: The file does not have the bytes that were written to it, or is not there.
    """
    try:
        return read_whole(file.path, file.nbytes, file.digest)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise damaged_file(file.path, f"the file is not there any more ({error.strerror})") from error
