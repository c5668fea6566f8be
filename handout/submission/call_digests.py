"""Digests of the calls, functions and values of a run, of which `run_identities` makes the identities of tasks.

The bytes of the calls, functions and values are made once, before the run begins. So what the caller changes later
makes no difference. Digests of calls and functions are made together with these bytes. Values may be large, so their
digests are made only when a later run needs them.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from handout.project.package import Package
from handout.serialization.file import mapped_file, stamp_of
from handout.serialization.pickling import Segment, Snapshot
from handout.slices import Slices, is_slice_end
from handout.submission.function_identity import SIZE, digest, timeless

__all__ = ["CallDigests", "Digester", "ValueDigest", "is_settled"]

#: Bytes that are digested in one slice. They take 3 to 10 ms.
_PIECE: Final = 1 << 22
#: The pickler writes what is not a large text or large bytes in segments of at most this many bytes.
_FRAME: Final = 1 << 18
#: A file that was changed at least so many nanoseconds ago gets another time with its next change. The coarsest common
#: clock of a file system, that of FAT, has steps of 2 s. A file with a time in the future counts as changed just now.
_SETTLED_NS: Final = 3_000_000_000


# ---- values --------------------------------------------------------------------------------------------------


class ValueDigest:
    """The digest of a value of the caller. It is made from the value's bytes when it is first asked for."""

    __slots__ = ("_known", "_parts", "_versions")

    def __init__(self, parts: Sequence[Callable[[], Slices[bytes]]]) -> None:
        """Start without a digest. Each part returns a digest of some of the value's bytes."""
        self._parts = parts
        self._versions = b""
        self._known: bytes | None = None

    def add(self, versions: bytes) -> None:
        """Let the digest depend on the versions of the modules whose classes and functions the value refers to."""
        self._versions = versions

    def made(self) -> Slices[bytes]:
        """Return the digest."""
        known = self._known
        if known is None:
            found = [self._versions]
            for part in self._parts:
                found.append((yield from part()))
            known = self._known = digest(*found)
            self._parts = ()
        return known


def is_settled(stamp: tuple[int, ...]) -> bool:
    """Return True if the next change of a file with this stamp will give it another stamp."""
    return time.time_ns() - max(stamp[-2:]) >= _SETTLED_NS


def _of_bytes(data: Segment) -> Slices[bytes]:
    made = hashlib.sha256()
    view = memoryview(data).cast("B")
    for start in range(0, view.nbytes, _PIECE):
        made.update(view[start : start + _PIECE])
        yield
    return made.digest()[:SIZE]


def _of_file(path: str, stamp: tuple[int, ...]) -> Slices[bytes]:
    """Return the digest of a file's content; a random digest if the file has changed since it had this stamp."""
    made = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            is_same = stamp_of(os.fstat(file.fileno())) == stamp
            while is_same and (piece := file.read(_PIECE)):
                made.update(piece)
                yield
            is_same = is_same and stamp_of(os.fstat(file.fileno())) == stamp
    except OSError:
        is_same = False
    return made.digest()[:SIZE] if is_same else os.urandom(SIZE)


def _known(made: bytes) -> Slices[bytes]:
    yield from ()
    return made


# ---- what the encoder notes ----------------------------------------------------------------------------------


class CallDigests:
    """The digests of what one run sends."""

    __slots__ = ("_calls", "functions", "values")

    def __init__(self, calls: bytes, functions: Sequence[bytes], values: Mapping[int, ValueDigest]) -> None:
        self._calls = calls
        #: For each entry of `EncodedRun.functions`.
        self.functions = functions
        #: By object number.
        self.values = values

    def call(self, task: int) -> bytes:
        """Return the digest of a task's arguments, in which its inputs have only their places."""
        return self._calls[SIZE * task : SIZE * (task + 1)]


