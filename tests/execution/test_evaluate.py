"""`evaluate_plan` runs a plan in the calling process, without a cluster."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict, namedtuple
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from handout.errors import RemoteError, TaskExitedError
from handout.execution.evaluate import evaluate
from handout.execution.in_process import evaluate_plan
from handout.graph import Arg, Graph, later
from handout.graph.warm import Warm
from handout.host.handout_stub import current
from handout.serialization.calls import apply_path


def value_of(graph: Graph, out: Any, scratch: str = "", **given: Any) -> Any:
    plan = graph.compile(outputs=[out], **given)
    number, path = plan.locate(out)
    return apply_path(evaluate_plan(plan, scratch)[number], path)


def pair(x: int) -> tuple[int, dict[str, int]]:
    return x, {"k": x * 10}


def same(x: Any, **named: Any) -> Any:
    return (x, named) if named else x


async def fetch(url: str) -> str:
    await asyncio.sleep(0)
    return url.upper()


def test_values_flow_through_containers(graph: Graph) -> None:
    Point = namedtuple("Point", "x y")
    a = graph.add(pair, 2)
    deep = {"list": [a[0], 5], "tuple": (a[1]["k"],), "point": Point(a[0], 1), a[0]: 1}
    out = graph.add(same, deep, more=defaultdict(list, x=[a[0]]))
    found, named = value_of(graph, out)
    assert found == {"list": [2, 5], "tuple": (20,), "point": Point(2, 1), 2: 1}
    assert type(found["point"]) is Point
    assert named["more"]["x"] == [2]
    assert named["more"]["new"] == []
    assert deep["list"] == [a[0], 5]


def test_what_holds_no_output_is_the_very_object(graph: Graph) -> None:
    table = {"rows": [1, 2]}
    assert value_of(graph, graph.add(same, table)) is table


def test_coroutine_functions_are_awaited(graph: Graph) -> None:
    assert value_of(graph, graph.add(same, graph.add(fetch, "u"))) == "U"


async def test_coroutine_functions_are_awaited_inside_a_running_loop(graph: Graph) -> None:
    assert value_of(graph, graph.add(fetch, "u")) == "U"


def test_inline_functions_are_called_once_for_a_consumer(graph: Graph) -> None:
    calls: list[int] = []

    def note(x: int) -> list[int]:
        calls.append(x)
        return [x]

    inner = graph.add(note, 3, inline=True)
    out = graph.add(same, [inner, inner[0]])
    assert value_of(graph, out) == [[3], 3]
    assert calls == [3]


def test_args_convert(graph: Graph) -> None:
    a = graph.add(pair, 2)
    out = graph.add(same, Arg(a[1], dump=len, load=str))
    assert value_of(graph, out) == "1"


def test_given_values_replace(graph: Graph) -> None:
    a = graph.add(pair, 2)
    out = graph.add(same, [a[1]["k"], a[0]])
    assert value_of(graph, out, given={a: (7, {"k": 8})}) == [8, 7]
    assert value_of(graph, out, given={a[1]: {"k": 8}}) == [8, 2]


def test_an_exception_is_the_functions_own(graph: Graph) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        value_of(graph, graph.add(divmod, 1, 0, id="broken"))
    assert caught.value.__notes__ == ["Task 'broken' was evaluated in this process."]


@pytest.mark.parametrize("kind", [StopIteration, asyncio.CancelledError])
def test_what_would_be_mistaken_comes_as_remote_error(graph: Graph, kind: type[BaseException]) -> None:
    def fail() -> None:
        raise kind("why")

    with pytest.raises(RemoteError, match=f"Task 'fail' raised {kind.__name__}: why"):
        value_of(graph, graph.add(fail))


def test_sys_exit_ends_the_task_and_not_the_caller(graph: Graph) -> None:
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(TaskExitedError) as caught:
        value_of(graph, graph.add(leave))
    assert caught.value.code == 3


def test_a_task_knows_itself(graph: Graph, tmp_path: Path) -> None:
    def ask() -> tuple[str, str, int, int]:
        running = current()
        (Path(running.scratch) / "note").write_text("x")
        return running.id, running.host, running.attempt, running.variant

    assert value_of(graph, graph.add(ask, id="me"), str(tmp_path)) == ("me", "local", 1, 0)
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == ["note"]
    assert current().id == "no task"


class HostileError(Exception):
    """An exception that shows nothing and takes nothing."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(f"no {name}")


def test_an_exception_that_refuses_everything_is_raised_as_it_is(graph: Graph) -> None:
    def fail() -> None:
        raise HostileError("why")

    graph.add(fail)
    with pytest.raises(HostileError):
        evaluate(graph)


def test_an_exit_with_an_object_without_a_text_is_told(graph: Graph) -> None:
    def leave() -> None:
        sys.exit(HostileError())  # type: ignore[arg-type]

    graph.add(leave)
    with pytest.raises(TaskExitedError, match=r"sys\.exit"):
        evaluate(graph)


def test_a_warm_value_is_made_once_for_each_call_and_left_at_its_end() -> None:
    log: list[str] = []

    @contextmanager
    def opened(name: str) -> Generator[list[str]]:
        log.append(f"enter {name}")
        yield [name]
        log.append(f"leave {name}")

    async def connect(name: str) -> list[asyncio.AbstractEventLoop]:
        log.append(f"connect {name}")
        return [asyncio.get_running_loop()]

    async def is_in_its_loop(held: list[asyncio.AbstractEventLoop]) -> bool:
        return held[0] is asyncio.get_running_loop()

    graph = Graph()
    inner = Warm(opened, later(graph.add(fetch, "a")))
    outs = [
        graph.add(same, inner),
        graph.add(lambda held: held["in"], {"in": later(Warm(list, later(inner)))}),
        *graph.map(is_in_its_loop, [Warm(connect, "b")] * 2),
    ]
    for _ in range(2):
        log.clear()
        results = evaluate(graph)
        assert results[outs[0]] == ["A"]
        assert results[outs[2:]] == [True, True]
        assert results[outs[1]] == ["A"]
        assert sorted(log) == ["connect b", "enter A", "leave A"]
        assert log[-1] == "leave A"

    async def in_a_loop() -> None:
        assert evaluate(graph)[outs[2:]] == [True, True]

    asyncio.run(in_a_loop())


def test_what_makes_a_warm_value_fails_the_function_that_takes_it() -> None:
    def fail() -> None:
        raise OSError("no model")

    graph = Graph()
    graph.add(same, Warm(fail), id="takes")
    with pytest.raises(OSError, match="no model") as caught:
        evaluate(graph)
    assert caught.value.__notes__ == ["Task 'takes' was evaluated in this process."]
