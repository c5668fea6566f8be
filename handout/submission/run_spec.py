"""From a plan to what the core is told of its run, and what agents are told of its tasks."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

from handout.allocators import Allocator, builtin_name
from handout.errors import GraphError
from handout.graph.plan import Plan
from handout.resources import Requirement, compile_cost
from handout.resources.cost import Cost
from handout.scheduler.spec import Profile, RunSpec, Speculation
from handout.submission.arguments import EncodedRun

__all__ = ["DEFAULT_MAX_MEMORY", "JournalResults", "RunPolicy", "Traits", "make_spec"]

#: What is committed of a run: every result that something takes, or only what the caller gets.
JournalResults = Literal["all", "outputs"]
#: Bytes of results in the controller's memory.
DEFAULT_MAX_MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """What the caller said about the run as a whole."""

    allocator: Allocator | None = None
    retries: int = 0
    on_failure: Literal["fail_fast", "continue"] = "fail_fast"
    max_concurrency: int | None = None
    timeout_s: float | None = None
    priority: float = 0.0
    max_memory: int = DEFAULT_MAX_MEMORY
    enforce_memory: bool = False
    max_result_bytes: int | None = None
    speculate: bool = False
    journal: str | PathLike[str] | None = None
    journal_results: JournalResults = "all"


@dataclass(frozen=True, slots=True)
class Traits:
    """What a profile's tasks have in common that matters to the agent, not to the core."""

    timeout_s: float | None
    idempotent: bool
    enforce_memory: bool
    max_result_bytes: int | None
    coroutine: bool
    needs_bundle: bool


def make_spec(plan: Plan, encoded: EncodedRun, policy: RunPolicy) -> tuple[RunSpec, list[Traits]]:
    """A run's columns for the core, and by profile what agents are told.

    Args:
        plan: The validated graph.
        encoded: Its calls, with the objects that its large arguments became.
        policy: What the caller said about the run.

    Raises:
        GraphError: A function is to be held to a memory cost that it does not have.
    """
    journaled = policy.journal is not None
    outputs = _journaled_objects(plan, encoded, policy.journal_results) if journaled else plan.outputs
    profiles = _Profiles(plan, encoded, policy)
    column = [profiles.number(task) for task in range(len(plan))]
    options_column = plan.options
    has_labels = any(o.labels for o in {id(o): o for o in options_column}.values())
    has_priority = any(o.priority for o in {id(o): o for o in options_column}.values())
    spec = RunSpec(
        count=len(plan),
        profiles=profiles.known,
        profile=column,
        fn=[encoded.functions[fn].number for fn in encoded.fn],
        inputs=encoded.inputs,
        producer=encoded.producers,
        nbytes=encoded.nbytes,
        outputs=outputs,
        keep=plan.keep,
        priority=[o.priority for o in options_column] if has_priority else None,
        group=plan.groups if any(g >= 0 for g in plan.groups) else None,
        on_failure=policy.on_failure,
        max_concurrency=policy.max_concurrency,
        allocator=builtin_name(policy.allocator),
        labels=[o.labels for o in options_column] if has_labels else None,
        ids=plan.ids,
        run_priority=policy.priority,
        speculation=Speculation() if policy.speculate else None,
    )
    return spec, profiles.traits


class _Profiles:
    """The profiles of a run, each once: tasks of one function with the same options share one."""

    def __init__(self, plan: Plan, encoded: EncodedRun, policy: RunPolicy) -> None:
        self.known: list[Profile] = []
        self.traits: list[Traits] = []
        self._plan = plan
        self._encoded = encoded
        self._policy = policy
        self._numbers: dict[tuple[int, int], int] = {}
        self._requirements: dict[int, Requirement] = {}

    def number(self, task: int) -> int:
        """The profile of a task.

        Raises:
            GraphError: It is to be held to a memory cost that it does not have.
        """
        key = id(self._plan.options[task]), self._encoded.fn[task]
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.known)
            self._add(task)
        return number

    def _add(self, task: int) -> None:
        options, policy, called = self._plan.options[task], self._policy, self._plan.fns[task]
        function = self._encoded.functions[self._encoded.fn[task]]
        needs = tuple(self._requirement(cost) for cost in options.costs)
        if options.enforce_memory:
            _check_memory(self._plan.ids[task], needs)
        self.known.append(
            Profile(
                requirements=needs,
                retries=policy.retries if options.retries is None else options.retries,
                backoff_s=options.backoff_s,
                host=options.host,
                idempotent=options.idempotent,
                python=function.python,
                fn_name=getattr(called, "__qualname__", type(called).__qualname__),
            )
        )
        self.traits.append(
            Traits(
                timeout_s=options.timeout_s,
                idempotent=options.idempotent,
                enforce_memory=policy.enforce_memory if options.enforce_memory is None else options.enforce_memory,
                max_result_bytes=options.max_result_bytes or policy.max_result_bytes,
                coroutine=_is_coroutine(called),
                needs_bundle=function.needs_bundle,
            )
        )

    def _requirement(self, cost: Cost) -> Requirement:
        known = self._requirements.get(id(cost))
        if known is None:
            known = self._requirements[id(cost)] = compile_cost(cost)
        return known


def _check_memory(id: str, needs: Sequence[Requirement]) -> None:
    """Refuse a function that is to be held to a cost that it does not have."""
    if any("memory" not in need.consumed for need in needs):
        raise GraphError(
            f"{id!r} has enforce_memory=True and no memory in its cost: there is nothing to hold it to.",
            remedy="Give it one in every variant of its cost, such as cost={'memory': '2 GB'}.",
        )


def _is_coroutine(fn: Any) -> bool:
    """Whether calling it gives a coroutine: what it wraps counts, a partial's function does, too."""
    while hasattr(fn, "func") and not inspect.isfunction(fn):
        fn = fn.func
    call = getattr(fn, "__call__", None)  # noqa: B004 - an instance's own, to look at and not to call
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call)


def _journaled_objects(plan: Plan, encoded: EncodedRun, results: JournalResults) -> list[int]:
    """The objects that a journaled run brings to the controller: its outputs first.

    A function that must not run twice has its result committed in any case: it could not be made again.
    """
    wanted = dict.fromkeys(plan.outputs)
    for inputs in encoded.inputs:
        for number in inputs:
            producer = encoded.producers[number]
            if producer >= 0 and (results == "all" or not plan.options[producer].idempotent):
                wanted[number] = None
    return list(wanted)
