"""How a graph is built: with `add`, `map`, `reduce` and `value`, or from explicit `function(...)` entries."""

from __future__ import annotations

from typing import Any

import pytest

from handout.errors import GraphError
from handout.execution.in_process import evaluate_plan
from handout.graph import Arg, Graph, as_graph, function


def load(path: str, sep: str = ",") -> list[str]:
    return path.split(sep)


def total(xs: list[int]) -> int:
    return sum(xs)


def joined(xs: list[str]) -> str:
    return "(" + " ".join(xs) + ")"


def scale(x: float, by: float) -> float:
    return x * by


def outputs_of(graph: Graph, **given: Any) -> dict[str, Any]:
    plan = graph.compile(**given)
    values = evaluate_plan(plan, "")
    return {plan.name_of(number): values[number] for number in plan.outputs}


def test_what_is_not_callable_is_refused(graph: Graph) -> None:
    add: Any = graph.add
    with pytest.raises(GraphError, match="3 is not callable"):
        add(3)
    with pytest.raises(GraphError, match="is not callable"):
        add(graph.add(load, "x"), 1)


def test_map_zips_and_shares_keywords(graph: Graph) -> None:
    graph.map(scale, [1.0, 2.0], [10.0, 20.0])
    graph.map(scale, [3.0], by=4.0)
    assert list(outputs_of(graph).values()) == [10.0, 40.0, 12.0]


def test_map_takes_any_iterables(graph: Graph) -> None:
    assert len(graph.map(scale, iter([1.0, 2.0]), map(float, "12"))) == 2
    assert graph.map(scale, [], by=1.0) == []


def test_map_of_unequal_lengths_is_refused(graph: Graph) -> None:
    with pytest.raises(GraphError, match=r"the same length\. Their lengths are: 2, 3"):
        graph.map(scale, [1.0, 2.0], [1.0, 2.0, 3.0])
    any_map: Any = graph.map
    with pytest.raises(GraphError, match="none, because no iterable was given"):
        any_map(scale)


def test_map_over_an_output_is_refused(graph: Graph) -> None:
    any_map: Any = graph.map
    with pytest.raises(GraphError, match="cannot be iterated over"):
        any_map(total, graph.add(load, "x"))


def test_map_with_an_id_numbers_it(graph: Graph) -> None:
    assert [out.id for out in graph.map(load, ["a", "b"], id="read", retries=1)] == ["read[0]", "read[1]"]


@pytest.mark.parametrize(
    ("parts", "width", "expected"),
    [
        ("a", 2, "(a)"),
        ("ab", 2, "(a b)"),
        ("abc", 2, "(a (b c))"),
        ("abcd", 2, "((a b) (c d))"),
        ("abcde", 4, "((a b) (c d e))"),
        ("abcdefgh", 3, "((a b) (c d e) (f g h))"),
    ],
)
def test_reduce_is_an_even_tree_in_order(graph: Graph, parts: str, width: int, expected: str) -> None:
    graph.reduce(joined, list(parts), width=width)
    assert list(outputs_of(graph).values()) == [expected]


def test_reduce_of_outputs(graph: Graph) -> None:
    shards = [graph.add(int, str(i)) for i in range(100)]
    out = graph.reduce(total, shards, width=7, id="sum", retries=1)
    assert outputs_of(graph) == {"sum": 4950}
    plan = graph.compile()
    assert max(len(each) for each in plan.inputs) == 7
    assert "sum[0,3]" in plan.ids
    assert out.id == "sum"


def test_reduce_needs_parts_and_a_width(graph: Graph) -> None:
    with pytest.raises(GraphError, match="no parts"):
        graph.reduce(total, [])
    with pytest.raises(GraphError, match="width=1"):
        graph.reduce(total, [1], width=1)


