"""`execute`, `start` and `run`: one graph on a cluster of its own."""

from __future__ import annotations

import asyncio
import logging
from typing import Unpack, cast

from handout.errors import HandoutError
from handout.execution.cluster_runtime import ClusterRuntime
from handout.execution.execution import Execution
from handout.execution.interrupt import run_until_interrupted
from handout.execution.options import ClusterOptions, RunOptions
from handout.execution.results import Results
from handout.graph import Runnable, as_graph

__all__ = ["Runnable", "execute", "run", "start"]

logger = logging.getLogger("handout")


def start(graph: Runnable, /, **run: Unpack[ClusterOptions]) -> Execution:
    """Run a graph and watch it: ``async with handout.start(graph, ...) as execution``.

    Args:
        graph: A graph, or a list of :func:`function` entries.
        **run: See :class:`ClusterOptions`: ``inventory``, ``allocator``, ``outputs``, ``retries``, ...
    """
    cluster = ClusterRuntime(
        run.get("inventory"),
        allocator=run.get("allocator"),
        require=run.get("require", "any"),
        timings=run.get("timings"),
    )
    rest = cast(RunOptions, {k: v for k, v in run.items() if k not in ("inventory", "require", "timings")})
    return Execution(cluster, as_graph(graph), rest, owns_cluster=True)


async def execute(graph: Runnable, /, **run: Unpack[ClusterOptions]) -> Results:
    """Run a graph on the hosts of an inventory, and return its results.

    Args:
        graph: A graph, or a list of :func:`function` entries.
        **run: See :class:`ClusterOptions`: ``inventory``, ``allocator``, ``outputs``, ``retries``, ...
    Returns: The results; outputs are with the caller, nothing is left on the hosts.
    Raises:
        GraphError: The graph is wrong; nothing was run.
        PlacementError: No host can ever run a function.
        HostError: Too few hosts can be reached.
        Exception: The first failing function's own exception.
    """
    async with start(graph, **run) as execution:
        return await execution.results()


def run(graph: Runnable, /, **run: Unpack[ClusterOptions]) -> Results:
    """:func:`execute` for code that is not async.

    Ctrl-C ends what runs on the hosts, says how far the run had come, and raises `KeyboardInterrupt`; a second one ends
    the program at once, and the hosts end what runs there when their leases are over.

    Raises:
        HandoutError: A loop is running already: await :func:`execute` there.
    """
    if asyncio._get_running_loop() is not None:
        raise HandoutError("An event loop is running here already.", remedy="Use `await handout.execute(...)` instead.")
    return run_until_interrupted(lambda: _until_interrupted(start(graph, **run)))


async def _until_interrupted(execution: Execution) -> Results:
    async with execution:
        try:
            return await execution.results()
        except asyncio.CancelledError:
            # Nobody but Ctrl-C cancels it.
            logger.warning(
                "Interrupted: %r. Ending what runs on the hosts; Ctrl-C again leaves that to them.", execution
            )
            raise
