"""Gives calls that take equal large arguments one stored object, so that the bytes travel to each host only once."""

from __future__ import annotations

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from handout.execution.shell.driver import Driver
from handout.execution.shell.run_objects import RunObjects
from handout.execution.stored_object import StoredObject, hold
from handout.graph.stored import Home
from handout.serialization.pickling import Segment
from handout.submission.call_values import SharedValue, are_equal
from handout.submission.supplied_values import size_of

__all__ = ["EqualArguments"]

#: Bytes of arguments that stay on hosts although no call takes them at present.
_MAX_IDLE: Final = 256 << 20
#: Seconds after the last call with a large argument, after which hosts drop all arguments that no call takes.
_IDLE_S: Final = 60.0
#: To make a stored object takes 0.5 ms of CPU time. So an argument of fewer bytes becomes one for its second call.
_AT_ONCE: Final = 1 << 20
#: Bytes at the beginning and at the end of an argument that are compared first.
_ENDS: Final = 4096

_Key = tuple[int, ...]


class EqualArgument:
    """An argument, and how many calls take it. Two arguments are only equal if they are the same object."""

    __slots__ = ("calls", "home", "key", "nbytes", "segments", "unfinished")

    def __init__(self, key: _Key, segments: Sequence[Segment]) -> None:
        self.key = key
        self.segments = segments
        self.nbytes = size_of(segments)
        #: The stored object. None if each call has sent the bytes itself so far.
        self.home: StoredObject | None = None
        self.calls = 0
        self.unfinished = 0


class TakenValues(NamedTuple):
    """The values of a call."""

    values: list[Sequence[Segment] | Home]
    #: The arguments among them that other calls may take too.
    arguments: list[EqualArgument]


class EqualArguments:
    """The large arguments of the calls of one cluster.

    A new argument is compared with the bytes of the earlier ones, which the controller has in memory in any case. A
    digest would take ten times as long, also for arguments that are equal to no other.

    An argument that no call takes stays on the hosts for a while, because the next call may take it. It stays until the
    next call if only one call has taken it. It goes if such arguments have more than 256 MiB, the oldest first, and
    60 s after the last call with a large argument.

    Only code in the event loop may use an object of this class.

    Args:
        driver: The driver of the cluster.
        next_run: Returns a run number that no other run of the cluster has.
    """

    def __init__(self, driver: Driver, next_run: Callable[[], int]) -> None:
        self._driver = driver
        self._next_run = next_run
        self._known: dict[_Key, list[EqualArgument]] = {}
        #: The arguments that no call takes at present. The one that was used last is at the end.
        self._idle: OrderedDict[EqualArgument, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_idle(self) -> bool:
        """True if there are arguments that no call takes now."""
        return bool(self._idle)

    def take(self, values: Sequence[Sequence[Segment] | Home]) -> TakenValues:
        """Note that a call takes these values. Return them with stored objects in place of large arguments.

        When the call has ended, the caller must call `give_back`.
        """
        taken = TakenValues([], [])
        for value in values:
            # The caller of a `SharedValue` decides itself which calls share it.
            if isinstance(value, Sequence) and not isinstance(value, SharedValue):
                argument = self._known_as(value)
                taken.arguments.append(argument)
                taken.values.append(value if argument.home is None else argument.home)
            else:
                taken.values.append(value)
        for each in [each for each in self._idle if each.calls == 1]:
            self._drop(each)
        return taken

    def _known_as(self, segments: Sequence[Segment]) -> EqualArgument:
        key = _key_of(segments)
        found = next((each for each in self._known.get(key, ()) if are_equal(each.segments, segments)), None)
        if found is None:
            found = EqualArgument(key, segments)
            self._known.setdefault(key, []).append(found)
        if found.home is None and (found.calls or found.nbytes >= _AT_ONCE):
            objects, number = RunObjects(), self._next_run()
            objects.supply(0, found.segments)
            found.home = hold(self._driver, number, objects, f"argument-{number}", found.nbytes)
        found.calls += 1
        found.unfinished += 1
        self._idle.pop(found, None)
        return found

    def give_back(self, arguments: Sequence[EqualArgument]) -> None:
        """Note that a call has ended that took these arguments."""
        for each in arguments:
            each.unfinished -= 1
            if not each.unfinished:
                self._idle[each] = None
        if self._driver.is_closed:
            self.drop_idle()
            return
        if arguments:
            self._wait()
        idle = sum(each.nbytes for each in self._idle)
        while idle > _MAX_IDLE:
            oldest = next(iter(self._idle))
            idle -= oldest.nbytes
            self._drop(oldest)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_IDLE_S, self.drop_idle)

    def close(self) -> None:
        """Drop the arguments, because the cluster was closed: now, or when their last call has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self.drop_idle()

    def drop_idle(self) -> None:
        """Have hosts drop the arguments that no call takes at present."""
        for each in list(self._idle):
            self._drop(each)

    def _drop(self, argument: EqualArgument) -> None:
        del self._idle[argument]
        self._known[argument.key].remove(argument)
        if not self._known[argument.key]:
            del self._known[argument.key]
        if argument.home is not None:
            argument.home.let_go()


def _key_of(segments: Sequence[Segment]) -> _Key:
    """Return a key that is the same for equal segments, and differs for most others."""
    views = [memoryview(segment).cast("B") for segment in segments]
    ends = zlib.crc32(views[-1][-_ENDS:], zlib.crc32(views[0][:_ENDS]))
    return (ends, *[view.nbytes for view in views])
