"""`evaluate`: runs a graph in this process, without workers, for tests."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from handout.execution.in_process import evaluate_plan
from handout.execution.results import Results, run_of
from handout.execution.reuse import Reuse, Take, find_reusable
from handout.execution.run_options import Given
from handout.execution.run_values import fresh_value_of
from handout.failures import Failure
from handout.graph import Outs, Plan, Runnable, as_graph
from handout.host.task_context import HERE
from handout.scheduler.task_states import Outcome
from handout.slices import Slices, at_once
from handout.submission.arguments import encode_plan

if TYPE_CHECKING:
    from handout.execution.shell.run_state import GraphRun

__all__ = ["evaluate"]


def evaluate(graph: Runnable, /, *, outputs: Outs = None, given: Given | None = None) -> Results:
    """Run a graph in this process and thread, for tests. Breakpoints and coverage tools work inside the functions.

    Each function is called once, after the functions whose results it takes. It gets these results themselves, not
    copies of them. Costs are ignored. Coroutine functions run one after the other.

    Args:
        graph: A graph, or a list of `function` entries.
        outputs: The outputs that are wanted. None means every result that no other function takes.
        given: Values that replace outputs, by output or by id. A test can replace the results of functions in this way.
            The `Results` of a run can be given too. Of these, the results of functions that are the same in both graphs
            are used. The `Results` of `evaluate` are not used in this way, because the program may have changed modules
            between two calls without a trace: give a mapping, such as ``{output: results[output]}``.

    Returns:
        The results.

    Raises:
        GraphError: The graph is wrong. No function was called.
        Exception: The exception that a function raised, with the id of the function as a note.

    Example:
        ```python
        graph = handout.Graph()
        text = graph.add(input, "How long? ")
        length = graph.add(len, text)
        results = handout.evaluate(graph, given={text: "seven"})
        assert results[length] == 5
        ```
    """
    earlier = run_of(given) if isinstance(given, Results) else None
    plan = as_graph(graph).compile(outputs=outputs, given=given if earlier is None else None)
    found = None if earlier is None else at_once(_reusable(plan, earlier))
    scratch = tempfile.mkdtemp(prefix="handout-evaluate-")
    try:
        if found is None or earlier is None:
            run = _Evaluated(plan, evaluate_plan(plan, scratch))
        else:
            known = {number: each.taken for number, each in found.objects.items()}
            run = _Evaluated(plan, evaluate_plan(plan, scratch, found.done, known))
            run.reused = {task: found.source(task, earlier.plan) for task in found.done}
            run.anew = found.anew
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    # Results may be files in the scratch folder, so the folder must exist as long as the results do.
    weakref.finalize(run, shutil.rmtree, scratch, ignore_errors=True)
    return Results(cast("GraphRun", run))


def _reusable(plan: Plan, earlier: GraphRun) -> Slices[Reuse]:
    """Find what can be taken from an earlier run. Values are unpickled anew, because functions may change them."""
    encoded = yield from encode_plan(plan, is_lenient=True)
    take: Take = lambda number, path: fresh_value_of(earlier, number, path)  # noqa: E731
    return (yield from find_reusable(plan, encoded, earlier, take))


@dataclass(eq=False)
class _Evaluated:
    """Takes the place of the `GraphRun` that `Results` reads. All functions of the run are done."""

    plan: Plan
    values: dict[int, Any]
    failures: dict[int, Failure] = field(default_factory=dict)
    failed_order: Sequence[int] = ()
    error: Exception | None = None
    reused: Mapping[int, str] = field(default_factory=dict)
    anew: Mapping[int, str] = field(default_factory=dict)

    def identities(self) -> Slices[None]:
        """Return None, because no identities were noted."""
        yield from ()

    def holds(self, number: int) -> bool:
        """Return False, because no identities were noted."""
        return False

    @property
    def spec(self) -> _Evaluated:
        return self

    @property
    def objects(self) -> dict[int, Any]:
        return self.values

    @property
    def outputs(self) -> Sequence[int]:
        return self.plan.outputs

    @property
    def producer(self) -> Sequence[int]:
        return self.plan.producers

    @cached_property
    def hosts(self) -> list[str]:
        return [HERE] * len(self.plan)

    @cached_property
    def outcomes(self) -> list[Outcome]:
        return [Outcome.DONE] * len(self.plan)
