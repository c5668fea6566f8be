"""Handout runs a DAG of Python functions on the hosts you can already ``ssh`` to.

This package has all public names. A name is imported only when a program first uses it. So a program that only needs
the decorator `options` does not wait until all other parts of Handout are imported.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if sys.platform in ("win32", "cygwin"):  # otherwise the first missing module of the standard library would be the error
    raise ImportError(
        "Handout's controller, the program that imports handout, runs on Linux, on macOS and in WSL, the Windows "
        f"Subsystem for Linux. This Python runs on Windows ({sys.platform}). Install WSL (`wsl --install`), and run "
        "this program with a Python there. Hosts run Linux or macOS too."
    )

if TYPE_CHECKING:
    from handout import errors as errors
    from handout import events as events
    from handout.allocators import (
        Allocator,
        ClusterView,
        Draft,
        HostState,
        HostView,
        InputView,
        Link,
        Task,
        first_available,
        load_balanced,
        locality,
    )
    from handout.errors import (
        AllocatorError,
        AuthenticationError,
        BootstrapError,
        CostError,
        DamagedFileError,
        DependencyError,
        GraphError,
        HandoutError,
        HostError,
        HostKeyError,
        HostLostError,
        HostUnreachableError,
        HostUnstableError,
        InternalError,
        InventoryError,
        JournalError,
        MemoryExceededError,
        NotAValueError,
        OutcomeUnknownError,
        PlacementError,
        RemoteError,
        ResultError,
        ResultTooLargeError,
        RunTimeoutError,
        SetupError,
        TaskCancelledError,
        TaskError,
        TaskExitedError,
        TaskTimeoutError,
        TrustError,
        UnserializableError,
        WireError,
        WorkdirError,
        WorkerDiedError,
    )
    from handout.events import RunEvent as Event
    from handout.execution import Cluster, ClusterOptions, Ended, Execution, Results, RunOptions, execute, run, start
    from handout.execution.evaluate import evaluate
    from handout.execution.results import Reused
    from handout.execution.run_options import Given
    from handout.execution.run_view import RunView
    from handout.execution.trusted_classes import trust
    from handout.failures import Failure, failure
    from handout.graph import (
        Arg,
        Function,
        Graph,
        Input,
        Options,
        Output,
        Outs,
        Runnable,
        function,
        later,
        options,
    )
    from handout.graph.stored import Stored
    from handout.graph.warm import Warm
    from handout.host.handout_stub import Current, File, current
    from handout.host.task_context import NotOnHostError
    from handout.resources import (
        Amount,
        Capabilities,
        CapabilitiesLike,
        Cost,
        CostLike,
        Host,
        Inventory,
        InventoryLike,
        LiveHost,
        Tracker,
    )
    from handout.scheduler import Explanation
    from handout.transport.timings import Timings

__all__ = [
    "Allocator",
    "AllocatorError",
    "Amount",
    "Arg",
    "AuthenticationError",
    "BootstrapError",
    "Capabilities",
    "CapabilitiesLike",
    "Cluster",
    "ClusterOptions",
    "ClusterView",
    "Cost",
    "CostError",
    "CostLike",
    "Current",
    "DamagedFileError",
    "DependencyError",
    "Draft",
    "Ended",
    "Event",
    "Execution",
    "Explanation",
    "Failure",
    "File",
    "Function",
    "Given",
    "Graph",
    "GraphError",
    "HandoutError",
    "Host",
    "HostError",
    "HostKeyError",
    "HostLostError",
    "HostState",
    "HostUnreachableError",
    "HostUnstableError",
    "HostView",
    "Input",
    "InputView",
    "InternalError",
    "Inventory",
    "InventoryError",
    "InventoryLike",
    "JournalError",
    "Link",
    "LiveHost",
    "MemoryExceededError",
    "NotAValueError",
    "NotOnHostError",
    "Options",
    "OutcomeUnknownError",
    "Output",
    "Outs",
    "PlacementError",
    "RemoteError",
    "ResultError",
    "ResultTooLargeError",
    "Results",
    "Reused",
    "RunOptions",
    "RunTimeoutError",
    "RunView",
    "Runnable",
    "SetupError",
    "Stored",
    "Task",
    "TaskCancelledError",
    "TaskError",
    "TaskExitedError",
    "TaskTimeoutError",
    "Timings",
    "Tracker",
    "TrustError",
    "UnserializableError",
    "Warm",
    "WireError",
    "WorkdirError",
    "WorkerDiedError",
    "current",
    "evaluate",
    "execute",
    "failure",
    "first_available",
    "function",
    "later",
    "load_balanced",
    "locality",
    "options",
    "run",
    "start",
    "trust",
]

#: The public modules of this package. ``errors`` has the classes of all errors, and ``events`` has the classes of all
#: events of a run.
_MODULES = frozenset({"errors", "events"})

#: The module from which each public name is imported. If the object has another name in that module, this other name
#: follows after a colon. Type checkers do not use this table, but the imports above.
_HOMES = {
    "trust": "handout.execution.trusted_classes",
    "Current": "handout.host.handout_stub",
    "File": "handout.host.handout_stub",
    "NotOnHostError": "handout.host.task_context",
    "current": "handout.host.handout_stub",
    "Allocator": "handout.allocators",
    "ClusterView": "handout.allocators",
    "Draft": "handout.allocators",
    "HostState": "handout.allocators",
    "HostView": "handout.allocators",
    "InputView": "handout.allocators",
    "Link": "handout.allocators",
    "Task": "handout.allocators",
    "first_available": "handout.allocators",
    "load_balanced": "handout.allocators",
    "locality": "handout.allocators",
    "AllocatorError": "handout.errors",
    "AuthenticationError": "handout.errors",
    "BootstrapError": "handout.errors",
    "CostError": "handout.errors",
    "DamagedFileError": "handout.errors",
    "DependencyError": "handout.errors",
    "GraphError": "handout.errors",
    "HandoutError": "handout.errors",
    "HostError": "handout.errors",
    "HostKeyError": "handout.errors",
    "HostLostError": "handout.errors",
    "HostUnreachableError": "handout.errors",
    "HostUnstableError": "handout.errors",
    "InternalError": "handout.errors",
    "InventoryError": "handout.errors",
    "JournalError": "handout.errors",
    "MemoryExceededError": "handout.errors",
    "NotAValueError": "handout.errors",
    "OutcomeUnknownError": "handout.errors",
    "PlacementError": "handout.errors",
    "RemoteError": "handout.errors",
    "ResultError": "handout.errors",
    "ResultTooLargeError": "handout.errors",
    "RunTimeoutError": "handout.errors",
    "SetupError": "handout.errors",
    "TaskCancelledError": "handout.errors",
    "TaskError": "handout.errors",
    "TaskExitedError": "handout.errors",
    "TaskTimeoutError": "handout.errors",
    "TrustError": "handout.errors",
    "UnserializableError": "handout.errors",
    "WireError": "handout.errors",
    "WorkdirError": "handout.errors",
    "WorkerDiedError": "handout.errors",
    "Cluster": "handout.execution",
    "ClusterOptions": "handout.execution",
    "Ended": "handout.execution",
    "Execution": "handout.execution",
    "Results": "handout.execution",
    "Reused": "handout.execution.results",
    "RunOptions": "handout.execution",
    "RunView": "handout.execution.run_view",
    "execute": "handout.execution",
    "run": "handout.execution",
    "start": "handout.execution",
    "evaluate": "handout.execution.evaluate",
    "Failure": "handout.failures",
    "failure": "handout.failures",
    "Arg": "handout.graph",
    "Function": "handout.graph",
    "Given": "handout.execution.run_options",
    "Graph": "handout.graph",
    "Input": "handout.graph",
    "Options": "handout.graph",
    "Output": "handout.graph",
    "Stored": "handout.graph.stored",
    "Warm": "handout.graph.warm",
    "Outs": "handout.graph",
    "Runnable": "handout.graph",
    "function": "handout.graph",
    "later": "handout.graph",
    "options": "handout.graph",
    "Event": "handout.events:RunEvent",
    "Explanation": "handout.scheduler",
    "Timings": "handout.transport.timings",
    "Amount": "handout.resources",
    "Capabilities": "handout.resources",
    "CapabilitiesLike": "handout.resources",
    "Cost": "handout.resources",
    "CostLike": "handout.resources",
    "Host": "handout.resources",
    "Inventory": "handout.resources",
    "InventoryLike": "handout.resources",
    "LiveHost": "handout.resources",
    "Tracker": "handout.resources",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"handout.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'handout' has no attribute {name!r}")
    module, _, own_name = home.partition(":")
    found = globals()[name] = getattr(importlib.import_module(module), own_name or name)
    return found


def __dir__() -> list[str]:
    return [*globals(), *__all__, *_MODULES]
