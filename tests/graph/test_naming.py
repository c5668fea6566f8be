"""Ids of functions are readable and unique, and do not depend on when the program reads them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from handout.errors import GraphError
from handout.graph import Graph, Output


def train(x: int) -> int:
    return x


def ids(outputs: list[Output[int]]) -> list[str]:
    return [output.id for output in outputs]


def test_the_nth_use_of_a_function_is_numbered(graph: Graph) -> None:
    assert ids([graph.add(train, i) for i in range(3)]) == ["train", "train-2", "train-3"]


def test_callables_of_all_kinds_have_names(graph: Graph) -> None:
    class Model:
        def fit(self) -> int:
            return 1

        def __call__(self) -> int:
            return 1

    nothing = lambda: 1  # noqa: E731
    outputs = [graph.add(f) for f in (nothing, functools.partial(train, 1), Model().fit, Model())]
    assert ids(outputs) == ["lambda", "train", "fit", "Model"]
    assert graph.value(3).id == "value"


@pytest.mark.parametrize("dashed_first", [True, False])
def test_a_name_with_a_dash_collides_with_no_number(graph: Graph, dashed_first: bool) -> None:
    def dashed() -> int:
        return 1

    dashed.__name__ = "train-2"
    calls: list[tuple[Callable[..., int], tuple[int, ...]]] = [(train, (1,)), (train, (2,))]
    calls.insert(0 if dashed_first else 2, (dashed, ()))
    assert len({graph.add(fn, *args).id for fn, args in calls}) == 3


def test_an_id_does_not_depend_on_when_it_is_asked_for(graph: Graph) -> None:
    early, late = [], Graph()
    for g, look in ((graph, True), (late, False)):
        a = g.add(train, 1)
        if look:
            early.append(a.id)
        g.add(train, 2, id="train-2")
        outputs = [a, g.add(train, 3), g.add(train, 4)]
        assert ids(outputs) == ["train", "train-3", "train-4"]


def test_a_generated_id_makes_way_for_a_chosen_one(graph: Graph) -> None:
    graph.add(train, 1, id="train")
    assert graph.add(train, 1).id == "train-2"


def test_a_chosen_id_that_was_generated_is_refused(graph: Graph) -> None:
    graph.add(train, 1)
    graph.add(train, 1)
    for taken in ("train", "train-2"):
        with pytest.raises(GraphError, match=f"two functions have the id '{taken}'"):
            graph.add(train, 1, id=taken)
    assert graph.add(train, 1, id="train-3").id == "train-3"
    assert graph.add(train, 1).id == "train-4"


def test_two_functions_of_one_id_are_refused(graph: Graph) -> None:
    graph.add(train, 1, id="a")
    with pytest.raises(GraphError, match="two functions have the id 'a'"):
        graph.value(1, id="a")


def test_a_refused_function_leaves_no_trace(graph: Graph) -> None:
    graph.add(train, 1, id="a")
    with pytest.raises(GraphError):
        graph.add(train, 1, id="a")
    assert list(graph.compile().ids) == ["a"]


def test_ids_are_found_in_any_order_and_the_index_reaches_only_as_far_as_needed(graph: Graph) -> None:
    for _ in range(9):
        graph.add(train, 1)
    nodes = graph._nodes
    assert [nodes.find(id) for id in ("train-3", "train-2", "none", "train")] == [2, 1, None, 0]
    assert list(nodes.names._numbers) == ["train", "train-2", "train-3"]
    assert [nodes.find(id) for id in ("train-9", "train-3", "train-10", "train-4")] == [8, 2, None, 3]
