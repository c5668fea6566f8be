"""Collocation: finds the groups of tasks that must share one host.

A task with the option ``host`` is pinned to that host. If one task of a group is pinned, the other tasks of the group
are pinned to the same host.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from handout.errors import GraphError
from handout.graph.function_options import TaskOptions
from handout.graph.output import Input
from handout.graph.wiring import Wiring
from handout.slices import Slices, is_slice_end

__all__ = ["collocate"]


class _Groups:
    """Disjoint sets of tasks (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def root(self, task: int) -> int:
        parent = self._parent
        while (above := parent.get(task, task)) != task:
            parent[task] = parent.get(above, above)
            task = above
        return task

    def join(self, one: int, other: int) -> None:
        one, other = self.root(one), self.root(other)
        low, high = min(one, other), max(one, other)
        self._parent[high] = low
        self._parent.setdefault(low, low)

    def members(self) -> dict[int, list[int]]:
        groups: dict[int, list[int]] = {}
        for task in sorted(self._parent):
            groups.setdefault(self.root(task), []).append(task)
        return {root: tasks for root, tasks in groups.items() if len(tasks) > 1}


def collocate(wiring: Wiring, task_of: list[int], options: list[TaskOptions], ids: list[str]) -> Slices[list[int]]:
    """Return the group of each task, or -1 for a task that is in no group.

    If one task of a group is pinned to a host, this function pins the other tasks of the group to the same host.
    Otherwise, one of these other tasks could be placed first, and so bind the group to another host.

    Args:
        wiring: The edges of the graph.
        task_of: The task of each node, or -1 for a node that has no task in this run.
        options: The options of each task. `collocate` replaces entries of this list.
        ids: The id of each task.

    Raises:
        GraphError: Two tasks of a group are pinned to different hosts, or a ``collocate_with`` names an unknown id. Or
            it names a value or an inline function, and neither has a host of its own.
    """
    groups = [-1] * len(options)
    if not wiring.nodes.collocated and not wiring.dumped:
        return groups
    sets = _Groups()
    for place, (node, target) in enumerate(list(wiring.nodes.collocated.items())):
        if is_slice_end(place):
            yield
        if node < wiring.count:
            _join(sets, task_of, node, _node_named(wiring, node, target))
    for place, (node, output) in enumerate(wiring.dumped.items()):
        if is_slice_end(place):
            yield
        _join(sets, task_of, node, wiring.node_of(output))
    for number, members in enumerate(sets.members().values()):
        yield
        _pin(members, options, ids)
        for task in members:
            groups[task] = number
    return groups


def _join(sets: _Groups, task_of: list[int], node: int, other: int) -> None:
    # A node has no task, and so no host, if the caller gave a value for the node or if no wanted output needs the node.
    if task_of[node] >= 0 and task_of[other] >= 0:
        sets.join(task_of[node], task_of[other])


def _node_named(wiring: Wiring, node: int, target: Input[Any] | str) -> int:
    """Return the node that ``target``, the ``collocate_with`` of ``node``, names."""
    owner = f"function {wiring.id_of(node)!r} is collocated with"
    if isinstance(target, str):
        found = wiring.nodes.find(target)
        if found is None:
            raise GraphError(f"{owner} {target!r}, which does not exist.", remedy=wiring.nodes.did_you_mean(target))
    else:
        found = wiring.node_of(wiring.base(target))
    if found in wiring.inline or wiring.fns[found] is None:
        kind = "a value" if wiring.fns[found] is None else "an inline function"
        raise GraphError(
            f"{owner} {wiring.id_of(found)!r}, {kind}, which has no host of its own.",
            remedy="In collocate_with, name a function that runs as a task.",
        )
    return found


def _pin(members: list[int], options: list[TaskOptions], ids: list[str]) -> None:
    pinned = {options[task].host: task for task in members if options[task].host is not None}
    if not pinned:
        return
    if len(pinned) > 1:
        named = " and ".join(f"{ids[task]!r} is pinned to {host!r}" for host, task in pinned.items())
        together = ", ".join(repr(ids[task]) for task in members[:8])
        raise GraphError(
            f"{together} must share one host, but {named}.",
            remedy="Give host= to only one of these functions, or give the same host= to all of them.",
        )
    (host,) = pinned
    # The pinned copy of each options object that had no host, by the identity of that object. Tasks that shared the
    # object share the copy.
    changed: dict[int, TaskOptions] = {}
    for task in members:
        old = options[task]
        if old.host is None:
            if id(old) not in changed:
                changed[id(old)] = replace(old, host=host)
            options[task] = changed[id(old)]
