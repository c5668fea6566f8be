"""Describes a run for the scheduler's core, and the tasks of the run for agents.

The core gets a `RunSpec`. Its columns are sequences with one entry for each task, or for each object. Tasks of one
function with the same options share a profile. For each profile, the core gets a `Profile` and agents get `Traits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from typing import Any, Final, Literal, TypeAlias

from handout.allocators import Allocator, builtin_name
from handout.errors import GraphError
from handout.graph.function_options import TaskOptions
from handout.graph.naming import innermost
from handout.graph.plan import Plan
from handout.scheduler.run_spec import Profile, RunSpec, Speculation
from handout.serialization.user_objects import is_coroutine_function, qualified_name
from handout.slices import Slices, column, is_slice_end
from handout.submission.arguments import EncodedRun
from handout.submission.code_bundles import CodeBundle, FunctionBlob

__all__ = [
    "IsMade",
    "JournalResults",
    "RunPolicy",
    "Traits",
    "check_memory",
    "made_by_the_run",
    "make_profile",
    "make_spec",
]

#: The results that a journal commits. "all": those that another function or the caller takes. "outputs": those that the
#: caller takes, and those of functions that must not run twice.
JournalResults = Literal["all", "outputs"]
#: Options of a run that apply to each function for which the same option was not set.
_FUNCTION_DEFAULTS: Final = ("retries", "max_result_bytes", "enforce_memory")


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """The options in `handout.RunOptions` that matter after the run was submitted, with their defaults."""

    allocator: Allocator | None = None
    retries: int = 0
    on_failure: Literal["fail_fast", "continue"] = "fail_fast"
    max_concurrency: int | None = None
    timeout_s: float | None = None
    priority: float = 0.0
    max_memory: int = 1 << 30
    enforce_memory: bool = False
    max_result_bytes: int | None = None
    speculate: bool = False
    journal: str | PathLike[str] | None = None
    journal_results: JournalResults = "all"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> RunPolicy:
        """Return the policy of a run. `options` are the run's options, which were checked before."""
        return cls(**{each.name: options[each.name] for each in fields(cls) if each.name in options})

    def apply(self, options: TaskOptions) -> TaskOptions:
        """Return a function's options. The run's options replace those that were not set for the function."""
        missing = [name for name in _FUNCTION_DEFAULTS if getattr(options, name) is None]
        return replace(options, **{name: getattr(self, name) for name in missing}) if missing else options


@dataclass(frozen=True, slots=True)
class Traits:
    """Facts that hold for all tasks of a profile, and that agents need. The core does not need them."""

    #: The function's options. The run's options replace those that were not set for the function.
    options: TaskOptions
    #: True if calling the function returns a coroutine.
    coroutine: bool
    #: The bundle from which workers import the user's modules. None if the tasks need none of these modules.
    bundle: CodeBundle | None


#: Takes a task and an object of it. Returns False if neither the task nor an earlier run makes the object for this run.
IsMade: TypeAlias = Callable[[int, int], bool]


def made_by_the_run(task: int, number: int) -> bool:
    """Return True, because each task of the run makes its objects."""
    return True


def make_spec(
    plan: Plan, encoded: EncodedRun, policy: RunPolicy, is_made: IsMade = made_by_the_run
) -> Slices[tuple[RunSpec, list[Traits]]]:
    """Return the description of a run for the core, and the traits of each profile for agents.

    Args:
        plan: The validated graph.
        encoded: The bytes of the plan, with the objects that large arguments became.
        policy: The options of the run.
        is_made: Tells objects that no task makes for this run. A journal does not ask for these.

    Raises:
        GraphError: A function has ``enforce_memory=True``, and a variant of its cost has no memory.
    """
    journaled = policy.journal is not None
    outputs = plan.outputs
    if journaled:
        outputs = yield from _journaled_objects(plan, encoded, policy.journal_results, is_made)
    profiles = _Profiles(plan, encoded, policy)
    profile_column = yield from column(profiles.number, range(len(plan)))
    has_labels = any(traits.options.labels for traits in profiles.traits)
    has_priority = any(traits.options.priority for traits in profiles.traits)
    priorities = labels = None
    if has_priority:
        priorities = yield from column(lambda options: options.priority, plan.options)
    if has_labels:
        labels = yield from column(lambda options: options.labels, plan.options)
    spec = RunSpec(
        count=len(plan),
        profiles=profiles.known,
        profile=profile_column,
        fn=(yield from _duration_keys(encoded)),
        inputs=encoded.inputs,
        producer=encoded.producers,
        nbytes=encoded.nbytes,
        borrowed={number: home.place for number, home in encoded.borrowed.items()},
        warm=encoded.warm,
        outputs=outputs,
        keep=plan.keep,
        priority=priorities,
        group=plan.groups if max(plan.groups, default=-1) >= 0 else None,
        on_failure=policy.on_failure,
        max_concurrency=policy.max_concurrency,
        allocator=builtin_name(policy.allocator),
        labels=labels,
        ids=plan.ids,
        run_priority=policy.priority,
        speculation=Speculation() if policy.speculate else None,
    )
    return spec, profiles.traits


