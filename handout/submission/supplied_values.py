"""The objects of a run, and the bytes of those that the controller supplies: values and large arguments."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from handout.graph.stored import Home
from handout.serialization import diagnosis
from handout.serialization.file import File
from handout.serialization.pickling import Segment, Snapshot

__all__ = ["LARGE", "CodeWatch", "Dump", "SuppliedValues", "own_segments", "size_of"]

#: An argument of more than this many bytes becomes a separate object, which travels to each host only once.
LARGE = 65536

Dump = Callable[[], Sequence[Segment]]
"""Returns a value as bytes."""


class SuppliedValues:
    """The objects of a run, and the bytes of those that the controller supplies.

    Args:
        producers: For each object that exists already, the task that makes it, or -1 if the controller supplies it.
        snapshot: The snapshot of the run. Default: a new one.
    """

    def __init__(self, producers: Iterable[int] = (), snapshot: Snapshot | None = None) -> None:
        self.snapshot = snapshot or Snapshot()
        self.producers: list[int] = list(producers)
        self.nbytes: list[int] = [-1] * len(self.producers)
        self.values: dict[int, list[Segment]] = {}
        #: The objects that are stored on hosts already.
        self.borrowed: dict[int, Home] = {}
        #: The numbers of the objects that large arguments became, by the ``id`` of the argument.
        self.large: dict[int, int] = {}
        #: These arguments. A list that contains one may change between two slices, so the encoder keeps them alive.
        #: Otherwise another object could get the same ``id``.
        self.kept: list[Any] = []
        #: Numbers of the objects that hold code by value. A task that takes such an object needs the controller's
        #: version of Python.
        self.code_objects: set[int] = set()
        #: How many bytes of objects and functions the run sends to a host that needs them all.
        self.sent = 0

    def hold(self, number: int, value: Any, dump: Dump | None = None) -> None:
        """Pickle a value, and keep its bytes as the object with this number.

        Args:
            number: The number.
            value: The value.
            dump: Returns the bytes of the value. None: the value is pickled as it is.
        """
        with CodeWatch(self.snapshot) as code:
            kept = own_segments(dump() if dump else diagnosis.dumps_or_diagnose(value, "value", self.snapshot))
        self.values[number] = kept
        self.nbytes[number] = size_of(kept)
        self.sent += self.nbytes[number]
        self.note_held(number, kept, code)
        if code.seen:
            self.code_objects.add(number)

    def note_held(self, number: int, segments: Sequence[Segment], code: CodeWatch) -> None:
        """Note that a value was pickled. A subclass may make a digest of its bytes."""

    def borrow(self, number: int, home: Home) -> None:
        """Note that an object is stored on hosts already."""
        self.borrowed[number] = home
        self.nbytes[number] = home.nbytes
        self.snapshot.modules.update(home.modules)
        if home.holds_code:
            self.code_objects.add(number)

    def number_of(self, home: Home) -> int:
        """Make a stored object an object of this run, unless it is one already. Return its number."""
        number = self.large.get(id(home))
        if number is None:
            number = self.large[id(home)] = len(self.producers)
            self.kept.append(home)
            self.producers.append(-1)
            self.nbytes.append(-1)
            self.borrow(number, home)
        return number

    def is_large(self, arg: Any) -> bool:
        """Return True if an argument is an object already, or is known to become one before it is pickled."""
        return id(arg) in self.large or _is_known_large(arg)

    def enlist(self, arg: Any, dump: Dump | None = None) -> int:
        """Make an argument an object of its own, unless it is one already. Return the number of the object.

        ``dump`` is an argument of `hold`.
        """
        number = self.large.get(id(arg))
        if number is None:
            number = self.large[id(arg)] = len(self.producers)
            self.kept.append(arg)
            self.producers.append(-1)
            self.nbytes.append(-1)
            self.hold(number, arg, dump)
        return number


class CodeWatch:
    """A context manager. After its block, `seen` is True if the block has pickled code by value.

    `modules` then has the names of the modules to which the block has referred.

    It is a class because ``contextlib.contextmanager`` would take as much time as the pickling itself.
    """

    __slots__ = ("before", "modules", "modules_before", "seen", "snapshot")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.before, self.modules_before = snapshot.by_value, snapshot.modules
        self.seen = False
        self.modules: set[str] = set()

    def __enter__(self) -> CodeWatch:
        self.snapshot.by_value, self.snapshot.modules = False, self.modules
        return self

    def __exit__(self, *_: object) -> None:
        self.seen = self.snapshot.by_value
        self.snapshot.by_value = self.before or self.seen
        self.modules = self.snapshot.modules
        self.snapshot.modules = self.modules_before
        self.snapshot.modules |= self.modules


_SIZED = frozenset({str, bytes})


def _is_known_large(arg: Any) -> bool:
    """Return True for a text, bytes or a file of more than `LARGE` bytes, and for a folder of any size.

    To pickle a folder copies its files, so this must happen only once.
    """
    kind = type(arg)
    if kind in _SIZED:
        return len(arg) > LARGE
    if kind is not File:
        return False
    try:
        status = os.stat(arg.path)
    except OSError:
        return False  # the error of the attempt to pickle it says more
    return stat.S_ISDIR(status.st_mode) or status.st_size > LARGE


def size_of(segments: Sequence[Segment]) -> int:
    """Return how many bytes the segments have together."""
    if len(segments) == 1 and type(segments[0]) is bytes:
        return len(segments[0])
    return sum(memoryview(segment).nbytes for segment in segments)


def own_segments(segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments, with a copy in place of each segment whose bytes could still change."""
    return [_own(segment) for segment in segments]


def _own(segment: Segment) -> Segment:
    if isinstance(segment, bytes) or (isinstance(segment, memoryview) and segment.readonly and _is_frozen(segment)):
        return segment
    return bytes(segment)


def _is_frozen(view: memoryview) -> bool:
    """Return False if the bytes of a read-only view may change, because a writable array has the same memory.

    So it is with the arrays that a table of pandas hands out.
    """
    owner: Any = view.obj
    numpy = sys.modules.get("numpy")
    while numpy is not None and isinstance(owner, numpy.ndarray) and owner.base is not None:
        owner = owner.base
    try:
        return memoryview(owner).readonly
    except TypeError:
        return False  # numpy made the array from an object that only tells its address
