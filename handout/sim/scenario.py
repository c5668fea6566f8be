"""What is to be run, and where: graphs, costs, hosts and callers' whims, all from one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random

from handout.resources import PARTS, Offer, as_costs, compile_capabilities, compile_cost
from handout.scheduler import Profile, RunSpec
from handout.scheduler.spec import Speculation
from handout.sim.allocators import Manner
from handout.sim.faults import Weather

__all__ = ["Fate", "HostPlan", "RunPlan", "Scenario", "Submission", "Whim"]


def _profile(cost: object = None, **fields: object) -> Profile:
    return Profile(tuple(compile_cost(one) for one in as_costs(cost or {})), **fields)  # type: ignore[arg-type]


#: What tasks may need and allow.
PROFILES: Sequence[Profile] = (
    _profile(fn_name="plain"),
    _profile(retries=2, backoff_s=0.5),
    _profile({"cpu": 2}),
    _profile({"cpu": 0}),
    _profile({"seat": 1}),
    _profile([{"cpu": 2}, {"cpu": 1}], retries=1),
    _profile(idempotent=False),
    _profile({"cpu": 1, "memory": "1 GB"}, retries=1),
)


class Fate(Enum):
    """What comes of calling a function."""

    WELL = auto()
    RAISES = auto()
    #: Its process dies under it.
    POISON = auto()


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run that somebody asks for."""

    number: int
    at_s: float
    spec: RunSpec
    manner: Manner
    durations_s: Sequence[float]
    nbytes: Sequence[int]
    #: By task: attempts that fail, and how; further ones end well.
    bad: Mapping[int, tuple[int, Fate]]

    def needed_of(self, t: int) -> set[int]:
        """What somebody needs of a task's result."""
        spec = self.spec
        needed = {*spec.outputs, *spec.keep, *(o for inputs in spec.inputs for o in inputs)}
        return {o for o in needed if spec.producer[o] == t}


@dataclass(frozen=True, slots=True)
class HostPlan:
    """One host."""

    name: str
    offer: Offer
    rtt_s: float
    #: When it is there for the first time.
    at_s: float


@dataclass(frozen=True, slots=True)
class Whim:
    """Something that a user, or a tracker, does."""

    at_s: float
    what: str
    #: Which run, host or task, counted over those there are.
    which: int


@dataclass(slots=True)
class Submission:
    """A run as one life of the controller knows it."""

    plan: RunPlan
    shared: Mapping[str, int]
    #: By object: 1 where somebody needs it.
    wanted: bytearray = field(default_factory=bytearray)
    _made: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        spec = self.plan.spec
        self.wanted = bytearray(len(spec.producer))
        for o in (*spec.outputs, *spec.keep, *(o for inputs in spec.inputs for o in inputs)):
            self.wanted[o] = 1
        self._made = [[t] for t in range(spec.count)]
        for o in range(spec.count, len(spec.producer)):
            if spec.producer[o] >= 0:
                self._made[spec.producer[o]].append(o)

    @property
    def spec(self) -> RunSpec:
        """What the core is told of it."""
        return self.plan.spec

    def objects_of(self, t: int) -> list[int]:
        """What a task makes: its whole result first."""
        return self._made[t]

    def is_once(self, t: int) -> bool:
        """Whether a task must not run twice."""
        return not self.spec.profiles[self.spec.profile[t]].idempotent

    def original(self, t: int) -> tuple[int, int]:
        """What the scenario calls a task, whichever life it is run in."""
        return self.plan.number, t

    def duration_s(self, t: int) -> float:
        """How long it takes."""
        return self.plan.durations_s[t]

    def nbytes(self, o: int) -> int:
        """How large an object is."""
        return self.plan.nbytes[o]

    def fate(self, t: int, attempt: int) -> Fate:
        """What comes of an attempt."""
        times, fate = self.plan.bad.get(t, (0, Fate.WELL))
        return fate if attempt <= times else Fate.WELL


