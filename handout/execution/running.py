"""`execute`, `start` and `run`: each connects to hosts, runs one graph on them, and ends the agents on the hosts."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, Unpack, cast

from handout.errors import HandoutError
from handout.execution.cluster_runtime import ClusterRuntime
from handout.execution.execution import Execution
from handout.execution.interrupt import run_until_interrupted
from handout.execution.results import Results
from handout.execution.run_options import ClusterOptions, RunOptions
from handout.graph import Runnable, as_graph
from handout.serialization.user_objects import brief

__all__ = ["Runnable", "execute", "run", "start"]

logger = logging.getLogger("handout")


P = ParamSpec("P")
R = TypeVar("R")


def _graph_alone(fn: Callable[P, R]) -> Callable[P, R]:
    """Return the function, with an error that says what to write if a caller gives the hosts by position."""

    def refuse(args: tuple[object, ...]) -> None:
        if len(args) > 1:
            raise HandoutError(
                f"handout.{fn.__name__} takes only the graph by position, and {brief(args[1])} follows it.",
                remedy=f"Name the hosts: handout.{fn.__name__}(graph, inventory=...).",
            )

    @functools.wraps(fn)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        refuse(args)
        return fn(*args, **kwargs)

    @functools.wraps(fn)
    async def checked_in_loop(*args: P.args, **kwargs: P.kwargs) -> Any:
        refuse(args)
        return await cast(Any, fn(*args, **kwargs))

    return cast(Callable[P, R], checked_in_loop) if inspect.iscoroutinefunction(fn) else checked


@_graph_alone
def start(graph: Runnable, /, **run: Unpack[ClusterOptions]) -> Execution:
    """Make an execution that connects to hosts itself: ``async with handout.start(graph, ...) as execution``.

    The arguments of the functions must not be changed before the ``async with`` block is entered, because they are read
    in several turns of the event loop until then.

    Args:
        graph: A graph, or a list of `function` entries.
        **run: The hosts and the options of the run, see `ClusterOptions` and `RunOptions`.

    Returns:
        The execution. When its ``async with`` block is entered, it connects to the hosts and begins the run.

    Raises:
        InventoryError: The inventory cannot be read, or has fewer hosts than ``require`` asks for.
        HandoutError: An option does not exist, or its value is not allowed.

    Example:
        ```python
        async def main() -> None:
            graph = handout.Graph()
            power = graph.add(pow, 2, 10)
            async with handout.start(graph, timeout_s=60) as execution:
                async for event in execution.events():
                    print(event)
                results = await execution.results()
            print(results[power])
        ```
    """
    cluster = ClusterRuntime(
        run.get("inventory"),
        allocator=run.get("allocator"),
        require=run.get("require", "any"),
        timings=run.get("timings"),
    )
    rest = cast(RunOptions, {k: v for k, v in run.items() if k not in ("inventory", "require", "timings")})
    return Execution(cluster, as_graph(graph), rest, owns_cluster=True)


@_graph_alone
async def execute(graph: Runnable, /, **run: Unpack[ClusterOptions]) -> Results:
    """Run a graph on the hosts of an inventory, and return its results.

    The arguments of the functions must not be changed before the run has begun, because they are read in several turns
    of the event loop.

    Args:
        graph: A graph, or a list of `function` entries.
        **run: The hosts and the options of the run, see `ClusterOptions` and `RunOptions`.

    Returns:
        The results, whose bytes have all been copied to this machine. Nothing is left on the hosts.

    Raises:
        GraphError: The graph is wrong. Nothing was run.
        InventoryError: The inventory cannot be read, or has fewer hosts than ``require`` asks for.
        PlacementError: The graph has a function that no host can ever run.
        HostError: Fewer hosts can be reached than ``require`` asks for, or all were lost.
        RunTimeoutError: The run took longer than its ``timeout_s``.
        JournalError: The journal cannot be used.
        HandoutError: An option does not exist, or its value is not allowed.
        Exception: The exception of the first function that failed.

    Example:
        ```python
        graph = handout.Graph()
        power = graph.add(pow, 2, 10)
        results = await handout.execute(graph)
        assert results[power] == 1024
        ```
    """
    async with start(graph, **run) as execution:
        return await execution.results()


@_graph_alone
def run(graph: Runnable, /, **run: Unpack[ClusterOptions]) -> Results:
    """Run a graph as `execute` does, from code that is not async.

    Ctrl-C and SIGTERM end the tasks on the hosts, log how many tasks had ended, and raise `KeyboardInterrupt` or
    `SystemExit`. A second signal ends the program at once. The supervisor on each host then ends the tasks there when
    the lease is over. This holds in the main thread, for each of the two signals that the program does not handle
    itself.

    Args:
        graph: A graph, or a list of `function` entries.
        **run: The hosts and the options of the run, see `ClusterOptions` and `RunOptions`.

    Returns:
        The results, as for `execute`.

    Raises:
        HandoutError: An event loop is running in this thread. In such a thread, await `execute` instead.
        KeyboardInterrupt: Ctrl-C was pressed.
        SystemExit: SIGTERM came. The exit status is 143.
        Exception: All that `execute` raises.

    Example:
        ```python
        if __name__ == "__main__":
            graph = handout.Graph()
            power = graph.add(pow, 2, 10)
            print(handout.run(graph)[power])
        ```
    """
    if asyncio._get_running_loop() is not None:
        raise HandoutError("An event loop runs in this thread.", remedy="Use `await handout.execute(...)` instead.")
    return run_until_interrupted(lambda: _until_interrupted(start(graph, **run)))


async def _until_interrupted(execution: Execution) -> Results:
    async with execution:
        try:
            return await execution.results()
        except asyncio.CancelledError:
            # Only Ctrl-C and SIGTERM cancel this asyncio task.
            logger.warning(
                "Interrupted: %r. Handout ends the tasks of this run on the hosts. %s A second Ctrl-C or SIGTERM ends "
                "this program at once, without waiting for that: the hosts then end the tasks after host_timeout_s "
                "without a message, and results that are not in a journal yet are lost.",
                execution,
                "The results of this run are lost, because it has no journal."
                if execution._recorder is None
                else "The results in the journal stay: the next run with it runs only the other tasks.",
            )
            raise
