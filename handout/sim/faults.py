"""The faults that may happen at each message, and the choice of the fault for a message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import NamedTuple

__all__ = ["Fault", "Script", "SimulatedFaults", "Weather"]


class Fault(Enum):
    """What may happen as a message arrives."""

    #: The message, and all that follow it, arrive later.
    DELAY = auto()
    #: The connection drops, and is made again within the lease.
    CUT = auto()
    #: The connection drops until the lease is over.
    SILENCE = auto()
    #: The agent dies, before or after the message.
    CRASH = auto()
    #: The worker that runs a task on the host dies, or the task exceeds its time or memory.
    WORKER = auto()
    #: The tasks on the host take many times as long, for a while.
    SLOW = auto()
    #: The host has no room for objects, for a while.
    FULL = auto()
    #: The next objects that are fetched from the host do not arrive: the host lacks them, or their streams break off.
    COPY = auto()
    #: Objects vanish from the host's store. The agent notices this when a task or the controller wants them.
    VANISH = auto()
    #: Results that the controller has, and that the caller does not get, turn out to be damaged.
    DAMAGE = auto()
    #: The agent dies. The next few agents of the host die, too, each soon after its start.
    FLAP = auto()
    #: A report of the agent about attempts comes a second time, perhaps much later.
    DUPLICATE = auto()
    #: A report of the agent about attempts is held back, so that later reports overtake it.
    REORDER = auto()
    #: The controller dies.
    CONTROLLER = auto()

    @property
    def sentence(self) -> str:
        """The beginning of a sentence that says which fault happened. The caller adds the message's direction."""
        return _SENTENCES[self]


_ALL = tuple(Fault)
_SENTENCES = {
    Fault.DELAY: "The network began to delay messages, at a message",
    Fault.CUT: "The network cut the connection for a while, at a message",
    Fault.SILENCE: "The network cut the connection until the lease was over, at a message",
    Fault.CRASH: "The simulator chose to crash the agent, at a message",
    Fault.WORKER: "The simulator chose to make a running task fail, at a message",
    Fault.SLOW: "The host became slow, at a message",
    Fault.FULL: "The host's store became full, at a message",
    Fault.COPY: "The simulator chose to make fetches from the host fail, at a message",
    Fault.VANISH: "Another program removed objects from the host's store, at a message",
    Fault.DAMAGE: "The controller's disk damaged results, at a message",
    Fault.FLAP: "The simulator chose to crash the agent again and again, at a message",
    Fault.DUPLICATE: "The simulator chose to repeat the reports in a message",
    Fault.REORDER: "The simulator chose to hold back the reports in a message",
    Fault.CONTROLLER: "The simulator chose to kill the controller, at a message",
}
#: The kinds of faults in scenarios that test deaths of the controller. The death is listed twice, so that it is drawn
#: more often. The other faults make recovery harder for the next controller.
_DEATHS = (
    Fault.CONTROLLER, Fault.CONTROLLER, Fault.DELAY, Fault.CUT, Fault.SLOW, Fault.CRASH, Fault.COPY, Fault.DAMAGE,
    Fault.VANISH,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Weather:
    """How often faults happen in a scenario, and which kinds of faults they are."""

    #: The probability of a fault at a message.
    rate: float
    #: The kinds of faults that may happen.
    kinds: tuple[Fault, ...]
    #: The number of the message at which the only fault happens. 0: a fault may happen at any message.
    only_at: int = 0

    @classmethod
    def draw(cls, rng: Random) -> Weather:
        """Draw the weather.

        The weather has no fault, a single fault, faults of one kind, deaths of the controller with a few other kinds of
        faults, or faults of all kinds.
        """
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


class Script(NamedTuple):
    """The faults that happen at certain messages. A script replaces the faults that would be drawn."""

    #: The fault that happens at a message, and the seed of the fault's details, by the message's number.
    faults: Mapping[int, tuple[Fault, float]]
    #: The numbers of the messages whose reports arrive again later.
    echoes: frozenset[int]

    def without(self, message: int) -> Script:
        """Return the script without the fault at a message, and without the second arrival of the message's reports."""
        faults = {number: fault for number, fault in self.faults.items() if number != message}
        return Script(faults, self.echoes - {message})

    def within(self, first: int, end: int) -> Script:
        """Return the part of the script for the messages from ``first`` up to, but not including, ``end``."""
        faults = {number: fault for number, fault in self.faults.items() if first <= number < end}
        return Script(faults, frozenset(number for number in self.echoes if first <= number < end))

    def earlier(self, factor: float) -> Script:
        """Return the script with all message numbers multiplied by ``factor``, for a scenario with fewer messages."""
        faults = {max(1, int(number * factor)): fault for number, fault in self.faults.items()}
        return Script(faults, frozenset(max(1, int(number * factor)) for number in self.echoes))


@dataclass(slots=True)
class SimulatedFaults:
    """Draws the faults, or takes them from a script."""

    weather: Weather
    rng: Random
    #: How many messages have arrived.
    messages: int = 0
    #: True once no more faults happen.
    over: bool = False
    #: How many faults of each kind have happened.
    counts: dict[Fault, int] = field(default_factory=dict)
    #: How many more deaths of the controller may be drawn.
    deaths: int = 2
    #: The faults that happen, or None if the faults are drawn.
    script: Script | None = None
    #: The faults that have happened, and the seeds of their details, by the message's number.
    struck: dict[int, tuple[Fault, float]] = field(default_factory=dict)
    #: The numbers of the messages whose reports arrived a second time.
    echoed: set[int] = field(default_factory=set)
    #: Draws the details of the present fault. They are not drawn with `rng`, so that later faults do
    #: not depend on them.
    detail: Random = field(default_factory=Random)

    def at_message(self) -> Fault | None:
        """Return the fault that happens as the next message arrives, or None."""
        self.messages += 1
        weather = self.weather
        if self.over:
            return None
        if self.script is not None:
            scripted = self.script.faults.get(self.messages)
            return None if scripted is None else self._strike(*scripted)
        if weather.only_at:
            if self.messages != weather.only_at:
                return None
        elif self.rng.random() >= weather.rate:
            return None
        fault = self.rng.choice(weather.kinds)
        if fault is Fault.CONTROLLER:
            # If all kinds may happen, most deaths are left out, because many deaths would hide the effects of the other
            # faults: a new controller does not remember the faults before its start.
            if not self.deaths or (weather.kinds is _ALL and not weather.only_at and self.messages % 10 < 7):
                return None
            self.deaths -= 1
        return self._strike(fault, self.rng.random())

    def _strike(self, fault: Fault, detail: float) -> Fault:
        self.struck[self.messages] = fault, detail
        self.detail = Random(detail)
        return fault

    def may_echo(self) -> bool:
        """Return True if the reports of the present message may arrive again later."""
        echoes = not self.over and self.weather.rate > 0.0 and Fault.DUPLICATE in self.weather.kinds
        return echoes and (self.script is None or self.messages in self.script.echoes)

    def note(self, fault: Fault) -> None:
        """Count a fault that has happened."""
        self.counts[fault] = self.counts.get(fault, 0) + 1