_WHIMS = ("cancel", "cancel", "cancel_some", "cancel_some", "close", "drain", "change", "change", "want", "share")


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that one seed stands for, but for the faults, which are drawn as messages arrive."""

    seed: int
    hosts: Sequence[HostPlan]
    runs: Sequence[RunPlan]
    whims: Sequence[Whim]
    shared: Mapping[str, int]
    weather: Weather
    #: When faults and whims end.
    horizon_s: float

    @classmethod
    def draw(cls, seed: int) -> Scenario:
        """The scenario of a seed: the same one in every process."""
        rng = Random(seed)
        weather = Weather.draw(rng)
        horizon_s = rng.choice((5.0, 20.0, 60.0))
        hosts = [_host(rng, f"h{number}") for number in range(1, rng.choice((1, 2, 2, 3, 3, 4)) + 1)]
        runs = [_run(rng, number, horizon_s) for number in range(1, rng.choice((1, 2, 2, 3)) + 1)]
        count = 0 if not weather.rate and not weather.only_at else rng.choice((0, 1, 3, 6))
        whims = [Whim(rng.random() * horizon_s, rng.choice(_WHIMS), rng.randrange(100)) for _ in range(count)]
        return cls(seed, hosts, runs, whims, {"seat": rng.randint(1, 2) * PARTS}, weather, horizon_s)

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong: then every task ends well, in one attempt."""
        well = all(not run.bad and run.manner.is_sound for run in self.runs)
        return well and not self.whims and not self.weather.rate and not self.weather.only_at


def _host(rng: Random, name: str) -> HostPlan:
    # Every host can run every task: what none can run is another test's business.
    offer = compile_capabilities({"cpu": rng.randint(2, 4), "memory": "4 GB"})
    return HostPlan(name, offer, rng.choice((0.0005, 0.01, 0.1)), rng.choice((0.0, 0.0, 0.0, 3.0)))


def _graph(rng: Random, count: int) -> tuple[list[tuple[int, ...]], list[int]]:
    """Inputs by task and producers by object: elements of results and values among them."""
    reach = rng.choice((1, 3, 30))
    inputs: list[tuple[int, ...]] = []
    for t in range(count):
        before = range(max(0, t - reach), t)
        inputs.append(tuple(sorted(rng.sample(before, min(len(before), rng.choice((0, 1, 1, 2, 3)))))))
    producer = list(range(count))
    if rng.random() < 0.4:
        for _ in range(rng.randint(1, 3)):
            o = len(producer)
            producer.append(rng.choice((-1, 0, rng.randrange(count))))
            inputs = [(*ins, o) if rng.random() < 0.3 and t > producer[o] else ins for t, ins in enumerate(inputs)]
    return inputs, producer


def _run(rng: Random, number: int, horizon_s: float) -> RunPlan:
    count = rng.choice((1, 4, 8, 8, 14, 24))
    inputs, producer = _graph(rng, count)
    some = rng.choice(((0,), (0, 6, 6), (0, 4), range(len(PROFILES)), range(len(PROFILES))))
    profiles = [rng.choice(some) for _ in range(count)]
    manner = Manner.draw(rng)
    outputs = {count - 1, *rng.sample(range(count), min(count, rng.randint(0, 4)))}
    # A journaled run brings what it commits to the controller: all that is taken, or what could not be made again.
    all_ = rng.random() < 0.5
    taken = {o for ins in inputs for o in ins if producer[o] >= 0}
    outputs |= {o for o in taken if all_ or not PROFILES[profiles[producer[o]]].idempotent}
    spec = RunSpec(
        count=count,
        profiles=PROFILES,
        profile=profiles,
        fn=profiles,
        inputs=inputs,
        producer=producer,
        nbytes=[-1] * len(producer),
        outputs=sorted(outputs),
        keep=sorted(rng.sample(range(count), min(count, rng.choice((0, 0, 2))))),
        group=[rng.randint(-1, 2) for _ in range(count)] if rng.random() < 0.2 else None,
        priority=[rng.choice((0.0, 1.0)) for _ in range(count)] if rng.random() < 0.3 else None,
        on_failure=rng.choice(("fail_fast", "continue")),
        max_concurrency=rng.choice((None, None, None, 1, 3)),
        allocator=manner.built_in,
        speculation=Speculation(2, 2.0, 0.05) if rng.random() < 0.3 else None,
        run_priority=rng.choice((0.0, 0.0, 1.0)),
    )
    quick = rng.random() < 0.5
    durations_s = [rng.choice((1e-4, 1e-3, 1e-2) if quick else (1e-3, 0.1, 1.0, 4.0)) for _ in range(count)]
    nbytes = [rng.choice((100, 100, 100, 10**6, 10**8)) for _ in producer]
    bad = {}
    if rng.random() < 0.3:
        for t in rng.sample(range(count), min(count, rng.randint(1, 2))):
            bad[t] = rng.choice(((1, Fate.RAISES), (9, Fate.RAISES), (1, Fate.POISON), (99, Fate.POISON)))
    return RunPlan(number, rng.choice((0.0, rng.random() * horizon_s * 0.3)), spec, manner, durations_s, nbytes, bad)
