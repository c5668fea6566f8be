"""Makes the driver's state of a run from a plan."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import chain

from handout.allocators import Allocator
from handout.execution.run_options import RunOptions
from handout.execution.shell.run_objects import RunObjects
from handout.execution.shell.run_state import GraphRun
from handout.graph.plan import Plan
from handout.scheduler.run_spec import RunSpec
from handout.scheduler.state.run_preparation import prepare_run
from handout.slices import Slices, is_slice_end
from handout.submission.arguments import EncodedRun
from handout.submission.plan_to_spec import IsMade, RunPolicy, made_by_the_run, make_spec

__all__ = ["make_run"]


def make_run(
    plan: Plan,
    encoded: EncodedRun,
    options: RunOptions,
    number: int,
    allocator: Allocator | None,
    is_made: IsMade = made_by_the_run,
) -> Slices[GraphRun]:
    """Return a run that is ready to be submitted.

    Args:
        plan: The validated graph.
        encoded: A snapshot of the graph's functions and arguments, as they are sent to hosts.
        options: The options of the run.
        number: Number of the run. No other run that the hosts know has this number.
        allocator: The cluster's allocator. The run uses it if its options name no allocator.
        is_made: See `make_spec`.

    Raises:
        GraphError: A function has ``enforce_memory=True`` and no memory in its cost.
    """
    policy = RunPolicy.of(options)
    if policy.allocator is None:
        policy = replace(policy, allocator=allocator)
    spec, traits = yield from make_spec(plan, encoded, policy, is_made)
    run = GraphRun(
        number=number,
        plan=plan,
        encoded=encoded,
        spec=spec,
        policy=policy,
        objects=RunObjects(encoded.values, policy.max_memory),
        traits=traits,
        task_objects=(yield from _task_objects(spec)),
        wanted=(yield from _wanted(spec)),
        prepared=(yield from prepare_run(number, spec)),
        started_at=asyncio.get_running_loop().time(),
    )
    for object_, home in encoded.borrowed.items():
        run.borrow(object_, home)
    return run


def _task_objects(spec: RunSpec) -> Slices[list[tuple[int, ...]]]:
    """Return for each task the object number of its whole result, then the object numbers of its elements."""
    made: list[tuple[int, ...]] = []
    for task in range(spec.count):
        if is_slice_end(task):
            yield
        made.append((task,))
    for number in range(spec.count, len(spec.producer)):
        if is_slice_end(number):
            yield
        if spec.producer[number] >= 0:
            made[spec.producer[number]] += (number,)
    return made


def _wanted(spec: RunSpec) -> Slices[bytearray]:
    """Return for each object 1 if a task, the caller or the cluster needs it, otherwise 0."""
    wanted = bytearray(len(spec.producer))
    for task, inputs in enumerate(spec.inputs):
        if is_slice_end(task):
            yield
        for number in inputs:
            wanted[number] = 1
    for seen, number in enumerate(chain(spec.outputs, spec.keep)):
        if is_slice_end(seen):
            yield
        wanted[number] = 1
    return wanted
