"""Scenarios: graphs, costs, hosts and the actions of users, all drawn from one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from handout.execution.run_options import RunOptions
from handout.resources import PARTS, Offer, compile_capabilities
from handout.resources.names import MAX_CONCURRENCY
from handout.scheduler.run_spec import Speculation
from handout.sim.allocators import Manner
from handout.sim.calls import CallsPlan
from handout.sim.faults import Script, Weather
from handout.sim.run_plan import FUNCTIONS, Fate, RunPlan

__all__ = ["HostPlan", "Scenario", "Whim"]


@dataclass(frozen=True, slots=True)
class HostPlan:
    """One host of a scenario."""

    name: str
    offer: Offer
    rtt_s: float
    #: The time at which the controller starts the host's first agent.
    at_s: float
    #: True if the controller cannot reach the host before ``at_s``, and gives it up for tasks that only this host can
    #: run, but tries again.
    refuses: bool = False


@dataclass(frozen=True, slots=True)
class Whim:
    """An action of a user or a tracker during the runs."""

    at_s: float
    what: str
    #: Selects a run, host or task: the index is this number, modulo the count of runs, hosts or tasks.
    which: int


_WHIMS = ("cancel", "cancel", "cancel_some", "cancel_some", "close", "drain", "change", "change", "want", "share")


@dataclass(frozen=True)
class Scenario:
    """All that a seed determines, except the faults, which are drawn when messages arrive."""

    seed: int
    hosts: Sequence[HostPlan]
    runs: Sequence[RunPlan]
    whims: Sequence[Whim]
    shared: Mapping[str, int]
    weather: Weather
    #: The time after which no fault and no whim happens.
    horizon_s: float
    #: The faults that happen, or None if the faults are drawn.
    script: Script | None = None

    @classmethod
    def draw(cls, seed: int) -> Scenario:
        """Return the scenario of a seed. It is the same in every process."""
        rng = Random(seed)
        weather = Weather.draw(rng)
        horizon_s = rng.choice((5.0, 20.0, 60.0))
        hosts = [_host(rng, f"h{number}") for number in range(1, rng.choice((1, 2, 2, 3, 3, 4)) + 1)]
        runs = [_run(rng, number, horizon_s) for number in range(1, rng.choice((1, 2, 2, 3)) + 1)]
        hosts, runs = _not_there_yet(Random(seed ^ 0xAB5E27), hosts, runs)
        count = 0 if not weather.rate and not weather.only_at else rng.choice((0, 1, 3, 6))
        calls = Random(seed ^ 0xCA11)  # so that the other draws do not depend on these
        if calls.random() < 0.4:
            runs.append(CallsPlan.draw(calls, len(runs) + 1, horizon_s))
        runs = _warm(Random(seed ^ 0x3A97), hosts, runs)
        whims = [Whim(rng.random() * horizon_s, rng.choice(_WHIMS), rng.randrange(100)) for _ in range(count)]
        homes = [run.number for run in runs if run.keep]
        if homes and len(runs) > 1 and calls.random() < 0.7:
            home = calls.choice(homes)
            runs = [_home(calls, run) if run.number == home else replace(run, borrows=home) for run in runs]
        shared = {"seat": rng.randint(1, 2) * PARTS}
        if calls.random() < 0.15:
            shared[MAX_CONCURRENCY] = calls.randint(1, 4) * PARTS
        return cls(seed, hosts, runs, whims, shared, weather, horizon_s)

    @property
    def is_calm(self) -> bool:
        """True if nothing goes wrong and users do nothing, so that every task ends well in its first attempt."""
        return (
            all(run.is_calm for run in self.runs)
            and not self.whims
            and not self.weather.rate
            and not self.weather.only_at
        )


def _warm(rng: Random, hosts: Sequence[HostPlan], runs: Sequence[RunPlan]) -> list[RunPlan]:
    """Let tasks of some runs take warm values, which some hosts cannot make."""
    if rng.random() > 0.3:
        return list(runs)
    taken = [{t: rng.randint(0, 1) for t in range(len(run)) if rng.random() < 0.6} for run in runs]
    cold = frozenset(host.name for host in hosts if rng.random() < 0.4) if rng.random() < 0.4 else frozenset[str]()
    return [replace(run, warm=warm, cold=cold) for run, warm in zip(runs, taken, strict=True)]


def _home(rng: Random, run: RunPlan) -> RunPlan:
    """Return a run of which others borrow. Often, only hosts have what it keeps, and it cannot be made again."""
    if rng.random() < 0.5:
        options: RunOptions = {**run.options, "journal_results": "outputs"}
        outputs = [o for o in run.outputs if o not in run.keep]
        run = replace(run, sizes=[10**6] * len(run.sizes), options=options, outputs=outputs)
        if run.speculation is None and rng.random() < 0.7:
            run = replace(run, only_once=frozenset(run.keep))
    return run


def _host(rng: Random, name: str) -> HostPlan:
    # Every host can run every task. Other tests cover tasks that no host can run.
    offer = compile_capabilities({"cpu": rng.randint(2, 4), "memory": "4 GB"})
    return HostPlan(name, offer, rng.choice((0.0005, 0.01, 0.1)), rng.choice((0.0, 0.0, 0.0, 3.0)))


def _not_there_yet(
    rng: Random, hosts: Sequence[HostPlan], runs: Sequence[RunPlan]
) -> tuple[list[HostPlan], list[RunPlan]]:
    """Let some late hosts refuse connections at first, and let some allocators place tasks on hosts that are not ready.

    The first host never refuses, so that there is always a host that runs can wait for.
    """
    late = [replace(host, refuses=host.at_s > 0.0 and rng.random() < 0.5) for host in hosts[1:]]
    manners = [rng.choice((Manner.PATIENT, Manner.LOYAL)) if rng.random() < 0.15 else run.manner for run in runs]
    return [*hosts[:1], *late], [replace(run, manner=manner) for run, manner in zip(runs, manners, strict=True)]


def _graph(rng: Random, count: int) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return the inputs of each task, and the producer of each object (-1 for a value)."""
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
    inputs, producers = _graph(rng, count)
    some = rng.choice(((0,), (0, 6, 6), (0, 4), range(len(FUNCTIONS)), range(len(FUNCTIONS))))
    manner = Manner.draw(rng)
    quick = rng.random() < 0.5
    options: RunOptions = {
        "journal": "simulated",
        # With either value, the results of tasks that must not run twice are committed.
        "journal_results": rng.choice(("all", "outputs")),
        "on_failure": rng.choice(("fail_fast", "continue")),
        "priority": rng.choice((0.0, 0.0, 1.0)),
    }
    limit = rng.choice((None, None, None, 1, 3))
    if limit is not None:
        options["max_concurrency"] = limit
    bad = {}
    if rng.random() < 0.3:
        for t in rng.sample(range(count), min(count, rng.randint(1, 2))):
            bad[t] = rng.choice(((1, Fate.RAISES), (9, Fate.RAISES), (1, Fate.POISON), (99, Fate.POISON)))
    grouped, ranked = rng.random() < 0.2, rng.random() < 0.3
    return RunPlan(
        number=number,
        at_s=rng.choice((0.0, rng.random() * horizon_s * 0.3)),
        functions=[rng.choice(some) for _ in range(count)],
        inputs=inputs,
        producers=producers,
        groups=[rng.randint(-1, 2) if grouped else -1 for _ in range(count)],
        priorities=[rng.choice((0.0, 1.0)) if ranked else 0.0 for _ in range(count)],
        outputs=sorted({count - 1, *rng.sample(range(count), min(count, rng.randint(0, 4)))}),
        keep=sorted(rng.sample(range(count), min(count, rng.choice((0, 0, 2))))),
        options=options,
        speculation=Speculation(2, 2.0, 0.05) if rng.random() < 0.3 else None,
        manner=manner,
        durations_s=[rng.choice((1e-4, 1e-3, 1e-2) if quick else (1e-3, 0.1, 1.0, 4.0)) for _ in range(count)],
        sizes=[rng.choice((100, 100, 100, 10**5, 10**6)) for _ in producers],
        bad=bad,
    )
