"""Options of functions: how they reach the plan, and which ones `Graph.add` and `options` refuse."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from handout.errors import CostError, GraphError
from handout.execution.run_options import ClusterOptions
from handout.graph import Graph, later, options
from handout.graph.function_options import OF_RUNS, OPTION_NAMES
from handout.graph.options_decorator import MARKS, mark_of
from handout.resources import Cost


def load(path: str) -> str:
    return path


def placed(host: str, cost: int = 1) -> str:
    return host


def numbered(id: int) -> int:
    return id


def only(graph: Graph) -> Any:
    (found,) = graph.compile().options
    return found


def test_options_of_a_call_reach_the_plan(graph: Graph) -> None:
    cost = Cost(memory="2 GB")
    graph.add(load, "x", cost=cost, retries=2, timeout_s=3, host="a", priority=1, idempotent=False, labels={"k": 1})
    found = only(graph)
    assert found.requirements[0].cost is cost
    assert (found.retries, found.timeout_s, found.host, found.priority) == (2, 3, "a", 1)
    assert not found.idempotent
    assert found.labels == {"k": 1}


def test_equal_options_are_one_object(graph: Graph) -> None:
    for i in range(3):
        graph.add(load, str(i), cost={"memory": "1 GB"}, retries=1)
    graph.add(load, "x", cost={"memory": "1 GB"}, retries=2)
    plan = graph.compile()
    assert len({id(each) for each in plan.options}) == 2


def test_true_and_one_are_different_costs(graph: Graph) -> None:
    graph.add(load, "x", cost={"flag": True})
    graph.add(load, "x", cost={"flag": 1})
    plan = graph.compile()
    assert plan.options[0] is not plan.options[1]


def test_a_set_that_changes_between_two_calls_gives_two_costs(graph: Graph) -> None:
    labels = {"tags": {"a"}}
    graph.add(load, "x", labels=labels)
    labels["tags"] = {"b"}
    graph.add(load, "x", labels=labels)
    assert [each.labels for each in graph.compile().options] == [{"tags": {"a"}}, {"tags": {"b"}}]


def test_marked_options_are_read_at_add_and_calls_win(graph: Graph) -> None:
    @options(retries=2, priority=5)
    def marked(x: int) -> int:
        return x

    graph.add(marked, 1, retries=7)
    found = only(graph)
    assert (found.retries, found.priority) == (7, 5)


def test_a_marked_function_stays_the_function_that_it_was() -> None:
    given: list[Any] = []

    @options(retries=1)
    @(lambda fn: given.append(fn) or fn)
    def plain(x: int) -> int:
        return x

    assert given == [plain]
    assert vars(plain) == {}


def test_a_mark_is_not_inherited(graph: Graph) -> None:
    @options(retries=2)
    def marked(x: int) -> int:
        return x

    @functools.wraps(marked)
    def wrapper(x: int) -> int:
        return marked(x)

    @options(retries=3)
    class Base:
        pass

    class Derived(Base):
        pass

    for fn in (wrapper, Derived):
        assert mark_of(fn) is None
    assert mark_of(Base) == {"retries": 3}


def test_a_partial_function_has_the_options_of_the_function_inside(graph: Graph) -> None:
    @options(retries=2)
    def marked(x: int, y: int) -> int:
        return x + y

    out = graph.value(1)
    graph.map(functools.partial(marked, y=1), [1])
    graph.map(functools.partial(marked, later(out)), [1], priority=5)
    graph.add(functools.partial(functools.partial(marked, 1), 2))
    graph.add(options(priority=3)(functools.partial(marked, 1)), 2)
    used = options(priority=4)(marked)
    graph.map(functools.partial(used, y=1), [1])
    graph.add(functools.partial(functools.partial(used, 1), 2))
    found = [(each.retries, each.priority) for each in graph.compile().options]
    assert found == [(2, 0), (2, 5), (2, 0), (2, 3), (2, 4), (2, 4)]


def test_a_method_has_the_options_of_its_function(graph: Graph) -> None:
    class Model:
        @options(retries=4)
        def fit(self) -> int:
            return 1

    graph.add(Model().fit)
    assert only(graph).retries == 4


def test_marks_add_up() -> None:
    @options(retries=1)
    @options(retries=5, priority=2)
    def marked() -> None: ...

    assert mark_of(marked) == {"retries": 1, "priority": 2}


def test_a_mark_goes_with_its_function() -> None:
    @options(retries=1)
    def marked() -> None: ...

    number = id(marked)
    assert number in MARKS
    del marked
    gc.collect()
    assert number not in MARKS


def test_an_option_that_is_a_parameter_too_is_refused(graph: Graph) -> None:
    with pytest.raises(GraphError, match=r"parameter named 'host'.*handout\.options\(host=\.\.\.\)\(placed\)"):
        graph.add(placed, host="x")
    with pytest.raises(GraphError, match=r"parameter named 'id'.*handout\.options\(\)\(numbered\)"):
        graph.add(numbered, id=3)
    graph.add(options()(numbered), id=3)
    assert graph.compile().kwargs[0] == {"id": 3}


def test_a_marked_function_gets_its_own_parameter(graph: Graph) -> None:
    graph.add(options(cost={"memory": "1 GB"})(placed), host="x", retries=2)
    plan = graph.compile()
    assert plan.kwargs[0] == {"host": "x"}
    assert plan.options[0].host is None
    assert plan.options[0].retries == 2


def test_a_parameter_of_such_a_name_is_given_by_position(graph: Graph) -> None:
    graph.add(placed, "x", retries=1)
    assert graph.compile().args[0] == ("x",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"retries": "2"}, "retries='2' is not a whole number"),
        ({"retries": -1}, "retries=-1 is not a whole number"),
        ({"retries": True}, "retries=True is not a whole number"),
        ({"timeout_s": 0}, "timeout_s=0 is not a finite number of seconds above 0"),
        ({"timeout_s": float("nan")}, "timeout_s=nan"),
        ({"backoff_s": -1}, "backoff_s=-1"),
        ({"host": 3}, "host=3 is not the name of a host"),
        ({"id": ""}, "id='' is not a text"),
        ({"inline": 1}, "inline=1 is not True or False"),
        ({"labels": 3}, "labels=3 is not a mapping"),
        ({"cost": "2 GB"}, "cost='2 GB' is not a Cost"),
        ({"retry_on": "ValueError"}, "retry_on='ValueError' is not an exception class"),
        ({"retry_on": int}, "retry_on="),
        ({"retry_on": asyncio.sleep}, "is not an exception class, a tuple of these, or a function without async"),
        ({"retry_on": (ValueError, KeyboardInterrupt)}, "retry_on="),
        ({"collocate_with": 3}, "collocate_with=3"),
        ({"priority": "high"}, "priority='high' is not a finite number"),
    ],
)
def test_a_wrong_option_is_refused_at_once(graph: Graph, given: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message.replace("(", r"\(")):
        graph.add(load, "x", **given)
    with pytest.raises(GraphError):
        options(**given)(load)


def test_a_cost_that_cannot_be_read_is_refused_at_once(graph: Graph) -> None:
    with pytest.raises(CostError, match="memory"):
        graph.add(load, "x", cost={"memory": "2 elephants"})


def test_an_unknown_option_in_a_mark_names_the_nearest() -> None:
    mark: Any = options
    with pytest.raises(GraphError, match=r"unknown option 'retires'.*Did you mean 'retries'"):
        mark(retires=2)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("memory", r"cost=\{'memory': \.\.\.\}"),
        ("max_workers", r"Cluster\(\.\.\., max_concurrency="),
        ("on_failure", r"an option of a run: handout\.execute\(graph, on_failure="),
        ("retry", "Did you mean 'retries'"),
    ],
)
def test_what_is_no_option_of_a_function_says_where_it_belongs(graph: Graph, name: str, remedy: str) -> None:
    mark: Any = options
    with pytest.raises(GraphError, match=remedy):
        mark(**{name: 1})
    if name != "max_workers":
        with pytest.raises(GraphError, match=remedy):
            graph.add(load, "x", **{name: 1})


def test_the_options_that_only_a_run_has_are_known_to_the_graph() -> None:
    assert ClusterOptions.__annotations__.keys() - OPTION_NAMES == OF_RUNS


def test_an_id_cannot_be_marked() -> None:
    with pytest.raises(GraphError, match="an id belongs to one use"):
        options(id="x")


def test_an_inline_function_has_no_place_and_no_price(graph: Graph) -> None:
    for given in ({"host": "a"}, {"cost": {"cpu": 2}}, {"retries": 1}, {"timeout_s": 1.0}, {"collocate_with": "x"}):
        with pytest.raises(GraphError, match=f"is inline.*{next(iter(given))}"):
            graph.add(load, "x", inline=True, **given)  # type: ignore[call-overload]


def test_options_of_one_use_leave_the_other_uses_as_they_are(graph: Graph) -> None:
    """Otherwise, the options of one call would hold in all later ones, without a word."""

    @options(retries=2)
    def work(x: int) -> int:
        return x

    first, second = options(host="a", retries=3)(work), options(host="b")(work)
    third = options(host="c", cost={"cpu": 2})(second)
    for fn in (first, second, third, work, options(host="d")(load), load):
        graph.add(fn, 1)
    plan = graph.compile()
    assert [each.host for each in plan.options] == ["a", "b", "c", None, "d", None]
    assert [each.retries for each in plan.options] == [3, 2, 2, 2, None, None]
    assert plan.ids[:2] == ["work", "work-2"]
    assert mark_of(third) == {"host": "c", "retries": 2, "cost": {"cpu": 2}}
    for whole in (os.getpid, Path.exists, Path):
        assert options(host="a")(whole) is not whole
        assert mark_of(whole) is None


def test_a_callable_with_attributes_that_fail_gets_options(graph: Graph) -> None:
    class Odd:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

        def __call__(self, x: int) -> int:
            return x

    odd = Odd()
    assert mark_of(options(retries=1)(odd)) == {"retries": 1}
    assert mark_of(odd) is None


def test_different_options_of_several_decorators_hold_together() -> None:
    @options(retries=2)
    @options(host="a", labels={"k": 1})
    @options(labels={"k": 1})
    def work() -> None:
        pass

    assert mark_of(work) == {"retries": 2, "host": "a", "labels": {"k": 1}}
    assert not isinstance(work, functools.partial)


def test_a_function_that_no_variable_holds_keeps_its_own_options_too(graph: Graph) -> None:
    class Holder:
        def __init__(self) -> None:
            self.fn = made()

        def method(self) -> None: ...

    class Called:
        def __call__(self) -> None: ...

    def made() -> Any:
        def inner() -> None: ...

        return inner

    def with_default(fn: Any = made()) -> Any:  # noqa: B008
        return fn

    table = {"a": made(), "object": Called(), "class": type("Local", (), {}), "lambda": lambda: None}
    holder = Holder()
    for fn in (*table.values(), holder.fn, holder.method, with_default()):
        given: Any = options(retries=1)(fn)
        assert (given is not fn, mark_of(given), mark_of(fn)) == (True, {"retries": 1}, None)
    fn = None
    assert options(retries=1)(table["a"]) is not table["a"]
    assert options(retries=1)(
        with_default()
    ) is not with_default()  # fmt: skip
    assert mark_of(table["a"]) is mark_of(with_default()) is None


def test_what_stands_below_the_decorator_is_changed_itself() -> None:
    def same(fn: Any) -> Any:
        return fn

    @same
    @options(
        retries=1,
        host="a",
    )
    @functools.lru_cache
    def cached(
        x: int,
    ) -> int:
        return x

    @options(retries=2)
    async def one_line(x: int = 3) -> Any: return x  # fmt: skip

    class Model:
        @options(retries=3)
        @staticmethod
        def load() -> None: ...

        @options(retries=4)
        def fit(self) -> None: ...

    assert not any(isinstance(fn, functools.partial) for fn in (cached, one_line, Model.load, Model.fit))
    found = [mark_of(fn) for fn in (cached, one_line, Model().fit)]
    assert found == [{"retries": 1, "host": "a"}, {"retries": 2}, {"retries": 4}]
