"""The calls of a cluster: single functions that run on its hosts, without a graph."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from handout.allocators import Allocator
from handout.errors import HandoutError, ResultError
from handout.execution.equal_arguments import EqualArguments
from handout.execution.run_values import read_value
from handout.execution.shell.driver import Driver
from handout.execution.shell.open_run import OpenRun
from handout.execution.sliced import sliced
from handout.scheduler.task_states import Outcome
from handout.submission.code_bundles import CodeBundle, bundle_modules
from handout.submission.single_call import EncodedCall

__all__ = ["Calls"]

#: An open run gets this many tasks. Its columns are made at once, which takes 0.1 ms.
_CAPACITY: Final = 1024
#: At most this many open runs wait for further tasks. Each takes 90 KB, and a program may give each call another
#: priority, such as the time.
_MOST_OPEN: Final = 16
#: `_bundle` takes this many steps at once. Usually the bundle exists already, and finding it takes one step.
_STEPS: Final = 4


class Calls:
    """Runs calls on the hosts of one cluster, from its opening to its close.

    Args:
        driver: The driver of the cluster.
        next_run: Returns a run number that no other run of the cluster has.
        allocator: The allocator of the cluster.
    """

    def __init__(self, driver: Driver, next_run: Callable[[], int], allocator: Allocator | None) -> None:
        self._driver = driver
        self._next_run = next_run
        self._allocator = allocator
        self._numbers = itertools.count(1)
        self._arguments = EqualArguments(driver, next_run)
        #: The run that gets the next tasks, by the priority of its tasks. The one that was used last is at the end.
        self._open: OrderedDict[float, OpenRun] = OrderedDict()

    async def run(self, call: EncodedCall, handed_over: Callable[[], object] | None = None) -> Any:
        """Run a call, and return its result.

        If the caller is cancelled, the task is cancelled, and this method does not wait for its end.

        Args:
            call: The call.
            handed_over: Called once, when the task of the call is first handed over to a host.

        Raises:
            Exception: The exception that the function raised, or another reason for which there is no result.
        """
        bundle = await _bundle(call.bytes.modules)
        for value in call.bytes.values:
            if not isinstance(value, Sequence):
                value.check(self._driver)
        ended = asyncio.get_running_loop().create_future()
        run = self._run_for(call.options.priority)
        id = f"{call.name}[{next(self._numbers)}]"
        taken = self._arguments.take(call.bytes.values) if call.bytes.values or self._arguments.has_idle else None
        if taken is not None:
            call = replace(call, bytes=call.bytes._replace(values=taken.values))
        task = run.add(call, bundle, id, lambda: None if ended.done() else ended.set_result(None), handed_over)
        try:
            await ended
            return await self._result(run, task, id)
        finally:
            run.let_go(task)
            if taken is not None:
                self._arguments.give_back(taken.arguments)

    def close(self) -> None:
        """Free the arguments, because the cluster was closed."""
        self._arguments.close()

    def _run_for(self, priority: float) -> OpenRun:
        run = self._open.get(priority)
        if run is None or run.is_full:
            run = self._open[priority] = OpenRun(
                self._driver, self._next_run(), _CAPACITY, priority=priority, allocator=self._allocator
            )
            while len(self._open) > _MOST_OPEN:
                _, oldest = self._open.popitem(last=False)
                oldest.end()
        self._open.move_to_end(priority)
        return run

    async def _result(self, run: OpenRun, task: int, id: str) -> Any:
        state = run.state
        if state.outcomes[task] is None:
            if state.error is None or (self._driver.is_closed and self._driver.broken is None):
                # Not the error of the run, which all calls share: each caller's frames would be added to its traceback.
                raise HandoutError(
                    f"The cluster was closed before call {id!r} had ended.",
                    remedy="Await all calls before the cluster is closed, inside its `async with` block.",
                )
            raise state.error
        if state.outcomes[task] is Outcome.DONE and task not in state.objects:
            raise ResultError(
                f"The host {state.hosts[task]!r} reported the end of call {id!r}, but sent no result.",
                remedy="Run the call again.",
                id=id,
                host=state.hosts[task] or None,
                path="result",
            )
        return await read_value(self._driver.reading_threads, state, task, (), id)


async def _bundle(modules: frozenset[str]) -> CodeBundle | None:
    """Return the bundle of the user's own modules among ``modules``, or None if there is no such module."""
    if not modules:
        return None
    work = bundle_modules(modules)
    try:
        for _ in range(_STEPS):
            next(work)
    except StopIteration as end:
        found: CodeBundle | None = end.value
        return found
    return await sliced(work)
