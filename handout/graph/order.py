"""Topological order and cycles of a graph that is given as lists of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

__all__ = ["find_cycle", "topological"]


def topological(producers: Sequence[Sequence[int]]) -> list[int]:
    """Return the nodes with producers before consumers, and otherwise in the order of their numbers.

    Args:
        producers: By node: the nodes whose results it takes; repetitions do not matter.

    Returns:
        All nodes except those on a cycle and those that depend on one.
    """
    count = len(producers)
    missing = [len(set(each)) for each in producers]
    consumers: list[list[int]] = [[] for _ in range(count)]
    for node, needed in enumerate(producers):
        for producer in set(needed):
            consumers[producer].append(node)
    ready = [node for node in range(count) if not missing[node]]
    heapify(ready)
    order = []
    while ready:
        node = heappop(ready)
        order.append(node)
        for consumer in consumers[node]:
            missing[consumer] -= 1
            if not missing[consumer]:
                heappush(ready, consumer)
    return order


def find_cycle(producers: Sequence[Sequence[int]], order: Sequence[int]) -> list[int]:
    """Return a cycle among the nodes that `topological` left out: producers first, the first node again at the end."""
    left = set(range(len(producers))) - set(order)
    node = min(left)
    walk: list[int] = []
    at: dict[int, int] = {}
    while node not in at:
        at[node] = len(walk)
        walk.append(node)
        # Each node that was left out takes the result of another one that was left out.
        node = next(producer for producer in producers[node] if producer in left)
    return [*walk[at[node] :], node][::-1]
