"""Topological order and cycles of a graph whose nodes are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from handout.slices import Slices, column, is_slice_end

__all__ = ["find_cycle", "topological"]


def topological(producers: Sequence[Sequence[int]]) -> Slices[list[int]]:
    """Return the nodes in an order in which each node comes after the nodes whose results it takes.

    If several nodes could come next, the smallest number comes first.

    Args:
        producers: For each node, the nodes whose results it takes. Repetitions do not matter.

    Returns:
        All nodes except the nodes on a cycle and the nodes that depend on a cycle.
    """
    count = len(producers)
    missing = yield from column(lambda each: len(set(each)), producers)
    consumers: list[list[int]] = []
    for node in range(count):
        if is_slice_end(node):
            yield
        consumers.append([])
    for node, needed in enumerate(producers):
        if is_slice_end(node):
            yield
        for producer in set(needed):
            consumers[producer].append(node)
    ready = [node for node, lacks in enumerate(missing) if not lacks]
    heapify(ready)
    order: list[int] = []
    while ready:
        if is_slice_end(len(order)):
            yield
        node = heappop(ready)
        order.append(node)
        for consumer in consumers[node]:
            missing[consumer] -= 1
            if not missing[consumer]:
                heappush(ready, consumer)
    return order


def find_cycle(producers: Sequence[Sequence[int]], order: Sequence[int]) -> list[int]:
    """Return a cycle among the nodes that `topological` left out.

    Each node of the cycle comes before the node that takes its result, and the first node is repeated at the end.
    """
    left = set(range(len(producers))) - set(order)
    node = min(left)
    walk: list[int] = []
    at: dict[int, int] = {}
    while node not in at:
        at[node] = len(walk)
        walk.append(node)
        # Each node in `left` takes the result of a node in `left`, so the walk can always go on.
        node = next(producer for producer in producers[node] if producer in left)
    return [*walk[at[node] :], node][::-1]