class _Profiles:
    """The profiles of a run. Tasks of one function with the same options share a profile."""

    def __init__(self, plan: Plan, encoded: EncodedRun, policy: RunPolicy) -> None:
        self.known: list[Profile] = []
        self.traits: list[Traits] = []
        self._plan = plan
        self._encoded = encoded
        self._policy = policy
        self._numbers: dict[tuple[int, int], int] = {}

    def number(self, task: int) -> int:
        """Return the number of a task's profile.

        Raises:
            GraphError: The task has ``enforce_memory=True``, and a variant of its cost has no memory.
        """
        key = id(self._plan.options[task]), self._encoded.fn[task]
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.known)
            self._add(task)
        return number

    def _add(self, task: int) -> None:
        own, called = self._plan.options[task], self._plan.fns[task]
        function = self._encoded.functions[self._encoded.fn[task]]
        check_memory(self._plan.ids[task], own)
        options = self._policy.apply(own)
        self.known.append(make_profile(options, function, qualified_name(innermost(called))))
        bundle = self._encoded.bundle if function.needs_bundle else None
        self.traits.append(Traits(options, is_coroutine_function(called), bundle))


def make_profile(options: TaskOptions, function: FunctionBlob, name: str) -> Profile:
    """Return the profile of the tasks that call a function with these options.

    Args:
        options: The options.
        function: The bytes of the function.
        name: The name of the function. The core remembers durations from run to run under this name.
    """
    return Profile(
        requirements=options.requirements,
        retries=options.retries or 0,
        backoff_s=options.backoff_s,
        host=options.host,
        idempotent=options.idempotent,
        python=function.python,
        fn_name=name,
    )


def check_memory(id: str, options: TaskOptions) -> None:
    """Check that a task with ``enforce_memory=True`` has a limit to enforce.

    Raises:
        GraphError: A variant of the task's cost has no memory.
    """
    if options.enforce_memory and any("memory" not in each.consumed for each in options.requirements):
        raise GraphError(
            f"Function {id!r} has enforce_memory=True and no memory in its cost, so there is no limit to enforce.",
            remedy="Add memory to every variant of the cost, such as cost={'memory': '2 GB'}.",
        )


def _duration_keys(encoded: EncodedRun) -> Slices[Sequence[int]]:
    """Return for each task the key under which the core keeps the expected duration of the task's function.

    Equal functions share a key, even if they are distinct objects. A function's ``number`` cannot be the key, because
    these numbers grow from run to run, and the core has an entry for each key up to the highest one.
    """
    keys: dict[int, int] = {}
    of_function = [keys.setdefault(function.number, len(keys)) for function in encoded.functions]
    if len(keys) == len(of_function):
        return encoded.fn
    return (yield from column(of_function.__getitem__, encoded.fn))


def _journaled_objects(plan: Plan, encoded: EncodedRun, results: JournalResults, is_made: IsMade) -> Slices[list[int]]:
    """Return the objects that a run with a journal brings to the controller. The run's outputs come first.

    If a function must not run twice and another function takes its result, this result is always among the objects,
    because it cannot be made again.
    """
    wanted = dict.fromkeys(plan.outputs)
    for task, inputs in enumerate(encoded.inputs):
        if is_slice_end(task):
            yield
        for number in inputs:
            producer = encoded.producers[number]
            if producer < 0 or not is_made(producer, number):
                continue
            if results == "all" or not plan.options[producer].idempotent:
                wanted[number] = None
    return list(wanted)
