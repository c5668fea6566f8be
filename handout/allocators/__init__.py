"""The interface of allocators.

It consists of the `Allocator` protocol, the views of tasks and hosts that an allocator gets, and the built-in
allocators.
"""

from __future__ import annotations

from handout.allocators.contract import Allocator, builtin_name
from handout.allocators.draft import Draft
from handout.allocators.first_available import first_available
from handout.allocators.host_view import HostState, HostView, Link, view_of_ledger
from handout.allocators.load_balanced import load_balanced
from handout.allocators.locality import locality
from handout.allocators.task import InputView, Task, task_of_core
from handout.allocators.view import ClusterView, view_of_core

__all__ = [
    "Allocator",
    "ClusterView",
    "Draft",
    "HostState",
    "HostView",
    "InputView",
    "Link",
    "Task",
    "builtin_name",
    "first_available",
    "load_balanced",
    "locality",
    "task_of_core",
    "view_of_core",
    "view_of_ledger",
]
