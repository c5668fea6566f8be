"""The objects of one run as columns: which hosts have them, which tasks use them, and which copies are under way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from handout.scheduler.run_spec import RunSpec

__all__ = ["KEEP", "OUTPUT", "ObjectTable"]

#: Flags of an object: the caller wants it at the controller; it stays on its hosts after the run.
OUTPUT, KEEP = 1, 2

_NONE: tuple[int, ...] = ()


class ObjectTable:
    """Columns by object number. Hosts are indices; index 0 is the controller."""

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
        objects = len(spec.producer)
        self.nbytes = list(spec.nbytes)
        #: Indices of the hosts that have it, ascending. The controller has what no task makes.
        self.replicas: list[tuple[int, ...]] = [_NONE if producer >= 0 else (0,) for producer in spec.producer]
        #: Tasks that take it.
        self.consumers: list[Sequence[int]] = [_NONE] * objects
        #: How many of these have not ended.
        self.uses = [0] * objects
        self.flags = bytearray(objects)
        #: Outputs that may still come to the controller.
        self.awaited = 0
        #: By task: elements of its result that are asked for by themselves. Few tasks have any.
        self.elements: dict[int, list[int]] = {}
        #: Copies under way: (object, host) -> source.
        self.copying: dict[tuple[int, int], int] = {}
        self.copy_failures: dict[tuple[int, int], int] = {}
        #: Results that do not count any more, on hosts where a drop could hit a replica that does: (object, host).
        self.stale_replicas: set[tuple[int, int]] = set()
        self._link(spec)

    def _link(self, spec: RunSpec) -> None:
        consumers, uses, flags = self.consumers, self.uses, self.flags
        for o in range(spec.count, len(spec.producer)):
            if spec.producer[o] >= 0:
                self.elements.setdefault(spec.producer[o], []).append(o)
        for t, inputs in enumerate(spec.inputs):
            for o in inputs:
                users = consumers[o]
                if users:
                    users.append(t)  # type: ignore[attr-defined]  # a list from the first consumer on
                else:
                    consumers[o] = [t]
                uses[o] += 1
        for o in spec.outputs:
            if not flags[o] & OUTPUT:
                flags[o] |= OUTPUT
                self.awaited += spec.producer[o] >= 0
        for o in spec.keep:
            flags[o] |= KEEP

    def missing_inputs(self, count: int) -> list[int]:
        """Return for each of ``count`` tasks how many of its inputs have no replica."""
        missing = [0] * count
        for replicas, consumers in zip(self.replicas, self.consumers, strict=True):
            if not replicas:
                for t in consumers:
                    missing[t] += 1
        return missing

    def needed(self, o: int) -> bool:
        """Return True if an object without a replica must be made (again)."""
        if self.uses[o]:
            return True
        flags = self.flags[o]
        return bool(flags & KEEP) or bool(flags & OUTPUT and 0 not in self.replicas[o])

    def made(self, o: int, size: int, replicas: tuple[int, ...]) -> None:
        """Set the hosts of an object that had no replica."""
        self.nbytes[o] = size
        self.replicas[o] = replicas
        if not replicas[0] and self.flags[o] & OUTPUT:
            self.awaited -= 1

    def add_replica(self, o: int, index: int, size: int) -> None:
        """Add a host to an object's replicas; ``size`` is negative if it is not known."""
        self.replicas[o] = tuple(sorted((*self.replicas[o], index)))
        if size >= 0:
            self.nbytes[o] = size
        if index == 0 and self.flags[o] & OUTPUT:
            self.awaited -= 1

    def remove_replica(self, o: int, index: int) -> tuple[int, ...]:
        """Take a host out of an object's replicas; return the others."""
        left = self.replicas[o] = tuple(i for i in self.replicas[o] if i != index)
        return left

    def keep_replicas(self, o: int, kept: tuple[int, ...]) -> None:
        """Set an object's replicas to those that are not dropped."""
        self.replicas[o] = kept

    def add_use(self, o: int) -> None:
        """Count one more task that uses an object."""
        self.uses[o] += 1

    def release(self, objects: Iterable[int]) -> list[int]:
        """Count one task less that uses each of these objects; return those that no task uses any more."""
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
        """Note that an object will not come to the controller; return True if the caller wanted it."""
        if not self.flags[o] & OUTPUT:
            return False
        self.flags[o] &= ~OUTPUT
        self.awaited -= 1
        return True

    def begin_copy(self, o: int, index: int, source: int) -> None:
        """Note that an object is being copied to a host."""
        self.copying[o, index] = source

    def end_copy(self, o: int, index: int) -> bool:
        """Note that a copy arrived, failed or is off; return True if it was under way."""
        return self.copying.pop((o, index), None) is not None

    def count_copy_failure(self, o: int, index: int) -> int:
        """Count a failed copy of an object to a host; return how many there were."""
        failures = self.copy_failures[o, index] = self.copy_failures.get((o, index), 0) + 1
        return failures

    def mark_stale(self, o: int, index: int) -> None:
        """Note a result on a host that does not count and cannot be dropped safely before the run is closed."""
        self.stale_replicas.add((o, index))
