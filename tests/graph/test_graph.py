"""How a graph is built: with `add`, `map`, `reduce` and `value`, or from explicit `function(...)` entries."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

from handout.errors import GraphError, UnserializableError
from handout.execution.in_process import evaluate_plan
from handout.graph import Arg, Graph, as_graph, function, later, options
from handout.serialization.file import File


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
    with pytest.raises(GraphError, match="3 is not a function"):
        add(3)
    out = graph.add(load, "x")
    for use in (lambda: add(out, 1), lambda: add(out), lambda: add(out, retries=1), lambda: graph.map(out, [1])):
        with pytest.raises(GraphError, match=r"Output\('load'\) is not a function.*graph\.add\(f, x\)"):
            use()
    for make in (options(retries=1), lambda fn: function("x", fn), lambda fn: Arg(out, load=fn)):
        with pytest.raises(GraphError, match=r"Output\('load'\) is not"):
            make(out)
    with pytest.raises(GraphError, match="retry_on="):
        add(load, "x", retry_on=out)


def test_map_zips_iterables_and_shares_inputs(graph: Graph) -> None:
    shared = graph.value(10.0)
    graph.map(scale, [1.0, 2.0], [10.0, 20.0])
    graph.map(scale, [3.0, 4.0], shared)
    graph.map(scale, Arg(shared, load=lambda x: x + 1), (5.0, 6.0))
    assert list(outputs_of(graph).values()) == [10.0, 40.0, 30.0, 40.0, 55.0, 66.0]


def test_map_shares_what_a_partial_function_binds(graph: Graph) -> None:
    table = graph.value(10.0)
    graph.map(partial(scale, by=2.0), [1.0, 2.0])
    graph.map(partial(scale, by=later(table)), [3.0])
    graph.map(partial(scale, table), [4.0])
    assert list(outputs_of(graph).values()) == [2.0, 4.0, 30.0, 40.0]


def test_outputs_that_a_partial_function_binds_are_found(graph: Graph) -> None:
    out = graph.add(load, "1,2", id="read")
    graph.add(partial(dict, {"a": [out]}), b=1, id="nested")
    graph.reduce(partial(lambda extra, parts: parts[0], out), [1, 2], id="reduced")
    assert outputs_of(graph) == {"nested": {"a": [["1", "2"]], "b": 1}, "reduced": 1}
    assert set(graph.compile().producers[:3]) == {0, 1, 2}
    explicit = Graph([function("x", float, extra_args=["2"]), function("y", partial(scale, by=3.0), args=["x"])])
    assert outputs_of(explicit) == {"y": 6.0}


def test_map_takes_any_iterables(graph: Graph) -> None:
    assert len(graph.map(scale, iter([1.0, 2.0]), map(float, "12"))) == 2
    assert graph.map(scale, [], graph.value(1.0)) == []
    assert len(graph.map(scale, {1.0, 2.0}, itertools.repeat(2.0, 2))) == 2


def test_map_of_unequal_lengths_is_refused(graph: Graph) -> None:
    with pytest.raises(GraphError, match=r"the same length\. Their lengths are: 2, 3"):
        graph.map(scale, [1.0, 2.0], [1.0, 2.0, 3.0])


async def fetch(url: str) -> str:
    return url


async def pages() -> AsyncIterator[str]:
    yield "a"


class Table:
    """Looks like a DataFrame of pandas."""

    columns = ("a", "b")

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def to_dict(self, orient: str) -> list[dict[str, int]]:
        return []


@pytest.mark.parametrize(
    ("columns", "problem", "remedy"),
    [
        (lambda graph: (), "there is no argument", r"write graph\.add\(load"),
        (lambda graph: (graph.add(load, "x"),), "is an output, which is one value", r"write graph\.add\(load"),
        (lambda graph: ("abc",), "'abc', so each character would be", "put it into a list"),
        (lambda graph: (b"abc",), "so each byte would be", "put it into a list"),
        (lambda graph: ({"a": 1},), "a mapping, so each of its keys", r"mapping\.items\(\)"),
        (lambda graph: (Table(),), "a Table, so each of its columns", r"frame\.to_dict\(\"records\"\)"),
        (lambda graph: (["a"], 3), "argument 2 is not iterable: 3", r"graph\.value\(x\), or bind it"),
        (lambda graph: (File("x"),), "not iterable: File", "put it into a list"),
        (lambda graph: (["a"], itertools.repeat(",")), "argument 2 never ends", "functools"),
        (lambda graph: (itertools.count(), ["a"]), "argument 1 never ends", "functools"),
        (lambda graph: (pages(),), "not iterable", r"\[item async for item in \.\.\.\]"),
    ],
)
def test_a_map_over_what_is_not_many_is_refused(graph: Graph, columns: Any, problem: str, remedy: str) -> None:
    any_map: Any = graph.map
    with pytest.raises(GraphError, match=f"graph.map of 'load'.*{problem}.*{remedy}"):
        any_map(load, *columns(graph))


def test_a_map_over_tuples_of_arguments_says_how_to_unpack_them(graph: Graph) -> None:
    any_map: Any = graph.map
    with pytest.raises(
        GraphError, match=r"missing a required argument: 'by'.*write graph\.map\(scale, \*zip\(\*items\)\)"
    ):
        any_map(scale, zip([1.0, 2.0], [3.0, 4.0], strict=True))
    assert len(graph.map(scale, *zip(*[(1.0, 3.0), (2.0, 4.0)], strict=True))) == 2


def test_a_map_over_a_coroutine_is_refused(graph: Graph) -> None:
    any_map: Any = graph.map
    unfinished = fetch("u")
    with pytest.raises(GraphError, match=r"not iterable.*await fetch\(\.\.\.\)"):
        any_map(load, unfinished)
    unfinished.close()


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"retires": 2}, r"Did you mean 'retries'\?"),
        ({"by": 2.0}, r"functools\.partial\(scale, by=\.\.\.\)"),
        ({"memory": "1 GB"}, r"cost=\{'memory': \.\.\.\}"),
        ({"colour": "red"}, "Known names are"),
    ],
)
def test_map_and_reduce_take_only_options(graph: Graph, options: dict[str, Any], remedy: str) -> None:
    any_graph: Any = graph
    (name,) = options
    with pytest.raises(GraphError, match=f"graph.map of 'scale': '{name}' is not an option.*{remedy}"):
        any_graph.map(scale, [1.0], [2.0], **options)
    with pytest.raises(GraphError, match=f"graph.reduce of 'scale': '{name}' is not an option.*{remedy}"):
        any_graph.reduce(scale, [1.0], **options)
    assert len(graph.compile()) == 0


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: fetch("u"), r"await fetch\(\.\.\.\).*graph\.add\(fetch, \.\.\.\)"),
        (lambda: (x for x in [1]), r"Pass a list of its items: list"),
        (pages, r"\[item async for item"),
        (concurrent.futures.Future, r"future\.result\(\)"),
    ],
)
def test_unfinished_work_is_refused_where_it_is_added(graph: Graph, make: Any, remedy: str) -> None:
    any_graph: Any = graph
    unfinished = make()
    for use, path in (
        (lambda: any_graph.add(load, unfinished), r"args\[0\]"),
        (lambda: any_graph.add(load, "x", sep=unfinished, retries=1), "sep"),
        (lambda: any_graph.map(load, ["a"], [unfinished]), r"args\[1\]"),
        (lambda: any_graph.value(unfinished), "this value"),
    ):
        with pytest.raises(UnserializableError, match=f"cannot take {path}, because it is a .*not finished.*{remedy}"):
            use()
    assert len(graph.compile()) == 0
    if hasattr(unfinished, "close"):
        unfinished.close()


async def test_a_future_is_refused_where_it_is_added(graph: Graph) -> None:
    task = asyncio.ensure_future(fetch("u"))
    with pytest.raises(UnserializableError, match="Await it first"):
        graph.add(load, task)  # type: ignore[call-overload]
    await task


def test_a_keyword_near_an_option_is_warned_of_at_the_line_that_gave_it(graph: Graph) -> None:
    def plot(data: str, **style: Any) -> str:
        return data

    for name, instead in {"retires": "the option retries=", "gpu": "cost={'gpu': ...}"}.items():
        with pytest.warns(UserWarning, match=f"{name}= to 'plot'.*Did you mean {re.escape(instead)}") as caught:
            graph.add(plot, "x", **{name: 2})
        assert caught[0].filename == __file__
    graph.add(plot, "x", colour="red")  # far from every option
    graph.add(partial(plot, retires=2), "x")  # meant for the function
    with pytest.warns(UserWarning, match="the option labels="):
        graph.add(dict, label=3)


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
    any_reduce: Any = graph.reduce
    with pytest.raises(GraphError, match="the parts is 'abc', so each character would be an item"):
        any_reduce(joined, "abc")
    with pytest.raises(GraphError, match="cannot be iterated over"):
        any_reduce(total, graph.value([1]))


def test_a_value_is_one_object_for_all_that_take_it(graph: Graph) -> None:
    table = graph.value([1, 2, 3], id="table")
    graph.add(total, table)
    graph.add(total, table)
    plan = graph.compile()
    assert plan.inputs == [(2,), (2,)]
    assert [extra.value for extra in plan.extras] == [[1, 2, 3]]  # type: ignore[union-attr]
    assert plan.name_of(2) == "table"


def test_a_value_of_an_output_is_refused(graph: Graph) -> None:
    with pytest.raises(GraphError, match="is a promise of a value, not a value"):
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
