"""`make_spec` turns a plan into the columns that the core works with."""

from __future__ import annotations

from collections.abc import Callable

from handout.graph import Graph
from handout.scheduler import RunSpec
from handout.slices import at_once
from handout.submission.arguments import encode_plan
from handout.submission.plan_to_spec import RunPolicy, make_spec


def spec_of(graph: Graph) -> RunSpec:
    plan = graph.compile()
    return at_once(make_spec(plan, at_once(encode_plan(plan)), RunPolicy()))[0]


def returns(value: int) -> Callable[[], int]:
    return lambda: value


def test_equal_functions_share_their_expected_duration() -> None:
    """A loop makes a new lambda for each task.

    If each lambda counted as another function, the core would not know its duration, and would hand only two tasks a
    slot ahead.
    """
    graph = Graph()
    for _ in range(3):
        graph.add(lambda: None)
    assert spec_of(graph).fn == [0, 0, 0]


def test_functions_that_close_over_different_values_have_durations_of_their_own() -> None:
    """The functions of a run are numbered from 0, whatever ran in this process before."""
    for first in (0, 100):
        graph = Graph()
        for value in (first, first + 1, first):
            graph.add(returns(value))
        assert spec_of(graph).fn == [0, 1, 0]
