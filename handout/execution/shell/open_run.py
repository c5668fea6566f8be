"""The driver's state of an open run, to which the calls of a cluster add tasks while it goes on."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from handout.allocators import Allocator, builtin_name
from handout.execution.shell.driver import Driver
from handout.execution.shell.run_objects import RunObjects
from handout.execution.shell.run_state import RunState
from handout.graph.function_options import TaskOptions
from handout.scheduler import events as ev
from handout.scheduler.run_spec import Profile, RunSpec
from handout.submission.arguments import EncodedRun
from handout.submission.call_digests import CallDigests
from handout.submission.code_bundles import CodeBundle, FunctionBlob
from handout.submission.plan_to_spec import RunPolicy, Traits, make_profile
from handout.submission.single_call import EncodedCall

__all__ = ["OpenRun"]


class OpenRun:
    """An open run. It gets up to ``capacity`` tasks, and is closed once all of them have ended, or after `end`.

    So the memory of a cluster does not grow with the number of calls: what the core, the driver and the agents know of
    an ended task goes with its run, and the next tasks are added to the next open run.

    Args:
        driver: The driver of the cluster.
        number: The number of the run.
        capacity: The number of tasks that the run can get.
        priority: The priority of the tasks.
        allocator: The allocator of the cluster.
    """

    def __init__(
        self, driver: Driver, number: int, capacity: int, *, priority: float = 0.0, allocator: Allocator | None = None
    ) -> None:
        policy = RunPolicy(allocator=allocator, on_failure="continue", priority=priority)
        spec = RunSpec.open(capacity, on_failure="continue", allocator=builtin_name(allocator), run_priority=priority)
        encoded = EncodedRun([], [], [], [], spec.producer, spec.nbytes, {}, None, CallDigests(b"", [], {}))
        self.state = RunState(
            number=number,
            encoded=encoded,
            spec=spec,
            policy=policy,
            objects=RunObjects({}, policy.max_memory),
            traits=[],
            task_objects=[],
            wanted=bytearray(b"\1" * capacity),
            started_at=asyncio.get_running_loop().time(),
            context=contextvars.Context(),  # each task has its own, see `add`
        )
        self._driver = driver
        self._capacity = capacity
        #: True if the run gets no more tasks, although it could.
        self._has_ended = False
        #: The number of the next object that a large argument becomes.
        self._next_value = capacity
        #: The values of each task that has not ended.
        self._values: dict[int, range] = {}
        #: The index of each profile, by the function's number, the identity of the options and the key of the bundle.
        #: The options stay alive with the entry, so that no other options get the same identity.
        self._profiles: dict[tuple[int, int, int], tuple[int, TaskOptions]] = {}
        #: The number of each function in the core's durations, by the function's number.
        self._fns: dict[int, int] = {}
        #: The index of each function in ``encoded.functions``, by the function's number.
        self._functions: dict[int, int] = {}
        self._bundles: set[int] = set()
        driver.submit(self.state)

    @property
    def is_full(self) -> bool:
        """True if the run can get no more tasks."""
        return self.state.task_count >= self._capacity

    def add(
        self,
        call: EncodedCall,
        bundle: CodeBundle | None,
        id: str,
        ended: Callable[[], None],
        handed_over: Callable[[], object] | None = None,
    ) -> int:
        """Add a task, and return its number.

        Args:
            call: The bytes of the task's call.
            bundle: The user's own modules that the call needs.
            id: The id of the task.
            ended: Called once, when the task or the run has ended.
            handed_over: Called once, when the task is first handed over to a host.
        """
        run, encoded = self.state, cast(Any, self.state.encoded)  # the sequences of an open run are lists
        task = run.task_count
        values = range(self._next_value, self._next_value + len(call.bytes.values))
        self._next_value = values.stop
        function = call.bytes.function
        if bundle is not None:
            function = replace(function, needs_bundle=True)
        profile, new = self._profile(call, function, bundle)
        encoded.calls.append(call.bytes.blob)
        encoded.fn.append(self._function(function))
        encoded.inputs.append(tuple(values))
        warm = {values[place]: value for place, value in call.bytes.warm.items()}
        encoded.warm.update(warm)
        borrowed, nbytes = self._supply(values, call)
        self._values[task] = values
        run.wanted.extend(b"\1" * len(values))
        cast(Any, run.task_objects).append((task,))
        run.outcomes.append(None)
        run.hosts.append("")
        run.on_task_end[task] = [ended]
        if handed_over is not None:
            run.on_hand_over[task] = handed_over
        if call.options.retry_on is not None:
            run.contexts[task] = contextvars.copy_context()
        fn = self._fns.setdefault(function.number, len(self._fns))
        self._driver.post(
            ev.TasksAdded(
                run.number, new, [profile], [fn], [tuple(values)], nbytes, [id], [call.options.labels], borrowed, warm
            )
        )
        if run.ended.is_set():
            run.task_ended(task)  # the cluster has failed or was closed, and the run gets no more events
        return task

    def _supply(self, numbers: range, call: EncodedCall) -> tuple[dict[int, tuple[int, int]], list[int]]:
        """Hold the values of a call. Return the places of those that are stored on hosts, and all sizes in bytes."""
        run, borrowed, nbytes = self.state, dict[int, tuple[int, int]](), list[int]()
        for number, value in zip(numbers, call.bytes.values, strict=True):
            if isinstance(value, Sequence):
                run.objects.supply(number, value)
                nbytes.append(run.objects.size(number))
            else:
                borrowed[number] = value.place
                nbytes.append(value.nbytes)
                run.borrow(number, value)
        return borrowed, nbytes

    def _function(self, function: FunctionBlob) -> int:
        found = self._functions.get(function.number)
        if found is None:
            functions = cast(Any, self.state.encoded.functions)
            found = self._functions[function.number] = len(functions)
            functions.append(function)
            self._driver.use_code(function.number, None)
        return found

    def _profile(
        self, call: EncodedCall, function: FunctionBlob, bundle: CodeBundle | None
    ) -> tuple[int, list[Profile]]:
        """Return the index of a call's profile. Also return the profile itself in a list if it is new."""
        key = function.number, id(call.options), 0 if bundle is None else bundle.key
        found = self._profiles.get(key)
        if found is not None:
            return found[0], []
        number = len(self.state.traits)
        self._profiles[key] = number, call.options
        options = self.state.policy.apply(call.options)
        cast(Any, self.state.traits).append(Traits(options, call.is_coroutine, bundle))
        if bundle is not None and bundle.key not in self._bundles:
            self._bundles.add(bundle.key)
            self._driver.use_code(None, bundle.key)
        return number, [make_profile(options, function, call.qualified_name)]

    def let_go(self, task: int) -> None:
        """Free what the driver knows of a task. Close the run if it is full and this was its last task.

        If the task has not ended, it is cancelled first.
        """
        run = self.state
        if run.outcomes[task] is None and not run.ended.is_set():
            run.on_task_end[task] = [lambda: self.let_go(task)]
            self._driver.post(ev.CancelRequested(run.number, [task]))
            return
        values = self._values.pop(task, None)
        if values is None:
            return  # the caller has let go of it before
        run.objects.drop([task, *values])
        run.give_back(values)
        cast(Any, run.encoded.calls)[task] = b""
        for value in values:
            cast(Any, run.encoded.warm).pop(value, None)
        run.values.pop(task, None)
        run.suspects.pop(task, None)
        run.failures.pop(task, None)
        run.histories.pop(task, None)
        run.contexts.pop(task, None)
        run.on_hand_over.pop(task, None)
        run.logs.forget(task)
        self._close_if_done()

    def end(self) -> None:
        """Close the run as soon as the callers have let go of all of its tasks. No more tasks may be added."""
        self._has_ended = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if (self._has_ended or self.is_full) and not self._values:
            self._driver.forget(self.state)
            self.state.finish(None)
