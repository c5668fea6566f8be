"""From a plan to the core's columns."""

from __future__ import annotations

from collections.abc import Callable

from handout.graph import Graph
from handout.scheduler import RunSpec
from handout.submission.arguments import encode_plan
from handout.submission.plan_to_spec import RunPolicy, make_spec


def spec_of(graph: Graph) -> RunSpec:
    plan = graph.compile()
    return make_spec(plan, encode_plan(plan), RunPolicy())[0]


def returns(value: int) -> Callable[[], int]:
    return lambda: value


def test_equal_functions_share_their_expected_duration() -> None:
    """A loop makes its lambda anew for each task. Without a known duration only two tasks a slot are handed ahead."""
    graph = Graph()
    for _ in range(3):
        graph.add(lambda: None)
    assert spec_of(graph).fn == [0, 0, 0]


def test_functions_that_close_over_different_values_have_durations_of_their_own() -> None:
    """The keys are as small as there are functions, whatever ran in this process before."""
    for first in (0, 100):
        graph = Graph()
        for value in (first, first + 1, first):
            graph.add(returns(value))
        assert spec_of(graph).fn == [0, 1, 0]
