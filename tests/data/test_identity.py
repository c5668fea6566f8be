"""Identities: what makes a task the same task, and what makes it another one."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handout import Graph
from handout.data.identity import Identities, identity_of
from tests import work


def function(source: str, name: str = "f", **space: Any) -> Any:
    """A function of the user's, as a file would define it."""
    namespace: dict[str, Any] = {"__name__": "__main__", **space}
    exec(compile(source, f"/somewhere/{len(source)}.py", "exec"), namespace)
    return namespace[name]


SAME = [
    ("def f(x): return x + 1", "\n\n# moved, and explained\ndef f(x):\n    'What it does.'\n    return x + 1"),
    ("LIMIT = {'b', 'a', 'c'}\ndef f(x): return x in LIMIT", "LIMIT = {'c', 'a', 'b'}\ndef f(x): return x in LIMIT"),
    ("UNUSED = 1\ndef f(x): return x", "UNUSED = 2\ndef f(x): return x"),
    ("def f(n): return f(n - 1) if n else 0", "\ndef f(n): return f(n - 1) if n else 0"),
    ("def g(n): return f(n)\ndef f(n): return g(n)", "\ndef g(n): return f(n)\ndef f(n): return g(n)"),
]

OTHER = [
    ("def f(x): return x + 1", "def f(x): return x + 2"),
    ("def f(x): return x + 1", "def f(x): return x - 1"),
    ("def f(x, y=1): return x", "def f(x, y=2): return x"),
    ("def f(x, *, y=1): return x", "def f(x, *, y=2): return x"),
    ("LIMIT = 1\ndef f(x): return x < LIMIT", "LIMIT = 2\ndef f(x): return x < LIMIT"),
    ("LIMIT = 1\ndef f(x): return x < LIMIT", "LIMIT = 1.0\ndef f(x): return x < LIMIT"),
    ("LIMIT = 1\ndef f(x): return x < LIMIT", "LIMIT = True\ndef f(x): return x < LIMIT"),
    ("def g(x): return 1\ndef f(x): return g(x)", "def g(x): return 2\ndef f(x): return g(x)"),
    (
        "class A:\n  def m(self): return 1\ndef f(): return A()",
        "class A:\n  def m(self): return 2\ndef f(): return A()",
    ),
    ("def f(): return [lambda: 1]", "def f(): return [lambda: 2]"),
    (
        "def f(x):\n  try: return x\n  except KeyError: return 1",
        "def f(x):\n  try: return x\n  except OSError: return 1",
    ),
    ("import json\ndef f(x): return json.dumps(x)", "import pickle as json\ndef f(x): return json.dumps(x)"),
    ("T = {'a': [1, 2]}\ndef f(x): return T[x]", "T = {'a': [2, 1]}\ndef f(x): return T[x]"),
]


@pytest.mark.parametrize(("one", "two"), SAME)
def test_what_does_not_change_what_a_function_does_does_not_change_its_identity(one: str, two: str) -> None:
    assert identity_of(function(one)) == identity_of(function(two))


@pytest.mark.parametrize(("one", "two"), OTHER)
def test_what_changes_what_a_function_does_changes_its_identity(one: str, two: str) -> None:
    assert identity_of(function(one)) != identity_of(function(two))


def make(offset: int) -> Callable[[int], int]:
    return lambda x: x + offset


def test_what_a_closure_holds_counts() -> None:
    assert identity_of(make(1)) == identity_of(make(1))
    assert identity_of(make(1)) != identity_of(make(2))
    assert identity_of(functools.partial(make, 1)) != identity_of(functools.partial(make, 2))


@dataclasses.dataclass
class Point:
    x: int
    y: list[int]


def test_values_count_by_what_they_hold() -> None:
    assert identity_of(Point(1, [2])) == identity_of(Point(1, [2]))
    assert identity_of(Point(1, [2])) != identity_of(Point(1, [3]))
    assert identity_of([1, 2]) != identity_of((1, 2))
    assert identity_of({1: 2, 3: 4}) != identity_of({3: 4, 1: 2})
    assert identity_of({"a", "b"}) == identity_of({"b", "a"})
    assert identity_of(b"ab") != identity_of(bytearray(b"ab"))
    shared = [1]
    assert identity_of([shared, shared]) != identity_of([shared, [2]])
    cycle: list[Any] = [1]
    cycle.append(cycle)
    other: list[Any] = [1]
    other.append(other)
    assert identity_of(cycle) == identity_of(other)


def tasks_of(build: Callable[[Graph], object]) -> list[bytes]:
    graph = Graph()
    build(graph)
    return Identities(graph.compile()).tasks


def chain(graph: Graph, first: int = 0, extra: bool = False) -> None:
    out = graph.add(work.add, first, 1, id="a")
    if extra:
        graph.add(work.add, 70, 1, id="new")
    out = graph.add(work.add, out, 1, id="b")
    graph.add(work.total, [out, out], id="c")


def by_id(build: Callable[[Graph], object]) -> dict[str, bytes]:
    graph = Graph()
    build(graph)
    plan = graph.compile()
    return dict(zip(plan.ids, Identities(plan).tasks, strict=True))


def test_a_changed_argument_changes_all_that_depends_on_it_and_nothing_else() -> None:
    one, two = by_id(lambda g: chain(g)), by_id(lambda g: chain(g, 5))
    assert not set(one.values()) & set(two.values())


def test_a_graph_that_has_grown_keeps_the_identities_of_what_it_had() -> None:
    one, two = by_id(lambda g: chain(g)), by_id(lambda g: chain(g, extra=True))
    assert one.items() <= two.items()


def test_equal_tasks_of_one_graph_are_told_apart_by_their_order() -> None:
    two = tasks_of(lambda g: [g.add(work.add, 1, 1) for _ in range(2)])
    three = tasks_of(lambda g: [g.add(work.add, 1, 1) for _ in range(3)])
    assert len(set(three)) == 3
    assert three[:2] == two


def test_elements_and_outputs_deep_inside_arguments_count_as_what_they_are() -> None:
    def build(graph: Graph, index: int) -> None:
        pair = graph.add(divmod, 7, 2)
        graph.add(work.total, [pair[index], {"k": pair}])

    one, two = tasks_of(lambda g: build(g, 0)), tasks_of(lambda g: build(g, 1))
    assert one[0] == two[0]
    assert one[1] != two[1]


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.data.test_identity import Point, chain, make, tasks_of
from handout.data.identity import identity_of
from pathlib import Path
TABLE = {"x", "y", "z", "a", "b"}
def named(x): return x in TABLE and Path(x)
class Own:
    names = frozenset({"p", "q", "r"})
    def go(self): return named(self)
def uses(x): return Own().go()
values = [make(3), Point(1, [2]), {"s": {"t", "u", "v"}}, Path("/a"), named, uses, Own, sys, print]
print([identity_of(v).hex() for v in values], [t.hex() for t in tasks_of(chain)])
"""


def test_another_process_with_another_hash_seed_finds_the_same_identities() -> None:
    root = str(Path(__file__).parent.parent.parent)

    def run(seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, root],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert run("1") == run("2")
