"""What a simulated caller asks for: a graph of functions, and how their attempts end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import cached_property
from typing import Any

from handout.allocators import Allocator
from handout.execution.run_options import RunOptions
from handout.execution.shell.run_state import GraphRun
from handout.execution.shell.run_submission import make_run
from handout.graph import Graph, Output
from handout.graph.function_options import Options
from handout.graph.plan import Plan
from handout.graph.warm import Warm
from handout.protocol import numbering
from handout.scheduler.run_spec import Speculation
from handout.sim.allocators import Manner
from handout.slices import at_once
from handout.submission.arguments import EncodedRun, encode_plan

__all__ = ["FUNCTIONS", "Fate", "RunPlan", "SimulatedHome"]


def _plain(*inputs: object) -> None: ...


def _retried(*inputs: object) -> None: ...


def _wide(*inputs: object) -> None: ...


def _weightless(*inputs: object) -> None: ...


def _seated(*inputs: object) -> None: ...


def _either(*inputs: object) -> None: ...


def _once(*inputs: object) -> None: ...


def _stored(*inputs: object) -> None: ...


def _made(number: int) -> None: ...


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


@dataclass(eq=False)
class SimulatedHome:
    """A stored object; see `handout.graph.stored.Home`."""

    id: str
    place: tuple[int, int]
    nbytes: int
    holds_code: bool = False
    identity: bytes = b""
    modules: frozenset[str] = frozenset()

    def id_of(self, node: int, /) -> str:
        """Return the id."""
        return self.id

    def check(self, driver: Any) -> None:
        """Do nothing."""

    def use(self) -> None:
        """Do nothing, because the simulated controller counts the runs that borrow."""

    def unuse(self) -> None:
        """Do nothing."""

    async def fetch(self, path: Any, to: Any) -> Any:
        """Do nothing, because no caller fetches a simulated object."""

    async def drop(self) -> None:
        """Do nothing, because the simulated run that keeps the object closes itself."""


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
    #: The number of a run of which this run borrows objects, or 0.
    borrows: int = 0
    #: Tasks of which only the first attempt can end well.
    only_once: frozenset[int] = frozenset()
    #: Tasks that take a warm value, and the number of the value.
    warm: Mapping[int, int] = field(default_factory=dict)
    #: Names of the hosts that cannot make warm values for this run.
    cold: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.functions)

    @property
    def is_calm(self) -> bool:
        """True if all tasks end well when nothing else goes wrong."""
        return not self.bad and self.manner.is_sound and not self.cold

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
        warm = {number: Warm(_made, number) for number in self.warm.values()}
        for t in range(count):
            args: list[Any] = [results[o] if o < t else self._other(graph, o, results, others) for o in self.inputs[t]]
            if t in self.warm:
                args.append(warm[self.warm[t]])
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

    def make_run(self, allocator: Allocator | None, homes: Sequence[SimulatedHome] = ()) -> GraphRun:
        """Return a new state of the run, for one life of the controller.

        Args:
            allocator: The allocator of the run.
            homes: Objects that another run keeps. They take the places of the run's values.
        """
        run = at_once(make_run(self.plan, self.encoded, self.options, self.number, allocator))
        run.spec = replace(run.spec, fn=self.functions, keep=self.keep, speculation=self.speculation)
        recipes = self.encoded.warm
        values = [o for o in range(len(self), len(run.spec.producer)) if run.spec.producer[o] < 0 and o not in recipes]
        borrowed = dict(zip(values, homes, strict=False))
        run.spec = replace(run.spec, borrowed={o: home.place for o, home in borrowed.items()})
        for o, home in borrowed.items():
            run.borrow(o, home)
        run.prepared = None  # the core makes its state from the replaced spec
        for number in self.keep:
            run.wanted[number] = 1
        return run

    def recipe_of(self, inputs: Sequence[int], value: str) -> int:
        """Return the key of the object by which a task makes a warm value.

        Args:
            inputs: The keys of the objects that the task takes.
            value: The identity of the value.
        """
        warm = self.encoded.warm
        return next(key for key in inputs if warm.get(numbering.key_parts(key)[1]) == value)

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
        if attempt > 1 and t in self.only_once:
            return Fate.RAISES
        times, fate = self.bad.get(t, (0, Fate.WELL))
        return fate if attempt <= times else Fate.WELL
