"""Allocators as a user may write them. A sound allocator places all tasks sooner or later, if no host is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import Enum
from random import Random

from handout.allocators import Allocator, ClusterView, Task, first_available, load_balanced, locality

__all__ = ["Manner", "SimulatedAllocator"]


class Manner(Enum):
    """The way in which a run's tasks are placed. The first three members are built-in allocators."""

    LOCALITY = "locality"
    LOAD_BALANCED = "load_balanced"
    FIRST_AVAILABLE = "first_available"
    #: Places each task that fits on a host.
    SOUND = "sound"
    #: Places one task at a time, and requests another call after a second.
    RELUCTANT = "reluctant"
    #: Puts all tasks on one host that is ready, even if they do not fit. May answer so late that the cluster has
    #: changed meanwhile.
    STUBBORN = "stubborn"
    #: Places each task on any host that was not given up, whether the host is ready or not. May answer late.
    PATIENT = "patient"
    #: Puts all tasks on the host whose name comes first in the inventory, whatever the state of this host.
    LOYAL = "loyal"
    #: Sometimes names a host or a task that does not exist.
    MISTAKEN = "mistaken"
    #: Sometimes raises an exception.
    RAISING = "raising"
    #: Never answers.
    SILENT = "silent"
    #: Places no task, and does not request another call.
    EMPTY = "empty"

    @classmethod
    def draw(cls, rng: Random) -> Manner:
        """Return a random manner. Most of the time, it is a sound one."""
        if rng.random() < 0.7:
            return rng.choice((cls.LOCALITY, cls.LOCALITY, cls.LOAD_BALANCED, cls.FIRST_AVAILABLE))
        if rng.random() < 0.7:
            return rng.choice((cls.SOUND, cls.RELUCTANT, cls.STUBBORN))
        return rng.choice((cls.MISTAKEN, cls.RAISING, cls.SILENT, cls.EMPTY))

    @property
    def is_sound(self) -> bool:
        """True if an allocator of this manner places all tasks sooner or later, if no host is given up."""
        return self in _BUILTIN or self in _SOUND

    @property
    def is_faultless(self) -> bool:
        """True if an allocator of this manner never gives an answer that ends a run."""
        return self in _BUILTIN or self in (Manner.SOUND, Manner.RELUCTANT, Manner.PATIENT)

    def allocator(self, rng: Random) -> Allocator:
        """Return an allocator that works in this manner."""
        return _BUILTIN.get(self) or SimulatedAllocator(self, rng)

    async def answer(self, frontier: Sequence[Task], view: ClusterView, rng: Random) -> Mapping[str, str]:
        """Answer as an allocator of this manner does."""
        match self:
            case Manner.SILENT:
                await asyncio.get_running_loop().create_future()
            case Manner.RAISING if rng.random() < 0.5:
                raise RuntimeError("this simulated allocator raises at random")
            case Manner.EMPTY:
                return {}
            case Manner.MISTAKEN if rng.random() < 0.3:
                return rng.choice(({frontier[0].id: "nowhere"}, {"nothing": next(iter(view.hosts))}))
            case Manner.STUBBORN:
                ready = [name for name, host in view.hosts.items() if host.state == "ready"]
                return _Stubborn(dict.fromkeys([task.id for task in frontier], rng.choice(ready)))
            case Manner.PATIENT:
                return self._patient(frontier, view, rng)
            case Manner.LOYAL:
                return dict.fromkeys([task.id for task in frontier], min(view.hosts))
        draft = view.draft()
        for task in frontier:
            fitting = [name for name in view.hosts if draft.fits(task, name)]
            if fitting:
                draft.place(task, fitting[0])
                if self is Manner.RELUCTANT:
                    draft.ask_again(1.0)
                    break
        return draft

    @staticmethod
    def _patient(frontier: Sequence[Task], view: ClusterView, rng: Random) -> Mapping[str, str]:
        draft = view.draft()
        for task in frontier:
            if fitting := [name for name in view.hosts if draft.fits(task, name, wait=True)]:
                draft.place(task, rng.choice(fitting))
        return draft


class SimulatedAllocator:
    """An allocator that works in a certain manner."""

    def __init__(self, manner: Manner, rng: Random) -> None:
        self.manner = manner
        self._rng = rng

    async def __call__(self, frontier: Sequence[Task], view: ClusterView, /) -> Mapping[str, str]:
        """Answer after a while."""
        late = self.manner in (Manner.STUBBORN, Manner.PATIENT)
        await asyncio.sleep(self._rng.choice((0.0, 0.5, 5.0)) if late else self._rng.choice((0.0, 0.01)))
        return await self.manner.answer(frontier, view, self._rng)


class _Stubborn(dict[str, str]):
    """Placements, with a request to call the allocator again after ``ask_again_s`` seconds."""

    ask_again_s = 1.0


_BUILTIN: dict[Manner, Allocator] = {
    Manner.LOCALITY: locality,
    Manner.LOAD_BALANCED: load_balanced,
    Manner.FIRST_AVAILABLE: first_available,
}
_SOUND = (Manner.SOUND, Manner.RELUCTANT, Manner.STUBBORN, Manner.PATIENT, Manner.LOYAL)
