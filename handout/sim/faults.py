"""What goes wrong, how often, and when: drawn anew at every message."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random

__all__ = ["Fault", "Faults", "Weather"]


class Fault(Enum):
    """What may happen as a message arrives."""

    #: It, and all behind it, comes later.
    DELAY = auto()
    #: The connection drops, and is made again within the lease.
    CUT = auto()
    #: The connection drops, and nobody hears of the other until the lease is over.
    SILENCE = auto()
    #: The agent dies before it takes the message in, or before it has told all that it had to tell.
    CRASH = auto()
    #: The process that runs a task there dies.
    WORKER = auto()
    #: What runs there takes many times as long from now on, for a while.
    SLOW = auto()
    #: The host has no room for objects, for a while.
    FULL = auto()
    #: The next objects that the host is asked for do not come: they are gone, or their streams break off.
    COPY = auto()
    #: The agent dies, and again soon after it is back, for a few times.
    FLAP = auto()
    #: A report comes a second time, much later.
    DUPLICATE = auto()
    #: A report is overtaken by those behind it.
    REORDER = auto()
    #: The controller dies.
    CONTROLLER = auto()


_ALL = tuple(Fault)
#: The controller's deaths, and what leaves much for the next one to find.
_DEATHS = (Fault.CONTROLLER, Fault.CONTROLLER, Fault.DELAY, Fault.CUT, Fault.SLOW, Fault.CRASH, Fault.COPY)


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad it is."""

    #: Faults a message, about.
    rate: float
    #: Those that may happen.
    kinds: tuple[Fault, ...]
    #: Exactly one fault, at this message; 0: as often as ``rate`` says.
    only_at: int = 0

    @classmethod
    def draw(cls, rng: Random) -> Weather:
        """Calm, one fault alone, one kind of fault, deaths of the controller among others, or all of them together."""
        match rng.choice(
            ("calm", "one", "one", "kind", "kind", "deaths", "deaths", "deaths", "storm", "storm", "storm")
        ):
            case "calm":
                return cls(0.0, _ALL)
            case "one":
                return cls(0.0, (rng.choice(_ALL),), only_at=rng.randint(1, 100))
            case "kind":
                return cls(rng.choice((0.02, 0.1, 0.3)), (rng.choice(_ALL[:-1]),))
            case "deaths":
                return cls(rng.choice((0.05, 0.15, 0.3)), _DEATHS)
            case _:
                return cls(rng.choice((0.02, 0.06, 0.15)), _ALL)


@dataclass(slots=True)
class Faults:
    """Draws them."""

    weather: Weather
    rng: Random
    #: Messages that have arrived.
    messages: int = 0
    #: None happens any more: what is to be seen is whether all comes to its end.
    over: bool = False
    #: How many of each kind have happened.
    counts: dict[Fault, int] = field(default_factory=dict)
    #: Deaths of the controller that are still allowed.
    deaths: int = 2

    def at_message(self) -> Fault | None:
        """What happens as the next message arrives."""
        self.messages += 1
        weather = self.weather
        if self.over:
            return None
        if weather.only_at:
            if self.messages != weather.only_at:
                return None
        elif self.rng.random() >= weather.rate:
            return None
        fault = self.rng.choice(weather.kinds)
        if fault is Fault.CONTROLLER:
            # One in a storm is plenty: whatever went before is forgotten with it.
            if not self.deaths or (weather.kinds is _ALL and not weather.only_at and self.rng.random() < 0.7):
                return None
            self.deaths -= 1
        return fault

    def may(self, fault: Fault) -> bool:
        """Whether this is a time in which such things happen again and again."""
        return not self.over and self.weather.rate > 0.0 and fault in self.weather.kinds

    def note(self, fault: Fault) -> None:
        """It did happen."""
        self.counts[fault] = self.counts.get(fault, 0) + 1
