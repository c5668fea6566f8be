"""The objects of one run as columns: which hosts have them, which tasks use them, and which copies are under way.

A column has one entry for each object. An object is the result of a task, an element of a result, or a value that the
controller has from the beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from handout.scheduler.run_spec import RunSpec
from handout.slices import Slices, column, is_slice_end

__all__ = ["KEEP", "OUTPUT", "ObjectTable"]

#: Flags of an object. OUTPUT: the caller asked for the value of the object, so a copy goes to the controller. KEEP: the
#: object stays on its hosts after the run, or, as a value of an open run, between the tasks that take it.
OUTPUT, KEEP = 1, 2

_NONE: tuple[int, ...] = ()
_CONTROLLER = (0,)


class ObjectTable:
    """The columns of a run's objects, indexed by object number.

    The columns name a host by its index in the fleet. Index 0 is the controller.
    """

    __slots__ = (
        "awaited",
        "consumers",
        "copy_failures",
        "copying",
        "elements",
        "flags",
        "nbytes",
        "replicas",
        "stale_replicas",
        "uses",
    )

    def __init__(self, spec: RunSpec) -> None:
        # `of` fills the columns.
        #: Bytes of the object; -1 if not known.
        self.nbytes = list(spec.nbytes)
        #: Indices of the hosts that have the object, in ascending order. At first, the controller has the objects that
        #: no task makes, and no host has any object.
        self.replicas: list[tuple[int, ...]] = []
        #: Tasks that take the object as an input.
        self.consumers: list[Sequence[int]] = []
        #: How many of the object's consumers have not ended.
        self.uses: list[int] = []
        self.flags = bytearray(len(spec.producer))
        #: Number of objects with the flag OUTPUT that the controller does not have yet and may still get.
        self.awaited = 0
        #: The objects that are elements of a task's result, by task number. An element is an object only if another
        #: task or the caller takes this element. Few tasks have such elements.
        self.elements: dict[int, list[int]] = {}
        #: Copies that are under way. Key: (object, host that gets the copy). Value: the host that the copy comes from.
        self.copying: dict[tuple[int, int], int] = {}
        #: How many copies have failed. Key: (object, host that should get the copy).
        self.copy_failures: dict[tuple[int, int], int] = {}
        #: Copies that do not count as replicas, as (object, host). The core drops them only when the run is closed,
        #: because the host may also have or get a valid replica, and an earlier drop could delete that replica.
        self.stale_replicas: set[tuple[int, int]] = set()

    @classmethod
    def of(cls, spec: RunSpec) -> Slices[ObjectTable]:
        """Make the columns of a run that has not begun."""
        objects = cls(spec)
        objects.replicas = yield from column(lambda producer: _NONE if producer >= 0 else _CONTROLLER, spec.producer)
        objects.consumers = [_NONE] * len(spec.producer)
        yield
        objects.uses = [0] * len(spec.producer)
        yield from objects._link(spec)
        return objects

    def _link(self, spec: RunSpec) -> Slices[None]:
        consumers, uses, flags = self.consumers, self.uses, self.flags
        for o in range(spec.count, len(spec.producer)):
            if is_slice_end(o):
                yield
            if spec.producer[o] >= 0:
                self.elements.setdefault(spec.producer[o], []).append(o)
        for t, inputs in enumerate(spec.inputs):
            if is_slice_end(t):
                yield
            for o in inputs:
                users = consumers[o]
                if users:
                    users.append(t)  # type: ignore[attr-defined]  # a list from the first consumer on
                else:
                    consumers[o] = [t]
                uses[o] += 1
        for seen, o in enumerate(spec.outputs):
            if is_slice_end(seen):
                yield
            if not flags[o] & OUTPUT:
                flags[o] |= OUTPUT
                self.awaited += spec.producer[o] >= 0
        for o in spec.keep:
            flags[o] |= KEEP

    def add_values(self, nbytes: Sequence[int]) -> None:
        """Append values, which the controller has, to the columns of an open run. ``nbytes`` has the size of each."""
        count = len(nbytes)
        self.nbytes.extend(nbytes)
        self.replicas.extend([_CONTROLLER] * count)
        self.consumers.extend([_NONE] * count)
        self.uses.extend([0] * count)
        self.flags.extend(bytes(count))

    def add_task(self, t: int, inputs: Sequence[int]) -> None:
        """Note the values that a new task of an open run takes, and that the caller wants the result of the task."""
        consumers = self.consumers
        for o in inputs:
            users = consumers[o]
            if users:
                users.append(t)  # type: ignore[attr-defined]  # a list from the first consumer on
            else:
                consumers[o] = [t]
            self.uses[o] += 1
        self.add_output(t)

    def keep(self, values: Iterable[int]) -> None:
        """Note that values stay on hosts also while no task takes them."""
        for o in values:
            self.flags[o] |= KEEP

    def stop_keeping(self, values: Iterable[int]) -> list[int]:
        """Note that values stay on hosts only while tasks take them. Return the values that no task takes."""
        unused = []
        for o in values:
            self.flags[o] &= ~KEEP
            if not self.uses[o]:
                unused.append(o)
        return unused

    def awaits(self, o: int) -> bool:
        """Return True if the controller does not have an object that the caller wants, and may still get it."""
        return bool(self.flags[o] & OUTPUT) and 0 not in self.replicas[o]

    def missing_inputs(self, count: int) -> Slices[list[int]]:
        """Return for each of ``count`` tasks how many of its inputs have no replica."""
        missing = [0] * count
        for o, (replicas, consumers) in enumerate(zip(self.replicas, self.consumers, strict=True)):
            if is_slice_end(o):
                yield
            if not replicas:
                for t in consumers:
                    missing[t] += 1
        return missing

    def needed(self, o: int) -> bool:
        """Return True if the object is still needed. If no host has a needed object, a task must make it."""
        if self.uses[o]:
            return True
        flags = self.flags[o]
        return bool(flags & KEEP) or bool(flags & OUTPUT and 0 not in self.replicas[o])

    def made(self, o: int, size: int, replicas: tuple[int, ...]) -> None:
        """Set the size and the first replicas of an object that a task has made."""
        self.nbytes[o] = size
        self.replicas[o] = replicas
        if not replicas[0] and self.flags[o] & OUTPUT:
            self.awaited -= 1

    def add_replica(self, o: int, index: int, size: int) -> None:
        """Add a host to an object's replicas. A negative ``size`` means that the size is not known."""
        self.replicas[o] = tuple(sorted((*self.replicas[o], index)))
        if size >= 0:
            self.nbytes[o] = size
        if index == 0 and self.flags[o] & OUTPUT:
            self.awaited -= 1

    def remove_replica(self, o: int, index: int) -> tuple[int, ...]:
        """Remove a host from an object's replicas. Return the remaining replicas."""
        left = self.replicas[o] = tuple(i for i in self.replicas[o] if i != index)
        if index == 0 and self.flags[o] & OUTPUT:
            self.awaited += 1
        return left

    def keep_replicas(self, o: int, kept: tuple[int, ...]) -> None:
        """Replace an object's replicas by ``kept``. The caller must drop the replicas that are not kept."""
        self.replicas[o] = kept

    def add_use(self, o: int) -> None:
        """Count one more unfinished task that uses the object."""
        self.uses[o] += 1

    def release(self, objects: Iterable[int]) -> list[int]:
        """For each object, note that a task that used it has ended. Return objects that no task uses any more."""
        uses, unused = self.uses, []
        for o in objects:
            uses[o] -= 1
            if not uses[o]:
                unused.append(o)
        return unused

    def add_output(self, o: int) -> None:
        """Note that the caller wants an object that is not with the controller yet."""
        self.flags[o] |= OUTPUT
        self.awaited += 1

    def give_up_output(self, o: int) -> bool:
        """Note that the controller will not get an object. Return True if the caller had asked for it."""
        if not self.flags[o] & OUTPUT:
            return False
        self.flags[o] &= ~OUTPUT
        self.awaited -= 1
        return True

    def begin_copy(self, o: int, index: int, source: int) -> None:
        """Note that an object is being copied to a host."""
        self.copying[o, index] = source

    def end_copy(self, o: int, index: int) -> bool:
        """Note that a copy has arrived, failed or been stopped. Return True if the copy was under way."""
        return self.copying.pop((o, index), None) is not None

    def count_copy_failure(self, o: int, index: int) -> int:
        """Count a failed copy of an object to a host. Return how many copies to this host have failed so far."""
        failures = self.copy_failures[o, index] = self.copy_failures.get((o, index), 0) + 1
        return failures

    def mark_stale(self, o: int, index: int) -> None:
        """Note that a host's copy of an object is not a replica, and must not be dropped before the run is closed."""
        self.stale_replicas.add((o, index))
