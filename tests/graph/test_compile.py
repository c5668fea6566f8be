"""`Graph.compile` makes a plan of a graph.

It numbers the tasks and objects, leaves out the functions that no output needs, and refuses wrong graphs and calls.
"""

from __future__ import annotations

import functools
import re
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from handout.errors import GraphError
from handout.graph import Arg, Graph, Output, Pick, Value
from handout.graph.plan import Plan
from handout.serialization.calls import Inline, Loaded, Slot, Taken
from handout.slices import SLICE


def make(x: int = 0) -> dict[str, Any]:
    return {"a": [x]}


def take(*parts: Any, **named: Any) -> int:
    return len(parts)


def add(a: int, b: int) -> int:
    return a + b


def slots(plan: Plan, task: int, *refs: Any) -> list[Any]:
    slot = plan.slot_of(task)
    return [slot(ref) for ref in refs]


# ---- numbering -------------------------------------------------------------------------------------------


def test_objects_are_numbered_after_the_tasks(graph: Graph) -> None:
    a = graph.add(make)
    value = graph.value(5)
    b = graph.add(take, a["a"], a, value, a["a"])
    plan = graph.compile()
    assert plan.inputs == [(), (2, 0, 3)]
    assert plan.extras[0] == Pick(0, (("item", "a"),))
    assert plan.producers == [0, 1, 0, -1]
    assert slots(plan, 1, a["a"], a, value) == [Slot(0), Slot(1), Slot(2)]
    assert plan.outputs == [1]
    assert plan.locate(b) == (1, ())


def test_outputs_are_found_at_any_depth(graph: Graph) -> None:
    Point = namedtuple("Point", "x y")
    a, b, c, d, e = (graph.add(make, i) for i in range(5))
    graph.add(take, [{"k": (a, [b])}, Point(c, 1)], k=OrderedDict(x=d), again={e: a})
    assert graph.compile().inputs[5] == (0, 1, 2, 3, 4)


def test_outputs_in_a_long_list_are_found_for_each_that_takes_it(graph: Graph) -> None:
    many = [graph.add(make, i) for i in range(100)]
    graph.add(take, many)
    graph.add(take, [1, *range(100)], many)
    plan = graph.compile()
    assert plan.inputs[100] == plan.inputs[101] == tuple(range(100))


def test_outputs_in_a_list_that_does_not_show_its_class_are_found(graph: Graph) -> None:
    class Hidden(list[Any]):
        @property
        def __class__(self) -> Any:
            raise RuntimeError("no class")

    graph.add(take, Hidden([graph.add(make)]))
    assert graph.compile().inputs[1] == (0,)


def test_containers_that_hold_themselves_end(graph: Graph) -> None:
    long: list[Any] = [*range(20), graph.add(make)]
    long.append(long)
    graph.add(take, long)
    assert graph.compile().inputs[1] == (0,)
    short: list[Any] = []
    short.append(short)
    graph.add(take, short)
    with pytest.raises(GraphError, match="holds itself"):
        graph.compile()


def test_an_output_in_a_set_is_refused(graph: Graph) -> None:
    graph.add(take, {graph.add(make)})
    with pytest.raises(GraphError, match="inside a set"):
        graph.compile()


def test_an_output_inside_an_object_has_no_slot(graph: Graph) -> None:
    hidden = graph.add(make)
    graph.add(take, object(), hidden)
    other = graph.add(take, 1)
    plan = graph.compile()
    with pytest.raises(GraphError, match="inside an object"):
        slots(plan, 2, hidden)
    with pytest.raises(GraphError, match="inside an object"):
        slots(plan, 1, other)


# ---- which functions run ---------------------------------------------------------------------------------


def test_by_default_what_nobody_takes_is_wanted(graph: Graph) -> None:
    a = graph.add(make)
    b, c = graph.add(take, a["a"]), graph.add(take, a)
    graph.value(1)
    plan = graph.compile()
    assert [plan.name_of(number) for number in plan.outputs] == [b.id, c.id]


def test_what_nobody_needs_does_not_run(graph: Graph) -> None:
    a, b = graph.add(make, 1), graph.add(make, 2)
    c = graph.add(take, a)
    d = graph.add(take, b)
    plan = graph.compile(outputs=[c])
    assert list(plan.ids) == [a.id, c.id]
    with pytest.raises(GraphError, match="is not part of this run"):
        plan.locate(d)


def test_an_element_alone_can_be_wanted(graph: Graph) -> None:
    a = graph.add(make)
    plan = graph.compile(outputs=[a["a"], a["a"]])
    assert plan.outputs == [1]
    assert plan.locate(a["a"][0]) == (1, (("item", 0),))
    assert plan.locate(a["b"]) == (0, (("item", "b"),))
    assert plan.locate("make['a']") == (1, ())


