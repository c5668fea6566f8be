"""Tasks have the same identity if the hosts get the same bytes for both, and the sources of the modules are the same."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from handout import Arg, File, Graph, Output
from handout.slices import at_once
from handout.submission.arguments import encode_plan
from handout.submission.run_identities import RunIdentities
from tests import work


def identities(graph: Graph, outputs: Any = None) -> list[bytes]:
    plan = graph.compile(outputs=outputs)
    made = RunIdentities(plan, at_once(encode_plan(plan)))
    at_once(made.compute())
    return made.tasks


def of(fn: Callable[..., Any], *args: Any) -> bytes:
    graph = Graph()
    graph.add(fn, *args)
    return identities(graph)[-1]


@dataclasses.dataclass
class Point:
    x: int


def local(source: str, name: str = "f", *, file: str = "cell") -> Any:
    """Define a function of ``__main__``, which travels by value."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, file, "exec"), space)
    return space[name]


@pytest.mark.parametrize(
    "make",
    [
        lambda: 1,
        lambda: [1, {"a": {2}}],
        lambda: {"one", "two", "three"},
        lambda: "x" * 100_000,
        lambda: Point(1),
        lambda: numpy.arange(100_000),
        lambda: [numpy.arange(100_000), "y" * 100_000],
        lambda: functools.partial(work.add, 1),
        lambda: work.add,
        object,
        lambda: float("nan"),
    ],
)
def test_equal_arguments_have_equal_identities(make: Callable[[], Any]) -> None:
    assert of(work.identity, make()) == of(work.identity, make())


def test_a_function_counts_without_its_place() -> None:
    source = "def f(x):\n    return [y + 1 for y in x]\n"
    one, moved = local(source), local(f"\n\n# a comment\n{source}", file="another cell")
    shared = one.__globals__
    moved = type(moved)(moved.__code__, shared, "f")
    assert of(one, [1]) == of(moved, [1])
    assert of(one, [1]) != of(local(source.replace("+ 1", "+ 2")), [1])


def test_lambdas_are_pickled_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Counted:
        def __reduce__(self) -> Any:
            calls.append(1)
            return Counted, ()

    counted = Counted()
    of(lambda: counted)
    assert len(calls) == 1


def test_the_elements_that_other_functions_take_do_not_count() -> None:
    graph = Graph()
    pair = graph.add(work.identity, (1, [2]))
    named = graph.add(work.greet, "a", greeting=pair[0])
    before = identities(graph)
    more = graph.add(work.identity, pair[1])
    after = identities(graph)
    assert after[:2] == before
    assert identities(graph, [pair[1], named[0], more]) == after


def test_what_a_task_takes_counts() -> None:
    def taken(build: Callable[[Graph], Any]) -> bytes:
        graph = Graph()
        graph.add(work.identity, build(graph))
        return identities(graph)[-1]

    def pair(graph: Graph) -> Output[Any]:
        return graph.add(work.identity, (1, 2))

    builds: list[Callable[[Graph], Any]] = [
        pair,
        lambda graph: pair(graph)[0],
        lambda graph: pair(graph)[1],
        lambda graph: pair(graph)[True],
        lambda graph: [pair(graph)],
        lambda graph: Arg(pair(graph), load=len),
        lambda graph: Arg(pair(graph), dump=len),
        lambda graph: graph.value((1, 2)),
        lambda graph: graph.value((1, 3)),
        lambda graph: graph.add(work.identity, (1, 3)),
        lambda graph: (1, 2),
    ]
    assert len({taken(build) for build in builds}) == len(builds)


def test_equal_tasks_of_one_graph_are_numbered() -> None:
    graph = Graph()
    graph.map(work.identity, [1] * 3)
    assert len(set(identities(graph))) == 3


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_a_file_counts_with_the_content_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: bool, nested: bool
) -> None:
    """A large file is mapped. The content of one that has not changed for long is only read when the identity is needed."""
    if settled:
        monkeypatch.setattr("handout.submission.call_digests._SETTLED_NS", -(10**18))
    path = tmp_path / "large"
    path.write_bytes(b"a" * (1 << 21))
    graph = Graph()
    graph.add(work.identity, {"file": File(path)} if nested else File(path))
    plan = graph.compile()
    before = identities(graph)
    assert identities(graph) == before
    changed, removed = (RunIdentities(plan, at_once(encode_plan(plan))) for _ in range(2))
    path.write_bytes(b"b" * (1 << 21))
    at_once(changed.compute())
    assert (changed.tasks == before) is not settled
    assert changed.tasks != identities(graph)
    path.unlink()
    at_once(removed.compute())
    assert (removed.tasks == before) is not settled
    path.write_bytes(b"a" * (1 << 21))
    assert identities(graph) == before


def test_the_digests_of_large_values_are_made_in_slices() -> None:
    array = numpy.zeros(4 << 20)
    graph = Graph()
    graph.add(work.identity, array)
    plan = graph.compile()
    encoded = at_once(encode_plan(plan))
    assert sum(1 for _ in RunIdentities(plan, encoded).compute()) >= array.nbytes >> 22


def test_what_cannot_be_pickled_matches_nothing() -> None:
    graph = Graph()
    graph.add(work.identity, 1)
    graph.add(work.identity, threading.Lock())
    graph.add(work.identity, graph.value(threading.Lock()))
    graph.add(lambda: iter_of(graph))
    plan = graph.compile()

    def made() -> list[bytes]:
        found = RunIdentities(plan, at_once(encode_plan(plan, is_lenient=True)))
        at_once(found.compute())
        return found.tasks

    assert [one == other for one, other in zip(made(), made(), strict=True)] == [True, False, False, False]


def iter_of(graph: Graph) -> Any:
    return iter(())
