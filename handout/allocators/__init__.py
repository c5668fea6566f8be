"""Who goes where: the protocol of allocators, what they see, and the built-in ones."""

from __future__ import annotations

from handout.allocators.builtin import first_available, load_balanced, locality
from handout.allocators.contract import Allocator, builtin_name
from handout.allocators.draft import Draft
from handout.allocators.task import InputView, Task
from handout.allocators.view import ClusterView, HostView, Link

__all__ = [
    "Allocator",
    "ClusterView",
    "Draft",
    "HostView",
    "InputView",
    "Link",
    "Task",
    "builtin_name",
    "first_available",
    "load_balanced",
    "locality",
]