def test_what_is_wanted_is_preferred_over_what_is_nearer(graph: Graph) -> None:
    a = graph.add(make)
    b = graph.add(take, a["a"])
    assert graph.compile(outputs=[b]).locate(a["a"]) == (2, ())
    assert graph.compile(outputs=[a, b]).locate(a["a"]) == (0, (("item", "a"),))


def test_wrong_outputs_are_refused(graph: Graph) -> None:
    a = graph.add(make, id="made")
    cases: list[tuple[Any, str]] = [
        (a, "is not a list"),
        ([[a]], r"write outputs=parts, or outputs=\[\*parts, other\]"),
        ([3], "holds 3"),
        (["mad"], "Did you mean 'made'"),
        ([Graph().add(make)], "belongs to another graph"),
    ]
    for given, message in cases:
        with pytest.raises(GraphError, match=message):
            graph.compile(outputs=given)


def test_ids_serve_as_outputs(graph: Graph) -> None:
    graph.add(make, id="made")
    graph.add(take, id="other")
    by_id: Any = ["made"]
    assert list(graph.compile(outputs=by_id).ids) == ["made"]


# ---- given -----------------------------------------------------------------------------------------------


def test_a_given_output_does_not_run_nor_what_only_it_needed(graph: Graph) -> None:
    a = graph.add(make)
    b = graph.add(take, a)
    c = graph.add(take, b, b["x"])
    for key in (b, b.id):
        plan = graph.compile(given={key: {"x": 7}})
        assert list(plan.ids) == [c.id]
        assert [extra.value for extra in plan.extras] == [{"x": 7}, 7]  # type: ignore[union-attr]
        assert plan.inputs == [(1, 2)]
        assert plan.locate(c) == (0, ())


def test_a_given_value_and_a_given_element(graph: Graph) -> None:
    temperature = graph.value(270.0)
    a = graph.add(make)
    graph.add(take, temperature, a["a"], a)
    plan = graph.compile(given={temperature: 290.0, a["a"]: [1]})
    assert len(plan) == 2
    assert [extra.value for extra in plan.extras] == [290.0, [1]]  # type: ignore[union-attr]
    assert plan.inputs[1] == (2, 3, 0)


def test_a_given_output_that_is_wanted_is_there(graph: Graph) -> None:
    a = graph.add(make)
    plan = graph.compile(given={a: 3})
    assert len(plan) == 0
    assert plan.outputs == [0]
    assert plan.producers == [-1]
    assert plan.name_of(0) == "make"


def test_a_given_inline_function_is_an_object(graph: Graph) -> None:
    a = graph.add(make, inline=True)
    graph.add(take, a)
    plan = graph.compile(given={a: 3})
    assert slots(plan, 0, a) == [Slot(0)]


def test_wrong_given_keys_are_refused(graph: Graph) -> None:
    graph.add(make, id="made")
    other = Graph().add(make)
    cases: list[tuple[Any, str]] = [("mad", "Did you mean 'made'"), (3, "cannot replace 3"), (other, "another graph")]
    for key, message in cases:
        with pytest.raises(GraphError, match=message):
            graph.compile(given={key: 1})


def test_a_given_element_that_has_no_effect_is_refused(graph: Graph) -> None:
    a = graph.add(make)
    out = graph.add(take, a)
    graph.add(take, a["b"]["c"])
    for key in (a["a"], a["b"]["d"]):
        with pytest.raises(GraphError, match=rf"replaces .*{re.escape(key.id)}.*no function takes.*all of 'make'"):
            graph.compile(given={key: 1})
    assert len(graph.compile(given={a["b"]: {"c": 1}}, outputs=[out])) == 2
    assert len(graph.compile(given={a["a"]: 1}, outputs=[a["a"]])) == 0


@pytest.mark.parametrize("by_id", [True, False])
def test_many_given_values_are_taken_in_slices(graph: Graph, by_id: bool) -> None:
    outs = graph.map(make, range(20 * SLICE))
    given: Any = {out.id if by_id else out: 1 for out in outs}
    turns = sum(1 for _ in graph._compile(None, given))
    assert turns >= sum(1 for _ in graph._compile(None, {})) + 20


