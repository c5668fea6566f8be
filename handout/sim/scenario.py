"""Scenarios: graphs, costs, hosts and the actions of users, all drawn from one seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property
from random import Random
from typing import Any

from handout.allocators import Allocator
from handout.execution.run_options import RunOptions
from handout.execution.shell.run_state import RunState
from handout.execution.shell.run_submission import make_run
from handout.graph import Graph, Output
from handout.graph.function_options import Options
from handout.graph.plan import Plan
from handout.resources import PARTS, Offer, compile_capabilities
from handout.scheduler.run_spec import Speculation
from handout.sim.allocators import Manner
from handout.sim.faults import Script, Weather
from handout.slices import at_once
from handout.submission.arguments import EncodedRun, encode_plan

__all__ = ["Fate", "HostPlan", "RunPlan", "Scenario", "Whim"]


def _plain(*inputs: object) -> None: ...


def _retried(*inputs: object) -> None: ...


def _wide(*inputs: object) -> None: ...


def _weightless(*inputs: object) -> None: ...


def _seated(*inputs: object) -> None: ...


def _either(*inputs: object) -> None: ...


def _once(*inputs: object) -> None: ...


def _stored(*inputs: object) -> None: ...


#: The functions of which the graphs consist, with their options.
FUNCTIONS: Sequence[tuple[Callable[..., None], Options]] = (
    (_plain, {}),
    (_retried, {"retries": 2, "backoff_s": 0.5}),
    (_wide, {"cost": {"cpu": 2}}),
    (_weightless, {"cost": {"cpu": 0}}),
    (_seated, {"cost": {"seat": 1}}),
    (_either, {"cost": [{"cpu": 2}, {"cpu": 1}], "retries": 1}),
    (_once, {"idempotent": False}),
    (_stored, {"cost": {"cpu": 1, "memory": "1 GB"}, "retries": 1}),
)


class Fate(Enum):
    """How an attempt ends."""

    WELL = auto()
    RAISES = auto()
    #: The worker that runs the task dies.
    POISON = auto()


@dataclass(frozen=True)
class RunPlan:
    """One run that a caller asks for. Most sequences have an entry for each task, or for each object.

    Object t is the result of task t. The objects after the results are values of the caller and elements of results.
    """

    number: int
    at_s: float
    #: For each task: an index into `FUNCTIONS`.
    functions: Sequence[int]
    inputs: Sequence[Sequence[int]]
    #: For each object: the task that makes it, or -1 if the object is a value.
    producers: Sequence[int]
    #: For each task: the number of its group, or -1 if it has none. The tasks of a group run on one host.
    groups: Sequence[int]
    priorities: Sequence[float]
    #: The numbers of the objects that the caller wants.
    outputs: Sequence[int]
    #: The numbers of the objects that are kept on the hosts after the run.
    keep: Sequence[int]
    options: RunOptions
    speculation: Speculation | None
    manner: Manner
    durations_s: Sequence[float]
    sizes: Sequence[int]
    #: For some tasks: how many of the first attempts fail, and how they fail. All other attempts end well.
    bad: Mapping[int, tuple[int, Fate]]

    def __len__(self) -> int:
        return len(self.functions)

    def first(self, count: int) -> RunPlan:
        """Return this run with only its first ``count`` tasks."""
        outputs, keep = ([t for t in column if t < count] for column in (self.outputs, self.keep))
        return replace(self, functions=self.functions[:count], outputs=outputs, keep=keep)

    @cached_property
    def plan(self) -> Plan:
        """The plan of the run's graph."""
        graph = Graph()
        count, results, others = len(self), list[Output[Any]](), dict[int, Output[Any]]()
        leaders: dict[int, Output[Any]] = {}
        for t in range(count):
            args = [results[o] if o < t else self._other(graph, o, results, others) for o in self.inputs[t]]
            fn, options = FUNCTIONS[self.functions[t]]
            own: Options = {**options, "id": f"t{t}", "priority": self.priorities[t]}
            group = self.groups[t]
            if group in leaders:
                own["collocate_with"] = leaders[group]
            results.append(graph.add(fn, *args, **own))
            if group >= 0:
                leaders.setdefault(group, results[t])
        taken = {self.producers[o] if o >= count else o for inputs in self.inputs[:count] for o in inputs}
        # A result that no task takes is an output, because its function would otherwise not be part of the plan.
        return graph.compile(outputs=[results[t] for t in range(count) if t in self.outputs or t not in taken])

    def _other(
        self, graph: Graph, o: int, results: Sequence[Output[Any]], others: dict[int, Output[Any]]
    ) -> Output[Any]:
        """Return the output for an object that is a value or an element of a result."""
        if o not in others:
            producer = self.producers[o]
            others[o] = results[producer][str(o)] if producer >= 0 else graph.value(bytes(self.sizes[o]))
        return others[o]

    @cached_property
    def encoded(self) -> EncodedRun:
        """The run in serialized form."""
        return at_once(encode_plan(self.plan))

    def make_run(self, allocator: Allocator | None) -> RunState:
        """Return a new state of the run, for one life of the controller."""
        run = at_once(make_run(self.plan, self.encoded, self.options, self.number, allocator))
        run.spec = replace(run.spec, fn=self.functions, keep=self.keep, speculation=self.speculation)
        run.prepared = None  # the core makes its state from the replaced spec
        for number in self.keep:
            run.wanted[number] = 1
        return run

    def needed_of(self, t: int) -> set[str]:
        """Return the needed parts of a task's result, as they are named in the journal.

        A part is the whole result or an element. It is needed if the caller or another task takes it, or if it is kept
        on the hosts.
        """
        encoded, count = self.encoded, len(self)
        needed = {o for inputs in encoded.inputs for o in inputs} | {*self.plan.outputs, *self.keep}
        return {"" if o < count else str(o) for o in needed if encoded.producers[o] == t}

    def is_once(self, t: int) -> bool:
        """Return True if a task must not run twice."""
        return FUNCTIONS[self.functions[t]][1].get("idempotent") is False

    def nbytes(self, o: int) -> int:
        """Return the size of an object in bytes."""
        known = self.encoded.nbytes[o]
        return self.sizes[o % len(self.sizes)] if known < 0 else known

    def fate(self, t: int, attempt: int) -> Fate:
        """Return how an attempt ends."""
        times, fate = self.bad.get(t, (0, Fate.WELL))
        return fate if attempt <= times else Fate.WELL


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
        whims = [Whim(rng.random() * horizon_s, rng.choice(_WHIMS), rng.randrange(100)) for _ in range(count)]
        return cls(seed, hosts, runs, whims, {"seat": rng.randint(1, 2) * PARTS}, weather, horizon_s)

    @property
    def is_calm(self) -> bool:
        """True if nothing goes wrong and users do nothing, so that every task ends well in its first attempt."""
        well = all(not run.bad and run.manner.is_sound for run in self.runs)
        return well and not self.whims and not self.weather.rate and not self.weather.only_at


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
