"""Custom allocators, sound and unsound, as the shell would await them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from random import Random

from handout.scheduler.commands import AskAllocator
from handout.scheduler.events import AllocatorFailed, Event, PlacementsProposed

__all__ = ["Manner"]


class Manner(Enum):
    """How a run's tasks are placed. The core's own allocators first, then ways of a user's allocator."""

    LOCALITY = "locality"
    LOAD_BALANCED = "load_balanced"
    FIRST_AVAILABLE = "first_available"
    #: Places what fits.
    SOUND = "sound"
    #: Places one task at a time, and asks to be asked again.
    RELUCTANT = "reluctant"
    #: Puts all on one host, whether it fits or not, and takes its time: the world has moved when it answers.
    STUBBORN = "stubborn"
    #: Names a host or a task that there is not.
    MISTAKEN = "mistaken"
    RAISING = "raising"
    #: Never answers.
    SILENT = "silent"
    #: Places nothing and does not ask again.
    EMPTY = "empty"

    @classmethod
    def draw(cls, rng: Random) -> Manner:
        """Mostly one that works."""
        if rng.random() < 0.7:
            return rng.choice((cls.LOCALITY, cls.LOCALITY, cls.LOAD_BALANCED, cls.FIRST_AVAILABLE))
        if rng.random() < 0.7:
            return rng.choice((cls.SOUND, cls.RELUCTANT, cls.STUBBORN))
        return rng.choice((cls.MISTAKEN, cls.RAISING, cls.SILENT, cls.EMPTY))

    @property
    def built_in(self) -> str | None:
        """What a run's spec says."""
        return self.value if self in (Manner.LOCALITY, Manner.LOAD_BALANCED, Manner.FIRST_AVAILABLE) else None

    @property
    def is_sound(self) -> bool:
        """Whether it brings a run to its end."""
        return self.built_in is not None or self in (Manner.SOUND, Manner.RELUCTANT, Manner.STUBBORN)

    def delay_s(self, rng: Random) -> float:
        """How long an answer takes."""
        return rng.choice((0.0, 0.5, 5.0)) if self is Manner.STUBBORN else rng.choice((0.0, 0.01))

    def answer(self, command: AskAllocator, rng: Random) -> Event | None:
        """What comes back; None: nothing ever does."""
        run, request = command.run, command.request
        if self is Manner.SILENT:
            return None
        if self is Manner.RAISING and rng.random() < 0.5:
            return AllocatorFailed(run, request, RuntimeError("the allocator is ill"))
        if self is Manner.EMPTY:
            return PlacementsProposed(run, request, {})
        if self is Manner.MISTAKEN and rng.random() < 0.3:
            first = command.frontier[0].id
            wrong: Mapping[str, str] = rng.choice(({first: "nowhere"}, {"nobody": next(iter(command.view.hosts))}))
            return PlacementsProposed(run, request, wrong)
        if self is Manner.STUBBORN:
            host = rng.choice(list(command.view.hosts))
            return PlacementsProposed(run, request, {task.id: host for task in command.frontier}, 1.0)
        draft = command.view.draft()
        for task in command.frontier:
            fitting = [name for name in command.view.hosts if draft.fits(task, name)]
            if fitting:
                draft.place(task, fitting[0])
                if self is Manner.RELUCTANT:
                    draft.ask_again(1.0)
                    break
        return PlacementsProposed(run, request, dict(draft), draft.ask_again_s)
