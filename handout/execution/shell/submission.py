"""From a plan to a run as the shell keeps it."""

from __future__ import annotations

import asyncio

from handout.allocators import Allocator
from handout.execution.options import RunOptions
from handout.execution.shell.run_objects import ObjectTable
from handout.execution.shell.run_state import RunState
from handout.graph.plan import Plan
from handout.submission.arguments import encode_plan
from handout.submission.run_spec import DEFAULT_MAX_MEMORY, RunPolicy, make_spec

__all__ = ["make_run"]


def make_run(plan: Plan, options: RunOptions, number: int, allocator: Allocator | None) -> RunState:
    """A run, ready to be submitted, with a snapshot of its arguments.

    Args:
        plan: The validated graph.
        options: What the caller said about the run.
        number: By which hosts know it.
        allocator: Who goes where, unless the options say.

    Raises:
        UnserializableError: A function, an argument or a value cannot travel.
        GraphError: A function is to be held to a memory cost that it does not have.
    """
    policy = RunPolicy(
        allocator=options.get("allocator") or allocator,
        retries=options.get("retries", 0),
        on_failure=options.get("on_failure", "fail_fast"),
        max_concurrency=options.get("max_concurrency"),
        timeout_s=options.get("timeout_s"),
        priority=options.get("priority", 0.0),
        max_memory=options.get("max_memory", DEFAULT_MAX_MEMORY),
        enforce_memory=options.get("enforce_memory", False),
        max_result_bytes=options.get("max_result_bytes"),
        speculate=options.get("speculate", False),
        journal=options.get("journal"),
        journal_results=options.get("journal_results", "all"),
    )
    encoded = encode_plan(plan)
    spec, traits = make_spec(plan, encoded, policy)
    return RunState(
        number=number,
        plan=plan,
        encoded=encoded,
        spec=spec,
        policy=policy,
        objects=ObjectTable(encoded.values, policy.max_memory),
        traits=traits,
        started_at=asyncio.get_running_loop().time(),
    )
