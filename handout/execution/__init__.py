"""The part of Handout that callers use with asyncio: it connects to hosts, runs graphs on them, and returns results."""

from __future__ import annotations

from handout.execution.cluster import Cluster
from handout.execution.event_streams import Ended
from handout.execution.execution import Execution
from handout.execution.results import Results
from handout.execution.run_options import ClusterOptions, RunOptions
from handout.execution.running import Runnable, execute, run, start
from handout.failures import Failure, failure

__all__ = [
    "Cluster",
    "ClusterOptions",
    "Ended",
    "Execution",
    "Failure",
    "Results",
    "RunOptions",
    "Runnable",
    "execute",
    "failure",
    "run",
    "start",
]
