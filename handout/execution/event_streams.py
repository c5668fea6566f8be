"""The async iterators of an execution: the events of its run, the lines that a task prints, and the ends of functions.

The iterators only read the state of the run. They send nothing to hosts, and the run never waits for their readers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from handout.events import EventsMissed, RunEvent
from handout.execution.bounded_buffer import BoundedBuffer
from handout.execution.shell.run_state import GraphRun
from handout.failures import Failure
from handout.graph import Output
from handout.serialization.printable import printable_line

__all__ = ["Ended", "watch_ends", "watch_events", "watch_log"]

R = TypeVar("R")

#: How many events a slow reader may be behind. If more events are waiting for the reader, the oldest are dropped.
_MAX_EVENTS = 100_000


@dataclass(frozen=True, slots=True)
class Ended(Generic[R]):
    """An output whose function has ended, as `Execution.ended` yields it.

    Attributes:
        at_s: Seconds from the start of the run until the function ended. If the function had already ended when
            `Execution.ended` was called, the seconds from the start of the run until that call.
        id: The id of the output: the id of its function, and for an element also its key, as in ``train['weights']``.
        failure: Why the function has no result, or None if it has one.

    Example:
        ```python
        async def show(execution: handout.Execution, outputs: list[handout.Output[int]]) -> None:
            async for ended in execution.ended(outputs):
                print(ended.at_s, ended.id, ended.failure or await ended.result())
        ```
    """

    at_s: float
    id: str
    failure: Failure | None
    _fetch: Callable[[], Any]

    async def result(self) -> R:
        """Fetch the result.

        Returns:
            The value of the output.

        Raises:
            Exception: The exception that the function raised.
        """
        result: R = await self._fetch()
        return result


def watch_ends(
    run: GraphRun, outputs: Iterable[Output[R]], fetch: Callable[[Output[R]], Awaitable[R]]
) -> AsyncIterator[Ended[R]]:
    """Yield the given outputs, each of them once, in the order in which their functions end.

    Outputs of functions that have already ended come first.

    Args:
        run: A submitted run.
        outputs: Outputs of the run's graph.
        fetch: Returns the value of an output.

    Raises:
        GraphError: An element of ``outputs`` is not an output of this run.
    """
    ready: deque[tuple[float, Output[R]]] = deque()
    wake = asyncio.Event()
    loop = asyncio.get_running_loop()
    remaining = 0

    def arrived(output: Output[R]) -> None:
        ready.append((loop.time() - run.started_at, output))
        wake.set()

    for output in outputs:
        remaining += 1
        number, _ = run.plan.locate(output)
        producer = run.spec.producer[number]
        if producer < 0 or run.outcomes[producer] is not None or run.ended.is_set():
            arrived(output)
        else:
            run.on_task_end.setdefault(producer, []).append(lambda output=output: arrived(output))  # type: ignore[misc]

    async def in_order() -> AsyncIterator[Ended[R]]:
        for _ in range(remaining):
            while not ready:
                wake.clear()
                await wake.wait()
            at_s, output = ready.popleft()
            number, _ = run.plan.locate(output)
            failure = run.failures.get(run.spec.producer[number])
            yield Ended(at_s, output.id, failure, lambda output=output: fetch(output))  # type: ignore[misc]

    return in_order()


async def watch_events(run: GraphRun) -> AsyncIterator[RunEvent]:
    """Yield the events of a run from now on, until it has ended. First yield those about results of earlier runs."""
    seen: BoundedBuffer[RunEvent] = BoundedBuffer(_MAX_EVENTS)
    wake = asyncio.Event()

    def watch(batch: Sequence[RunEvent]) -> None:
        seen.extend(batch)
        wake.set()

    run.watch(watch)
    missed_so_far = run.events_so_far(asyncio.get_running_loop().time() - run.started_at)
    finished = asyncio.ensure_future(run.ended.wait())
    finished.add_done_callback(lambda _: wake.set())
    try:
        for early in missed_so_far:
            yield early
        while True:
            while seen:
                missed, seen.dropped = seen.dropped, 0
                event = seen.take()  # now, because further events may be dropped while the reader handles the gap
                if missed:
                    yield EventsMissed(event.at_s, missed)
                yield event
            if run.ended.is_set():
                return
            wake.clear()
            await wake.wait()
    finally:
        finished.cancel()
        run.unwatch(watch)


async def watch_log(run: GraphRun, task: int, colours: bool) -> AsyncIterator[str]:
    """Yield the lines that a task prints: first the lines that `RunLogs` has kept, then new lines until the task ends.

    Args:
        run: A submitted run.
        task: The number of the task.
        colours: True to keep the sequences that set colours and styles. All other control characters are escaped.
    """
    wake = asyncio.Event()
    reader = run.logs.follow(task, wake.set)
    if run.outcomes[task] is None and not run.ended.is_set():
        run.on_task_end.setdefault(task, []).append(wake.set)
    try:
        while True:
            for line in reader.take():
                yield printable_line(line, colours)
            if run.outcomes[task] is not None or run.ended.is_set():
                return
            wake.clear()
            await wake.wait()
    finally:
        run.logs.unfollow(task, reader)