def test_a_value_is_one_object_for_all_that_take_it(graph: Graph) -> None:
    table = graph.value([1, 2, 3], id="table")
    graph.add(total, table)
    graph.add(total, table)
    plan = graph.compile()
    assert plan.inputs == [(2,), (2,)]
    assert [extra.value for extra in plan.extras] == [[1, 2, 3]]  # type: ignore[union-attr]
    assert plan.name_of(2) == "table"


def test_a_value_of_an_output_is_refused(graph: Graph) -> None:
    with pytest.raises(GraphError, match="is an output or an Arg, not a value"):
        graph.value(graph.add(load, "x"))


def test_the_explicit_form_means_the_same() -> None:
    graph = Graph(
        [
            function("report", joined, args=[("load", 1)], kwargs={}, retries=1),
            function("load", lambda a, b: [a, [b, "!"]], extra_args=["x", "y"]),
        ]
    )
    assert outputs_of(graph) == {"report": "(y !)"}
    plan = graph.compile()
    assert list(plan.ids) == ["load", "report"]
    assert plan.options[1].retries == 1


def test_extra_args_follow_the_producers() -> None:
    graph = Graph([function("x", float, extra_args=["2"]), function("y", scale, args=["x"], extra_args=[3])])
    assert outputs_of(graph) == {"y": 6.0}


def test_an_unknown_producer_names_the_nearest() -> None:
    with pytest.raises(GraphError, match=r"takes the result of 'laod', which does not exist. Did you mean 'load'\?"):
        Graph([function("load", load, extra_args=["x"]), function("b", total, args=["laod"])])


def test_explicit_functions_take_outputs_and_args_too(graph: Graph) -> None:
    convert: Any = Arg
    made = Graph(
        [
            function("load", load, extra_args=["1,2"]),
            function("n", total, args=[convert("load", load=lambda xs: [int(x) for x in xs])]),
        ]
    )
    assert outputs_of(made) == {"n": 3}


def test_two_explicit_functions_of_one_id_are_refused() -> None:
    with pytest.raises(GraphError, match="two functions have the id 'a'"):
        Graph([function("a", int), function("a", int)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: function("", int), "cannot be an id"),
        (lambda: function("a", 3), "3 is not callable"),  # type: ignore[arg-type]
        (lambda: function("a", int, args="load"), "args='load' is not a list"),
        (lambda: function("a", int, retries=-1), "retries=-1"),
        (lambda: function("a", int, id="b"), "second id"),
        (lambda: Graph([int]), "is not an entry that handout.function made"),  # type: ignore[list-item]
        (lambda: Graph([function("a", int, args=[3])]), "the entry 3 in args= does not name a function"),
        (lambda: as_graph("graph"), "'graph' is not a graph"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_explicit_form_is_refused(make: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        make()


def test_a_cycle_is_printed_as_a_path() -> None:
    graph = Graph(
        [
            function("free", int),
            function("a", total, args=["c"]),
            function("b", total, args=["a"]),
            function("c", total, args=["b"]),
            function("d", total, args=["c"]),
        ]
    )
    with pytest.raises(GraphError, match="cycle: ") as caught:
        graph.compile()
    path = caught.value.problem.removeprefix("the graph has a cycle: ").removesuffix(".").split(" -> ")
    assert path[0] == path[-1]
    assert "".join(path[:-1]) in ("abc", "bca", "cab")


def test_a_function_that_needs_itself_is_a_cycle() -> None:
    with pytest.raises(GraphError, match="a -> a"):
        Graph([function("a", total, args=["a"])]).compile()


def test_a_long_cycle_and_a_long_chain_do_not_overflow() -> None:
    many = [function(str(i), total, args=[str((i + 1) % 5000)]) for i in range(5000)]
    with pytest.raises(GraphError, match="cycle"):
        Graph(many).compile()
    assert len(Graph([*many[:-1], function("4999", int)]).compile()) == 5000


def test_a_graph_grows_after_a_plan_was_made(graph: Graph) -> None:
    out = graph.add(int)
    plan = graph.compile()
    graph.add(total, [out])
    assert len(plan) == len(plan.ids) == 1
    assert len(graph.compile()) == 2
