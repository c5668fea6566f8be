"""`Warm`: what it takes, what it refuses, and how a plan numbers what its arguments refer to."""

from __future__ import annotations

import functools
import pickle
import re
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from handout.errors import GraphError, NotAValueError, UnserializableError
from handout.graph import Arg, Graph, later
from handout.graph.objects import WarmRecipe
from handout.graph.options_decorator import options
from handout.graph.warm import Warm
from handout.serialization.calls import Loaded, Slot, Warmed


def load(path: str, *, bits: int = 8) -> str:
    return path * bits


def take(*values: Any, **named: Any) -> int:
    return len(values)


async def take_in_loop(value: Any) -> Any:
    return value


def each() -> Generator[int]:
    yield 1


async def each_in_loop() -> AsyncGenerator[int]:
    yield 1


async def connect() -> str:
    return "connection"


class InLoop:
    async def __aenter__(self) -> int:
        return 1

    async def __aexit__(self, *_: object) -> None: ...


def test_it_is_one_node_for_all_functions_that_take_it(graph: Graph) -> None:
    made = graph.add(take)
    inner = Warm(load, later(made))
    outer = Warm(load, "x", bits=later(inner))
    graph.add(take, outer, made)
    graph.map(take, outer, [1, 2])
    plan = graph.compile()
    assert [each.warm for each in plan.extras if isinstance(each, WarmRecipe)] == [inner, outer]
    assert plan.inputs == [(), (5, 4, 0), (5, 4, 0), (5, 4, 0)]
    assert plan.producers == [0, 1, 2, 3, -1, -1]
    assert {plan.name_of(4), plan.name_of(5)} == {"Warm(load)", "Warm(load)-2"}
    placeholder = plan.slot_of(1)(outer)
    assert placeholder == Warmed(b"", Slot(0), (Slot(1), Slot(2)), 1)
    assert plan.slot_in(plan.extras[1])(inner) == Warmed(b"", Slot(0), (Slot(1),), 0)  # type: ignore[arg-type]


def test_it_is_found_where_outputs_are(graph: Graph) -> None:
    warm = Warm(load, "x")
    graph.add(functools.partial(take, warm), 1)
    graph.add(take, k=[{"a": (1, warm)}])
    graph.add(take, Arg(warm, load=len))
    graph.add(take, graph.add(load, later(warm), inline=True))
    plan = graph.compile()
    assert plan.inputs == [(4,)] * 4
    assert plan.slot_of(2)(plan.args[2][0]) == Loaded(Warmed(b"", Slot(0), (), 0), len)


def test_only_what_is_needed_is_a_part_of_a_run(graph: Graph) -> None:
    wanted, other = graph.add(take, Warm(load, "x")), graph.add(take, Warm(load, later(graph.add(take))))
    assert len(graph.compile(outputs=[wanted]).extras) == 1
    assert graph.compile(outputs=[wanted]).ids == ["take"]
    assert "Warm(load)" in graph.to_mermaid()
    assert other.id in graph.to_dot()


def test_arguments_of_a_partial_function_become_its_own(graph: Graph) -> None:
    made = graph.add(take)
    warm = Warm(functools.partial(load, later(made)), bits=2)
    assert (warm.make, warm.args, warm.kwargs) == (load, (made,), {"bits": 2})


@pytest.mark.parametrize(
    ("make", "args", "message"),
    [
        (each, (), r"'each' is a generator function.*\n?.*@contextlib\.contextmanager"),
        (each_in_loop, (), r"'each_in_loop' is a generator function.*\n?.*@contextlib\.asynccontextmanager"),
        ("/models/v7", (), r"'/models/v7' is not callable.*\n?.*Warm\(load, path\)"),
        (load, (), r"'load'.*missing a required argument: 'path'"),
        (load, (1, 2), r"'load'.*too many positional arguments"),
        (
            options(timeout_s=1, cost={"cpu": 1})(functools.partial(load, "x")),
            (),
            r"'load' has the option cost=.*\n?.*",
        ),
    ],
)
def test_wrong_makers_are_refused(make: Any, args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Warm(make, *args)


def test_options_are_no_arguments_of_the_maker() -> None:
    with pytest.raises(GraphError, match=r"handout\.options\(timeout_s=\.\.\.\)\(load\)"):
        Warm(load, "x", timeout_s=3)  # type: ignore[call-arg]
    Warm(options(timeout_s=3)(functools.partial(load)), "x")


def test_unfinished_work_is_no_argument() -> None:
    coroutine = connect()
    with pytest.raises(UnserializableError, match=r"'load' cannot take args\[0\]"):
        Warm(load, coroutine)
    coroutine.close()


def test_what_an_event_loop_makes_is_for_coroutine_functions(graph: Graph) -> None:
    manager = asynccontextmanager(each_in_loop)
    makers = [
        Warm(connect),
        Warm(manager),
        Warm(functools.partial(manager)),
        Warm(InLoop),
        Warm(load, later(Warm(connect))),
    ]
    for warm in makers:
        assert warm.is_async
        with pytest.raises(GraphError, match=r"function 'take' takes Warm\(\w+\), which is made in an event loop"):
            graph.add(take, warm)
        with pytest.raises(GraphError, match=r"function 'named' takes"):
            graph.add(take, warm, id="named")
        graph.add(take_in_loop, warm)
    assert len(graph.compile().ids) == len(makers)
    assert not Warm(contextmanager(each)).is_async
    for argument in ([makers[0]], Arg(makers[0], load=len)):
        wrong = Graph()
        wrong.add(take, argument)
        with pytest.raises(GraphError, match="made in an event loop"):
            wrong.compile()


def test_it_is_no_value() -> None:
    warm = Warm(load, "x")
    with pytest.raises(NotAValueError, match="has no elements"):
        warm[0]  # type: ignore[index]
    for use, message in (
        (bool, "in a function that takes the Warm"),
        (list, "in a function that takes the Warm"),
        (len, r"graph\.add\(len, warm\)"),
        (lambda value: value.score, r"graph\.add\(lambda x: x\.score, warm\)"),
        (lambda value: value.result, r"graph\.add\(lambda x: x\.result, warm\)"),
        (lambda value: f"{value}", r'f"\{x\}", warm\)'),
    ):
        with pytest.raises(NotAValueError, match=f"exists only in workers(.|\n)*{message}") as caught:
            use(warm)
        assert not re.search(r"\bout\b|pick|results", str(caught.value))
    with pytest.raises(GraphError, match="cannot be pickled or copied"):
        pickle.dumps(warm)
    with pytest.raises(GraphError, match="not a value"):
        Graph().value(warm)
    hidden = Graph()
    hidden.add(take, {1: [lambda: warm]})
    assert repr(warm) == "Warm(load)"
    with pytest.raises(GraphError, match="which is not an output"):
        hidden.compile(outputs=[warm])  # type: ignore[list-item]


def test_a_function_cannot_be_collocated_with_it(graph: Graph) -> None:
    warm = Warm(load, "x")
    graph.add(take, warm, collocate_with=warm)
    with pytest.raises(GraphError, match="has no host of its own"):
        graph.compile()
    other = Graph()
    other.add(take, collocate_with=warm)
    with pytest.raises(GraphError, match="has no host of its own"):
        other.compile()
