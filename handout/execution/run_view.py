"""`RunView`: what is known of one run of a cluster at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from handout.execution.shell.driver import Driver
from handout.execution.shell.run_state import GraphRun, RunState
from handout.scheduler.task_states import Outcome

__all__ = ["RunView", "views_of"]


@dataclass(frozen=True, slots=True)
class RunView:
    """One run of a cluster at the moment at which `Cluster.runs` was read.

    Example:
        ```python
        def health(cluster: handout.Cluster) -> dict[str, int]:
            return {f"{run.kind}-{number}": run.unfinished for number, run in enumerate(cluster.runs)}
        ```
    """

    kind: Literal["graph", "calls"]
    """``"graph"`` for a run of a graph, ``"calls"`` for all calls of the cluster together."""
    age_s: float
    """Seconds since the run began. For calls: since the oldest open call, or one of the calls before it, began."""
    unfinished: int
    """Number of tasks that have not ended."""
    handed_over: int
    """How many of these tasks a host has. It runs them, or will run them next."""
    failed: int
    """Number of tasks that have failed. For calls it is 0, because each call tells its caller how it has ended."""


def views_of(driver: Driver) -> Sequence[RunView]:
    """Return a view of each run of a driver, the calls last."""
    graphs = [_view("graph", [run], driver) for run in driver.runs.values() if isinstance(run, GraphRun)]
    calls = [run for run in driver.runs.values() if not isinstance(run, GraphRun) and None in run.outcomes]
    return (*graphs, _view("calls", calls, driver)) if calls else tuple(graphs)


def _view(kind: Literal["graph", "calls"], runs: list[RunState], driver: Driver) -> RunView:
    known = [driver.core.world.runs[run.number] for run in runs if run.number in driver.core.world.runs]
    return RunView(
        kind,
        driver.now - min(run.started_at for run in runs),
        sum(run.outcomes.count(None) for run in runs),
        sum(run.active for run in known),
        sum(run.outcomes.count(Outcome.FAILED) for run in runs) if kind == "graph" else 0,
    )
