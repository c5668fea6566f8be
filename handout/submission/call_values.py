"""The values that the large arguments of calls become. Calls that take the same argument can share one value."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, overload

from handout.graph.stored import Home
from handout.serialization import diagnosis
from handout.serialization.file import mapped_file
from handout.serialization.pickling import Segment, Snapshot
from handout.submission.call_digests import is_settled
from handout.submission.supplied_values import CodeWatch, Dump, SuppliedValues, own_segments

__all__ = ["CallValues", "SharedArguments", "SharedValue", "are_equal"]


class SharedValue(Sequence[Segment]):
    """The bytes of a large argument that several calls may take. Two values are only equal if they are the same object.

    Args:
        segments: The bytes, which do not change any more.
    """

    __slots__ = ("_segments", "is_known", "nbytes")

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self.nbytes = sum(memoryview(segment).nbytes for segment in segments)
        #: True while further calls may take the value, so that hosts keep it when a call has ended.
        self.is_known = False

    def __len__(self) -> int:
        return len(self._segments)

    @overload
    def __getitem__(self, index: int) -> Segment: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Segment]: ...

    def __getitem__(self, index: int | slice) -> Segment | Sequence[Segment]:
        return self._segments[index]


class _SharedArgument:
    """An argument that calls share, and how many calls take it."""

    __slots__ = ("arg", "calls", "unfinished")

    def __init__(self, arg: Any) -> None:
        #: The argument stays alive, so that no other object gets its identity.
        self.arg = arg
        self.calls = 0
        self.unfinished = 0


class SharedArguments:
    """The large arguments of some calls, with their values. Any thread may use it.

    An argument is found by its identity. Its present bytes are then compared with those of the earlier call. So if the
    caller has changed the argument in the meantime, the next calls get a new value. Comparing takes a tenth of the
    time that a digest would take.

    An argument is known as long as a call that takes it has not ended, and hosts keep its value as long as it is known.
    After that, an argument that only one call has taken stays known until another call begins without it. One that
    several calls have taken stays known if it is among those that were used last.

    Args:
        max_idle: Bytes of the arguments that no call takes at present and that stay known. The argument that was used
            last stays known in any case.
    """

    def __init__(self, max_idle: int) -> None:
        self._max_idle = max_idle
        self._lock = threading.Lock()
        self._known: dict[SharedValue, _SharedArgument] = {}
        #: The value of each argument, by the argument's identity.
        self._values: dict[int, SharedValue] = {}
        #: The values that no call takes at present. The one that was used last is at the end.
        self._idle: OrderedDict[SharedValue, None] = OrderedDict()
        #: Values that `end` has to return, because they are not known any more.
        self._gone: list[SharedValue] = []

    def __contains__(self, arg: object) -> bool:
        return id(arg) in self._values  # the argument with this identity is kept alive, so it is this one

    def value_of(self, arg: Any, segments: Sequence[Segment]) -> SharedValue:
        """Return the value of an argument whose bytes are at present ``segments``."""
        with self._lock:
            value = self._values.get(id(arg))
        if value is not None and are_equal(value, segments):
            return value
        found, value = value, SharedValue(own_segments(segments))
        with self._lock:
            if found is not None and found in self._idle:
                self._forget(found)  # the argument has changed
            self._values[id(arg)] = value
            self._known[value] = _SharedArgument(arg)
        return value

    def begin(self, values: Iterable[object]) -> None:
        """Note that a call takes these values. Those that are not shared make no difference."""
        with self._lock:
            for value in _shared(values):
                known = self._known.get(value)
                if known is not None:
                    known.calls += 1
                    known.unfinished += 1
                    value.is_known = True
                    self._idle.pop(value, None)
            for value in [value for value in self._idle if self._known[value].calls == 1]:
                self._forget(value)

    def end(self, values: Iterable[object]) -> list[SharedValue]:
        """Note that a call that took these values has ended. Return the values that are not known any more."""
        with self._lock:
            for value in _shared(values):
                self._note_end(value)
            idle = sum(value.nbytes for value in self._idle)
            while idle > self._max_idle and len(self._idle) > 1:
                oldest = next(iter(self._idle))
                idle -= oldest.nbytes
                self._forget(oldest)
            gone, self._gone = self._gone, []
            return gone

    def _note_end(self, value: SharedValue) -> None:
        known = self._known.get(value)
        if known is None:
            return
        known.unfinished -= 1
        if not known.unfinished and self._values.get(id(known.arg)) is value:
            self._idle[value] = None
        elif not known.unfinished:
            self._forget(value)  # the argument has changed

    def _forget(self, value: SharedValue) -> None:
        arg = self._known.pop(value).arg
        if self._values.get(id(arg)) is value:
            del self._values[id(arg)]
        self._idle.pop(value, None)
        value.is_known = False
        self._gone.append(value)

    def forget_unused(self) -> None:
        """Forget the arguments of which no call has begun, because a call could not be encoded."""
        with self._lock:
            for value in [value for value, known in self._known.items() if not known.calls]:
                self._forget(value)

    def clear(self) -> list[SharedValue]:
        """Forget all arguments, and return their values. Calls that have not ended keep the bytes of their values."""
        with self._lock:
            for value in list(self._known):
                self._forget(value)
            gone, self._gone = self._gone, []
            return gone


class CallValues(SuppliedValues):
    """The values of one call.

    Args:
        snapshot: The snapshot of the call.
        shared: The arguments that calls share. None if each call has values of its own.
        earlier: The values of the same call with another snapshot. Only values that hold code depend on the snapshot.
    """

    def __init__(
        self, snapshot: Snapshot, shared: SharedArguments | None = None, earlier: CallValues | None = None
    ) -> None:
        super().__init__(snapshot=snapshot)
        self._shared = shared
        self._earlier = earlier
        #: What the arguments became that are not stored objects, by number.
        self._held: dict[int, Sequence[Segment]] = {}

    def in_order(self) -> list[Sequence[Segment] | Home]:
        """Return the values and stored objects, in the order in which the call takes them."""
        return [self._held[n] if n in self._held else self.borrowed[n] for n in range(len(self.producers))]

    def is_large(self, arg: Any) -> bool:
        """Return True if an argument is an object already, or is known to become one; see `SuppliedValues`."""
        return super().is_large(arg) or (self._shared is not None and arg in self._shared)

    def hold(self, number: int, value: Any, dump: Dump | None = None) -> None:
        """Pickle an argument, and keep its bytes as the value with this number."""
        known = None if self._earlier is None else self._earlier.without_code(value)
        self._held[number] = known or self._pickle(number, value, dump)

    def without_code(self, arg: Any) -> Sequence[Segment] | None:
        """Return the value of an argument, if it holds no code."""
        number = self.large.get(id(arg), -1)
        return None if number in self.code_objects else self._held.get(number)

    def _pickle(self, number: int, value: Any, dump: Dump | None) -> Sequence[Segment]:
        with CodeWatch(self.snapshot) as code:
            segments = dump() if dump else diagnosis.dumps_or_diagnose(value, "value", self.snapshot)
        if code.seen:
            # The bytes are only right together with the snapshot of this call.
            self.code_objects.add(number)
        if code.seen or self._shared is None:
            return own_segments(segments)
        return self._shared.value_of(value, segments)


def _shared(values: Iterable[object]) -> list[SharedValue]:
    return [value for value in values if isinstance(value, SharedValue)]


def are_equal(kept: Sequence[Segment], new: Sequence[Segment]) -> bool:
    """Return True if two lists of segments have had the same bytes all the time, and are split in the same way."""
    return len(kept) == len(new) and all(map(_has_bytes, kept, new))


def _has_bytes(kept: Segment, new: Segment) -> bool:
    if memoryview(kept).nbytes != memoryview(new).nbytes:
        return False
    file = mapped_file(new) if isinstance(new, memoryview) else None
    if file is not None:
        # The earlier mapping shows the present content of the file, and hosts may have got another content. Only the
        # stamp of the file tells that it is the same.
        return is_settled(file[1]) and isinstance(kept, memoryview) and mapped_file(kept) == file
    # `==` of two views compares byte by byte and takes 20 times as long.
    return (kept if isinstance(kept, bytes) else bytes(kept)).startswith(new)