class Digester:
    """Makes the digests while the encoder of a run makes the bytes.

    Args:
        snapshot: The snapshot of the run.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._serial = snapshot.serial
        self._calls = bytearray()
        self._functions: list[bytes] = []
        self._values: dict[int, ValueDigest] = {}
        #: The modules that calls, functions and values refer to, if there are any.
        self._call_modules: dict[int, frozenset[str]] = {}
        self._function_modules: dict[int, frozenset[str]] = {}
        self._value_modules: dict[int, frozenset[str]] = {}
        #: The memory of values that may change later: the parts of a value's digest, and the index of one of them.
        self._unsettled: list[tuple[list[Callable[[], Slices[bytes]]], int]] = []

    def call(self, blob: bytes, modules: Iterable[str] = (), by_value: bool = False) -> None:
        """Note the next task's call, without the paths of the elements that are taken from its result."""
        if modules:
            self._call_modules[len(self._calls) // SIZE] = frozenset(modules)
        self._calls += hashlib.sha256(timeless(blob, self._serial) if by_value else blob).digest()[:SIZE]

    def function(self, made: bytes, modules: Iterable[str]) -> None:
        """Note the next function, of which `FunctionDigests` has made a digest."""
        self._function_modules[len(self._functions)] = frozenset(modules)
        self._functions.append(made)

    def value(self, number: int, segments: Sequence[Segment], modules: Iterable[str], by_value: bool) -> None:
        """Note a value."""
        parts: list[Callable[[], Slices[bytes]]] = []
        for segment in segments:
            parts.append(partial(_of_bytes, segment))
            if isinstance(segment, bytes):
                if by_value and len(segment) <= _FRAME:
                    parts[-1] = partial(_known, digest(timeless(segment, self._serial)))
                continue
            file = mapped_file(segment) if isinstance(segment, memoryview) else None
            if file is not None:
                parts[-1] = partial(_of_file, *file)
            if file is None or not is_settled(file[1]):
                self._unsettled.append((parts, len(parts) - 1))
        self._values[number] = ValueDigest(parts)
        if modules:
            self._value_modules[number] = frozenset(modules)

    @property
    def is_unsettled(self) -> bool:
        """True if `settle` has something to do."""
        return bool(self._unsettled)

    def settle(self) -> Slices[None]:
        """Make the digests of memory that may change later."""
        while self._unsettled:
            parts, at = self._unsettled.pop()
            parts[at] = partial(_known, (yield from parts[at]()))

    def finish(self, packages: Mapping[str, Package]) -> Slices[CallDigests]:
        """Return the digests.

        Args:
            packages: The user's own packages that the run sends, by top-level name.
        """
        versions = _Versions(packages)
        calls = self._calls
        for seen, (task, modules) in enumerate(self._call_modules.items()):
            if is_slice_end(seen):
                yield
            if made := versions.of(modules):
                at = SIZE * task
                calls[at : at + SIZE] = digest(calls[at : at + SIZE], made)
        for index, modules in self._function_modules.items():
            self._functions[index] = digest(self._functions[index], versions.of(modules))
        for number, modules in self._value_modules.items():
            self._values[number].add(versions.of(modules))
        return CallDigests(bytes(calls), self._functions, self._values)


class _Versions:
    """The versions of the user's own packages. A package gets another version when something that it sends changes."""

    def __init__(self, packages: Mapping[str, Package]) -> None:
        self._packages = packages
        self._known: dict[frozenset[str], bytes] = {}

    def of(self, modules: frozenset[str]) -> bytes:
        """Return the versions of the packages of these modules, and of those that they import, directly or not.

        The text is empty if none of the modules is the user's own.
        """
        known = self._known.get(modules)
        if known is None:
            queue, found = [module.partition(".")[0] for module in modules], dict[str, int]()
            while queue:
                package = self._packages.get(top := queue.pop())
                if package is not None and top not in found:
                    found[top] = package.version
                    queue.extend(package.imports)
            known = self._known[modules] = repr(sorted(found.items())).encode() if found else b""
        return known
