"""The topological order of a graph, and the search for a cycle, on lists of plain numbers."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from handout.graph.order import find_cycle, topological
from handout.slices import at_once


def test_order_is_by_number_where_it_can_be() -> None:
    assert at_once(topological([(), (), (0,), ()])) == [0, 1, 2, 3]
    assert at_once(topological([(2,), (), ()])) == [1, 2, 0]


def test_repeated_producers_count_once() -> None:
    assert at_once(topological([(), (0, 0, 0)])) == [0, 1]


def test_a_cycle_is_left_out_and_found() -> None:
    producers = [(), (3,), (1,), (2,), (3,)]
    order = at_once(topological(producers))
    assert order == [0]
    cycle = find_cycle(producers, order)
    assert cycle[0] == cycle[-1]
    assert set(cycle) == {1, 2, 3}
    for producer, consumer in itertools.pairwise(cycle):
        assert producer in producers[consumer]


@given(st.lists(st.lists(st.integers(0, 30), max_size=4), max_size=30))
def test_order_and_cycles_of_any_graph(raw: list[list[int]]) -> None:
    producers = [[each % len(raw) for each in row] for row in raw]
    order = at_once(topological(producers))
    at = {node: index for index, node in enumerate(order)}
    assert len(at) == len(order)
    for node in order:
        assert all(at[producer] < at[node] for producer in producers[node])
    if len(order) < len(producers):
        cycle = find_cycle(producers, order)
        assert all(a in producers[b] for a, b in itertools.pairwise(cycle))
