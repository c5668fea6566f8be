"""Topological order, cycles, and ranks, on plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

__all__ = ["find_cycle", "ranks", "topological"]


def topological(producers: Sequence[Sequence[int]]) -> list[int]:
    """The nodes so that producers come before consumers; otherwise in the order of their numbers.

    Args:
        producers: The nodes that each node needs; repetitions do not matter.

    Returns:
        All nodes that are on no cycle and depend on none.
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
    """One cycle among the nodes that `topological` left out: producer first, the first node again at the end."""
    left = set(range(len(producers))) - set(order)
    node = min(left)
    walk: list[int] = []
    at: dict[int, int] = {}
    while node not in at:
        at[node] = len(walk)
        walk.append(node)
        # Every node left out needs another one left out: that is why it was.
        node = next(producer for producer in producers[node] if producer in left)
    return [*walk[at[node] :], node][::-1]


def ranks(producers: Sequence[Sequence[int]], weights: Sequence[float] | None = None) -> list[float]:
    """The length of the longest way from the start of each task to the end of the graph.

    Args:
        producers: The tasks that each task needs; producers have smaller numbers than their consumers.
        weights: Duration of each task; 1 each when left out.
    """
    rank = [1.0] * len(producers) if weights is None else list(weights)
    own = 1.0
    longest = [0.0] * len(producers)
    for task in range(len(producers) - 1, -1, -1):
        if weights is not None:
            own = weights[task]
        total = rank[task] = own + longest[task]
        for producer in producers[task]:
            if longest[producer] < total:
                longest[producer] = total
    return rank
