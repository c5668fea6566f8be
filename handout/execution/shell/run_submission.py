"""Makes the driver's state of a run from a plan."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from handout.allocators import Allocator
from handout.execution.run_options import RunOptions
from handout.execution.shell.run_objects import RunObjects
from handout.execution.shell.run_state import RunState
from handout.graph.plan import Plan
from handout.submission.arguments import EncodedRun
from handout.submission.plan_to_spec import RunPolicy, make_spec

__all__ = ["make_run"]


def make_run(
    plan: Plan, encoded: EncodedRun, options: RunOptions, number: int, allocator: Allocator | None
) -> RunState:
    """Return a run that is ready to be submitted.

    Args:
        plan: The validated graph.
        encoded: A snapshot of the graph's functions and arguments, as they are sent to hosts.
        options: The options of the run.
        number: Number of the run. No other run that the hosts know has this number.
        allocator: The cluster's allocator. The run uses it if its options name no allocator.

    Raises:
        GraphError: A function has ``enforce_memory=True`` and no memory in its cost.
    """
    policy = RunPolicy.of(options)
    if policy.allocator is None:
        policy = replace(policy, allocator=allocator)
    spec, traits = make_spec(plan, encoded, policy)
    return RunState(
        number=number,
        plan=plan,
        encoded=encoded,
        spec=spec,
        policy=policy,
        objects=RunObjects(encoded.values, policy.max_memory),
        traits=traits,
        started_at=asyncio.get_running_loop().time(),
    )