# ---- calls -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1,), {}, "missing a required argument: 'b'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"c": 2}, "missing a required argument: 'b'|unexpected keyword argument 'c'"),
        ((1, 2), {"retires": 2}, r"unexpected keyword argument 'retires'.*Did you mean 'retries'\?"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(graph: Graph, args: Any, kwargs: Any, message: str) -> None:
    any_add: Any = graph.add
    any_add(add, 1, 2)
    with pytest.raises(GraphError, match=f"function 'wrong': add.* cannot be called with .*({message})"):
        any_add(add, *args, id="wrong", **kwargs)
    with pytest.raises(GraphError, match=f"function 'add': add.* cannot be called with .*({message})"):
        any_add(add, *args, **kwargs)
    assert len(graph.compile()) == 1


def supply(fn: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(fn)
    def inner(*args: object, **kwargs: object) -> object:
        return fn({"a": 1}, *args, **kwargs)

    return inner


def supply_if_verbose(fn: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(fn)
    def inner(key: str, *, verbose: bool = False) -> object:
        return fn({"a": 1}, key) if verbose else None

    return inner


def look_up(table: dict[str, int], key: str) -> int:
    return table[key]


@pytest.mark.parametrize(
    ("decorator", "right", "wrong", "message"),
    [
        (supply, {}, {"retires": 3}, r"Did you mean 'retries'\?"),
        (
            supply_if_verbose,
            {"verbose": True},
            {"quiet": True},
            "cannot be called with 1 positional argument and quiet=",
        ),
    ],
)
def test_a_decorator_may_supply_and_take_arguments_but_a_wrong_keyword_is_refused(
    graph: Graph, decorator: Any, right: dict[str, Any], wrong: dict[str, Any], message: str
) -> None:
    any_add: Any = graph.add
    any_add(decorator(look_up), "a", **right)
    graph.compile()
    with pytest.raises(GraphError, match=message):
        any_add(decorator(look_up), "a", **wrong)


def test_methods_and_functions_without_signature_are_called(graph: Graph) -> None:
    class Model:
        def fit(self, x: int) -> int:
            return x

    graph.add(Model().fit, 1)
    graph.add(Model.fit, Model(), 1)
    graph.add(max, 1, 2)
    graph.add(dict, a=1)
    graph.compile()
    any_add: Any = graph.add
    with pytest.raises(GraphError, match="too many positional"):
        any_add(Model().fit, Model(), 1)


def test_generator_functions_are_refused(graph: Graph) -> None:
    def rows() -> Iterator[int]:
        yield 1

    with pytest.raises(GraphError, match=r"generator function.*Return a list"):
        graph.add(rows)


def test_an_output_of_another_graph_is_refused(graph: Graph) -> None:
    other = Graph().add(make)
    for wrong in (lambda: graph.add(take, other), lambda: graph.add(take, x=other), lambda: graph.map(take, [other])):
        with pytest.raises(GraphError, match="belongs to another graph"):
            wrong()
    graph.add(take, [other])
    with pytest.raises(GraphError, match="belongs to another graph"):
        graph.compile()


def test_a_value_without_the_element_is_refused(graph: Graph) -> None:
    graph.add(take, graph.value({"a": 1}, id="table")["b"])
    with pytest.raises(GraphError, match=r"value \"table\['b'\]\" has no element \['b'\]: KeyError"):
        graph.compile()


def test_an_element_of_a_value_is_taken_here(graph: Graph) -> None:
    graph.add(take, graph.value({"a": [1, 2]})["a"])
    assert [extra.value for extra in graph.compile().extras if isinstance(extra, Value)] == [[1, 2]]


# ---- inline ----------------------------------------------------------------------------------------------


def test_an_inline_function_runs_inside_each_consumer(graph: Graph) -> None:
    a = graph.add(make)
    inner = graph.add(take, a["a"], inline=True)
    outer = graph.add(take, inner, a, inline=True)
    graph.add(take, outer["x"], inner)
    graph.add(take, inner)
    plan = graph.compile()
    assert list(plan.ids) == ["make", "take-3", "take-4"]
    assert plan.inputs == [(), (3, 0), (3,)]
    slot = plan.slot_of(1)
    taken = slot(outer["x"])
    assert isinstance(taken, Taken)
    assert isinstance(taken.placeholder, Inline)
    assert taken.placeholder.args == (inner, a)
    assert slot(inner) is slot(inner)
    assert slot(a["a"]) == Slot(0)


def test_a_lone_inline_function_is_refused(graph: Graph) -> None:
    graph.add(make, inline=True, id="lone")
    with pytest.raises(GraphError, match="'lone' is inline, but no function takes its result"):
        graph.compile()


def test_an_inline_function_cannot_be_wanted(graph: Graph) -> None:
    a = graph.add(make, inline=True)
    graph.add(take, a)
    with pytest.raises(GraphError, match="'make', which is inline"):
        graph.compile(outputs=[a])


def test_an_inline_coroutine_function_is_refused(graph: Graph) -> None:
    async def fetch() -> int:
        return 1

    graph.add(take, graph.add(fetch, inline=True))
    with pytest.raises(GraphError, match="'fetch' is inline, but it is a coroutine function"):
        graph.compile()


# ---- Arg -------------------------------------------------------------------------------------------------


def shrink(x: Any) -> bytes:
    return bytes(x)


def grow(x: bytes) -> list[int]:
    return list(x)


def test_dump_is_a_task_beside_its_producer_and_load_runs_in_the_consumer(graph: Graph) -> None:
    a = graph.add(make)
    arg: Any = Arg(a["a"], dump=shrink, load=grow)
    graph.add(take, arg)
    graph.add(take, [arg], Arg(a["a"], dump=shrink))
    plan = graph.compile()
    assert list(plan.ids) == ["make", "take", "take-2", "shrink(make['a'])"] or list(plan.ids) == [
        "make",
        "shrink(make['a'])",
        "take",
        "take-2",
    ]
    dump = list(plan.ids).index("shrink(make['a'])")
    takes = [list(plan.ids).index("take"), list(plan.ids).index("take-2")]
    assert plan.groups[dump] == plan.groups[0] >= 0
    assert [plan.inputs[t] for t in takes] == [(dump,), (dump,)]
    assert dump < min(takes)
    assert slots(plan, takes[0], arg) == [Loaded(Slot(0), grow)]
    assert plan.locate("shrink(make['a'])") == (dump, ())


def test_dump_of_an_inline_producer_runs_in_the_consumer(graph: Graph) -> None:
    a = graph.add(make, inline=True)
    arg = Arg(a, dump=shrink, load=grow)
    graph.add(take, arg)
    plan = graph.compile()
    assert len(plan) == 1
    (found,) = slots(plan, 0, arg)
    assert (found.load, found.placeholder.load) == (grow, shrink)
    assert isinstance(found.placeholder.placeholder, Inline)


def test_args_of_args_convert_one_after_the_other(graph: Graph) -> None:
    a = graph.add(make)
    arg = Arg(Arg(a, load=grow), dump=shrink)
    graph.add(take, arg)
    plan = graph.compile()
    dump = list(plan.ids).index("shrink(make)")
    assert slots(plan, dump, Arg(a, load=grow)) == [Loaded(Slot(0), grow)]


def test_conversions_that_cannot_be_called_are_refused(graph: Graph) -> None:
    async def later(x: Any) -> Any:
        return x

    a = graph.add(make)
    for arg in (Arg(a, load=add), Arg(a, dump=add), Arg(a, load=later)):  # type: ignore[call-overload]
        g = Graph([])
        g.add(take, Arg(g.add(make), dump=arg.dump, load=arg.load))
        with pytest.raises(GraphError, match=r"add.* cannot be called with|is a coroutine function"):
            g.compile()


# ---- collocation -----------------------------------------------------------------------------------------


def test_collocated_functions_share_a_group_and_its_pin(graph: Graph) -> None:
    a = graph.add(make, 1)
    b = graph.add(make, 2, collocate_with=a, host="h1", priority=3)
    c = graph.add(make, 3, collocate_with=b["x"])
    d = graph.add(make, 4)
    e = graph.add(make, 5, collocate_with=d.id)
    plan = graph.compile()
    assert plan.groups == [0, 0, 0, 1, 1]
    assert [options.host for options in plan.options] == ["h1", "h1", "h1", None, None]
    assert plan.options[0] is plan.options[2]
    assert plan.options[3] is plan.options[4]
    assert [o.id for o in (c, e)] == ["make-3", "make-5"]


def test_contradictory_pins_are_refused(graph: Graph) -> None:
    a = graph.add(make, host="h1", id="a")
    b = graph.add(make, collocate_with=a, id="b")
    graph.add(make, collocate_with=b, host="h2", id="c")
    with pytest.raises(
        GraphError, match=r"'a', 'b', 'c' must share one host, but 'a' is pinned to 'h1' and 'c' .*'h2'"
    ):
        graph.compile()


def test_collocation_with_what_has_no_host_is_refused(graph: Graph) -> None:
    inline = graph.add(make, inline=True, id="inner")
    graph.add(take, inline)
    cases: list[tuple[Any, str]] = [
        (inline, "'inner', an inline function"),
        (graph.value(1, id="table"), "'table', a value"),
        ("innr", "Did you mean 'inner'"),
        (Graph().add(make), "another graph"),
    ]
    for target, message in cases:
        g = graph
        made: Output[Any] = g.add(make, collocate_with=target)
        with pytest.raises(GraphError, match=message):
            g.compile()
        g._nodes.collocated.pop(made._node)


def test_collocation_with_what_does_not_run_this_time_is_no_matter(graph: Graph) -> None:
    a = graph.add(make)
    b = graph.add(make, collocate_with=a)
    assert graph.compile(given={a: 1}).groups == [-1]
    assert graph.compile(outputs=[b]).groups == [-1]


def test_a_plan_asked_for_a_later_function_says_so(graph: Graph) -> None:
    graph.add(make)
    plan = graph.compile()
    later = graph.add(make)
    with pytest.raises(GraphError, match="after this run began"):
        plan.locate(later)
