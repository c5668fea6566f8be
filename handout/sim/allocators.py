"""Allocators as a user may write them. A sound allocator places all tasks sooner or later."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import Enum
from random import Random

from handout.allocators import Allocator, ClusterView, Task, first_available, load_balanced, locality

__all__ = ["Manner"]


class Manner(Enum):
    """The way in which a run's tasks are placed. The first three members are built-in allocators."""

    LOCALITY = "locality"
    LOAD_BALANCED = "load_balanced"
    FIRST_AVAILABLE = "first_available"
    #: Places each task that fits on a host.
    SOUND = "sound"
    #: Places one task at a time, and requests another call after a second.
    RELUCTANT = "reluctant"
    #: Puts all tasks on one host, even if they do not fit. May answer so late that the cluster has changed meanwhile.
    STUBBORN = "stubborn"
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
        """True if an allocator of this manner places all tasks sooner or later."""
        return self in _BUILTIN or self in (Manner.SOUND, Manner.RELUCTANT, Manner.STUBBORN)

    def allocator(self, rng: Random) -> Allocator:
        """Return an allocator that works in this manner."""
        builtin = _BUILTIN.get(self)
        if builtin is not None:
            return builtin

        async def place(frontier: Sequence[Task], view: ClusterView) -> Mapping[str, str]:
            delay_s = rng.choice((0.0, 0.5, 5.0)) if self is Manner.STUBBORN else rng.choice((0.0, 0.01))
            await asyncio.sleep(delay_s)
            return await self._answer(frontier, view, rng)

        return place

    async def _answer(self, frontier: Sequence[Task], view: ClusterView, rng: Random) -> Mapping[str, str]:
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
                return _Stubborn(dict.fromkeys([task.id for task in frontier], rng.choice(list(view.hosts))))
        draft = view.draft()
        for task in frontier:
            fitting = [name for name in view.hosts if draft.fits(task, name)]
            if fitting:
                draft.place(task, fitting[0])
                if self is Manner.RELUCTANT:
                    draft.ask_again(1.0)
                    break
        return draft


class _Stubborn(dict[str, str]):
    """Placements, with a request to call the allocator again after ``ask_again_s`` seconds."""

    ask_again_s = 1.0


_BUILTIN: dict[Manner, Allocator] = {
    Manner.LOCALITY: locality,
    Manner.LOAD_BALANCED: load_balanced,
    Manner.FIRST_AVAILABLE: first_available,
}
