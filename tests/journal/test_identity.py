"""Identities of tasks: which changes of code and arguments keep an identity, and which changes give another one."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from handout import File, Graph
from handout.journal.identity import TaskIdentities
from handout.journal.installed import version_of
from handout.journal.value_digest import new_walk
from handout.project import loaded, sources
from handout.slices import at_once
from tests import work


def identity_of(value: Any) -> bytes:
    return new_walk().whole(value)


def function(source: str, name: str = "f", **space: Any) -> Any:
    """Run the source as a file of the user's program would run, and return what it defines as ``name``."""
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


HELD: list[tuple[str, str, str]] = [
    ("a pattern", "import re\nV = re.compile('a')", "import re\nV = re.compile('b')"),
    ("a struct format", "import struct\nV = struct.Struct('i')", "import struct\nV = struct.Struct('q')"),
    ("a ufunc", "import numpy\nV = numpy.add", "import numpy\nV = numpy.multiply"),
    ("a ufunc by hand", *["import numpy\nV = numpy.frompyfunc(lambda a: a + %d, 1, 1)" % n for n in (1, 2)]),
    ("a sort key", *["import functools\nV = functools.cmp_to_key(lambda a, b: a - b * %d)" % n for n in (1, 2)]),
    ("a cached function", *["import functools\n@functools.cache\ndef V(x): return x + %d" % n for n in (1, 2)]),
    ("a cache's size", *["import functools\n@functools.lru_cache(%d)\ndef V(x): return x" % n for n in (1, 2)]),
    ("a wrapper", *["import functools, json\n@functools.wraps(json.dumps)\ndef V(x): return x + %d" % n for n in (1, 2)]),
    ("what a wrapper wraps", *[
        "import functools\ndef g(x): return %d\n@functools.wraps(g)\ndef V(x): return V.__wrapped__(x)" % n for n in (1, 2)
    ]),
    ("an installed wrapper", *[
        "import contextlib\n@contextlib.contextmanager\ndef V(): yield %d" % n for n in (1, 2)
    ]),
    ("an installed factory", "import operator\nV = operator.itemgetter(1)", "import operator\nV = operator.itemgetter(2)"),
    ("what an installed factory closes over", *[
        "import threading\nV = threading.settrace\nimport reprlib\nV = reprlib.recursive_repr('%s')(len)" % n for n in "ab"
    ]),
    ("a single dispatch", *[
        "import functools\n@functools.singledispatch\ndef V(x): return 1\n@V.register\ndef _(x: int): return %d" % n
        for n in (1, 2)
    ]),
    ("a union", "V = int | str", "V = int | float"),
    ("an alias", "V = list[int]", "V = list[str]"),
    ("an unpacked alias", "V = tuple[int]", "V = next(iter(tuple[int]))"),
    ("a type variable", "import typing\nV = typing.TypeVar('V')", "import typing\nV = typing.TypeVar('V', bound=int)"),
    ("a new type", "import typing\nV = typing.NewType('V', int)", "import typing\nV = typing.NewType('V', str)"),
    ("an annotation", "def V(x: int): return x", "def V(x: str): return x"),
    ("a property", *["class V:\n  @property\n  def p(self): return %d" % n for n in (1, 2)]),
    ("a derived property", *["class P(property): pass\nclass V:\n  @P\n  def p(self): return %d" % n for n in (1, 2)]),
    ("a cached property", *[
        "import functools\nclass V:\n  @functools.cached_property\n  def p(self): return %d" % n for n in (1, 2)
    ]),
    ("a metaclass", *[
        "class M(type):\n  def __call__(cls): return %d\nclass V(metaclass=M): pass" % n for n in (1, 2)
    ]),
    ("match arguments", *["class V:\n  __match_args__ = ('%s',)" % n for n in "xy"]),
    ("a registered subclass", *[
        "import abc\nclass V(abc.ABC): pass\nV.register(%s)" % n for n in ("int", "str")
    ]),
    ("slots", *["class S:\n  __slots__ = ('x',)\nV = S()\nV.x = %d" % n for n in (1, 2)]),
    ("a dictionary with attributes", *["class D(dict): pass\nV = D()\nV.x = %d" % n for n in (1, 2)]),
    ("a partial with attributes", *["import functools\nV = functools.partial(len)\nV.x = %d" % n for n in (1, 2)]),
    ("a context variable", *["import contextvars\nV = contextvars.ContextVar('V', default=%d)" % n for n in (1, 2)]),
    ("a weak reference", *["import weakref\nclass C: x = %d\nV = weakref.ref(C)" % n for n in (1, 2)]),
    ("an enumeration", *["import enum\nclass V(enum.Enum):\n  A = %d" % n for n in (1, 2)]),
    ("a data class", *["import dataclasses\n@dataclasses.dataclass\nclass V:\n  a: int = %d" % n for n in (1, 2)]),
    ("a named tuple", *["import typing\nclass V(typing.NamedTuple):\n  a: int = %d" % n for n in (1, 2)]),
    ("an attrs class", *["import attrs\n@attrs.frozen\nclass V:\n  a: int = %d" % n for n in (1, 2)]),
    ("a model", *["import pydantic\nclass V(pydantic.BaseModel):\n  a: int = %d" % n for n in (1, 2)]),
    ("a model's bounds", *["import pydantic\nclass V(pydantic.BaseModel):\n  a: int = pydantic.Field(gt=%d)" % n for n in (1, 2)]),
    ("a model's configuration", *[
        "import pydantic\nclass V(pydantic.BaseModel):\n  model_config = {'frozen': %d}\n  a: int" % n for n in (False, True)
    ]),
    ("a model's validator", *[
        "import pydantic\nclass V(pydantic.BaseModel):\n  a: int\n  @pydantic.field_validator('a')\n"
        "  @classmethod\n  def c(cls, v): return v + %d" % n for n in (1, 2)
    ]),
    ("when a model validates", *[
        "import pydantic\nclass V(pydantic.BaseModel):\n  a: int\n  @pydantic.field_validator('a', mode='%s')\n"
        "  @classmethod\n  def c(cls, v): return v" % n for n in ("before", "after")
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("one", "two"), [each[1:] for each in HELD], ids=[each[0] for each in HELD])
def test_what_a_function_finds_in_a_global_changes_its_identity(one: str, two: str) -> None:
    use = "\ndef f(x): return V"
    assert identity_of(function(one + use)) != identity_of(function(two + use))
    if "frompyfunc" not in one:  # only C code can see its function, so no two are alike
        assert identity_of(function(one + use)) == identity_of(function(one + use))


def installed_closure(k: int) -> Any:
    """Return a closure over ``k`` that seems to be of ``json.extra``. `json` is installed, but has no such module."""
    return function("def make(k):\n  def inner(x): return x + k\n  return inner", "make", __name__="json.extra")(k)


def test_what_an_installed_functions_closure_holds_counts() -> None:
    assert identity_of(installed_closure(1)) == identity_of(installed_closure(1))
    assert identity_of(installed_closure(1)) != identity_of(installed_closure(2))


class Refusing:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


def generator() -> Any:
    yield


deep: list[Any] = []
for _ in range(10_000):
    deep = [deep]
UNKNOWN = {
    "refuses": Refusing(), "generator": generator(), "view": {}.keys(), "module": types.ModuleType("nowhere"), "deep": deep
}  # fmt: skip


@pytest.mark.parametrize("value", UNKNOWN.values(), ids=list(UNKNOWN))
def test_what_cannot_be_taken_apart_is_never_the_same(value: Any) -> None:
    assert identity_of(value) != identity_of(value)
    assert identity_of([1, value]) != identity_of([1, value])


class Odd:
    """An object that pickling reduces to a numpy array. Comparing such arrays gives an array, not True or False."""

    def __reduce__(self) -> Any:
        return Odd, (numpy.arange(3),)


def test_odd_values_have_identities() -> None:
    assert identity_of(Odd()) == identity_of(Odd())
    nameless = [types.MethodType(functools.partial(make), n) for n in (1, 1, 2)]
    assert identity_of(nameless[0]) == identity_of(nameless[1]) != identity_of(nameless[2])


HARMLESS: list[Callable[[], Any]] = [
    threading.Lock, threading.RLock, threading.local, threading.Condition, object, logging.NullHandler,
    functools.partial(logging.getLogger, "a"),
]  # fmt: skip


@pytest.mark.parametrize("build", HARMLESS)
def test_what_cannot_change_what_a_function_computes_counts_by_kind(build: Callable[[], Any]) -> None:
    assert identity_of(build()) == identity_of(build())


def test_a_set_that_leads_to_itself_has_an_identity() -> None:
    source = "ALL = set()\ndef f(x): return len(ALL)\nALL.add(f)\nALL.add(%d)"
    assert identity_of(function(source % 1)) == identity_of(function(source % 1))
    assert identity_of(function(source % 1)) != identity_of(function(source % 2))


def test_the_modules_that_a_named_module_imports_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "hoident_pkg").mkdir()
    (tmp_path / "hoident_pkg/__init__.py").write_text("")
    (tmp_path / "hoident_a.py").write_text("import hoident_b")
    (tmp_path / "hoident_b.py").write_text("")
    whole = function("import hoident_a\ndef f(x): return hoident_a.g(x)")
    lazy = function("def f(x):\n  import hoident_a\n  return hoident_a.g(x)")
    inside = function(
        "def f(x):\n  from . import c\n  return c.g(x)", __name__="hoident_pkg.d", __package__="hoident_pkg"
    )
    other = function("def f(x):\n  from json import a\n  return a.g(x)")

    def identities(number: int) -> list[bytes]:
        # A process keeps the sources that it has read, so what follows stands for another process.
        monkeypatch.setattr(sources, "_known", sources._Known())
        monkeypatch.setattr(loaded, "_sources", {})
        (tmp_path / "hoident_b.py").write_text(f"NUMBER = {number}")
        (tmp_path / "hoident_pkg/c.py").write_text(f"NUMBER = {number}")
        return [identity_of(each) for each in (whole, lazy, inside, other)]

    one, ten = identities(1), identities(10)
    assert identities(1) == one
    assert [a == b for a, b in zip(one, ten, strict=True)] == [False, False, False, True]
    for name in ("hoident_a", "hoident_b"):
        monkeypatch.delitem(sys.modules, name)


def test_what_is_installed_counts_by_version_whether_it_was_imported_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(site))
    info = site / "hoident_dist-1.dist-info"
    info.mkdir(parents=True)
    (site / "hoident_inst.py").write_text("")
    (site / "hoident_lone.py").write_text("")
    (info / "RECORD").write_text("hoident_inst.py,,\n")

    def versions(number: int) -> list[str]:
        version_of.cache_clear()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: hoident-dist\nVersion: {number}\n")
        (site / "hoident_lone.py").write_text(f"NUMBER = {number}")
        return [version_of("hoident_inst"), version_of("hoident_lone")]

    one, two = versions(1), versions(2)
    assert one[0] == "hoident-dist 1"
    assert not set(one) & set(two)
    importlib.import_module("hoident_inst")
    assert versions(2) == two
    monkeypatch.delitem(sys.modules, "hoident_inst")
    version_of.cache_clear()


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
    assert identity_of(memoryview(b"ab")) != identity_of(bytearray(b"B(2,)ab"))
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
    return at_once(TaskIdentities.of(graph.compile())).tasks


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
    return dict(zip(plan.ids, at_once(TaskIdentities.of(plan)).tasks, strict=True))


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
from tests.journal.test_identity import HELD, Point, chain, function, identity_of, make, tasks_of
from pathlib import Path
TABLE = {"x", "y", "z", "a", "b"}
def named(x): return x in TABLE and Path(x)
class Own:
    names = frozenset({"p", "q", "r"})
    def go(self): return named(self)
def uses(x): return Own().go()
values = [make(3), Point(1, [2]), {"s": {"t", "u", "v"}}, Path("/a"), named, uses, Own, sys, print]
import abc, collections, dataclasses, enum, logging, operator, random, threading, typing
import attrs, numpy, pydantic
class Model(pydantic.BaseModel):
    a: int = 1
    b: list[str] = pydantic.Field(default_factory=list, max_length=3)
    later: "Model | None" = None
    _own: int = pydantic.PrivateAttr(default=3)
    @pydantic.field_validator("a")
    @classmethod
    def check(cls, v): return v
    @pydantic.model_validator(mode="after")
    def whole(self): return self
    @pydantic.computed_field
    @property
    def twice(self) -> int: return 2 * self.a
@pydantic.dataclasses.dataclass
class Checked:
    x: int = 1
T = typing.TypeVar("T")
class Generic(pydantic.BaseModel, typing.Generic[T]):
    x: T
@attrs.frozen(order=True)
class Frozen:
    x: list = attrs.field(factory=list, validator=lambda *_: None)
@dataclasses.dataclass(slots=True, order=True)
class Slotted:
    x: set = dataclasses.field(default_factory=lambda: {"a", "b"})
class Bits(enum.IntFlag):
    A = 1
    B = 2
    def go(self): return self
class Base(abc.ABC):
    @abc.abstractmethod
    def one(self): ...
    @abc.abstractmethod
    def two(self): ...
Base.register(int)
class Like(typing.Protocol):
    x: int
class Pair(typing.NamedTuple):
    a: int
    b: str = "q"
log, lock, missing = logging.getLogger("a"), threading.Lock(), object()
from random import randint
def hints(x: Model, y: "int | str" = 3) -> numpy.ndarray[typing.Any, numpy.dtype[numpy.float64]]:
    log.info("x")
    return lock, missing, randint(1, 2)
values += [
    Model, Model(a=2), Checked, Checked(), Generic[int], Generic[int](x=1), Frozen, Frozen(), Slotted, Slotted(),
    Bits, Bits.A | Bits.B, Base, Like, Pair, Pair(1), collections.namedtuple("N", "a b"), hints, numpy.add,
    numpy.arange(3), numpy.dtype("i4"), type(numpy.dtype("i4")), numpy.mean, numpy.random.rand,
    numpy.random.default_rng(1), typing.Optional[int], type(None), "a".upper, type.__dict__["__mro__"],
]
print([identity_of(v).hex() for v in values], [t.hex() for t in tasks_of(chain)])
for what, source, _ in HELD:
    if what != "a ufunc by hand":
        print(what, identity_of(function(source + "\\ndef f(x): return V")).hex())
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

    one, two = run("1").replace(",", "\n").splitlines(), run("2").replace(",", "\n").splitlines()
    assert len(one) > 60
    assert one == two


HUGE = [10**6000, 10**6000 + 1, -(10**6000), "a" * 100_000, "a" * 99_999 + "b", b"a" * 100_000, "\ud800" * 70_000]


def test_huge_values_have_identities() -> None:
    def build(graph: Graph) -> None:
        for value in HUGE:
            graph.add(type, value)
            graph.add(type, [value])

    found = tasks_of(build)
    assert found == tasks_of(build)
    assert len(set(found)) == 2 * len(HUGE)


class Key:
    """A key of an element, whose ``repr`` tells nothing about it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and other.name == self.name

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def test_keys_of_elements_count_by_what_they_hold() -> None:
    def build(name: str) -> Callable[[Graph], object]:
        def graph(graph: Graph) -> None:
            graph.add(type, graph.add(dict, id="made")[Key(name)], id="taken")

        return graph

    assert by_id(build("a"))["taken"] == by_id(build("a"))["taken"]
    assert by_id(build("a"))["taken"] != by_id(build("b"))["taken"]


class Secretive:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class Unreadable(list[Any]):
    def __reduce_ex__(self, protocol: Any) -> Any:
        return list, (), None, (1 // 0 for _ in range(1))


@pytest.mark.parametrize("make", [Secretive, lambda: [Secretive()], Unreadable])
def test_a_value_that_raises_when_it_is_read_is_not_recognized(make: Callable[[], Any]) -> None:
    value = make()
    assert identity_of(value) != identity_of(value)


def test_a_file_or_a_folder_is_recognized_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    inside = tmp_path / "folder" / "a.txt"
    inside.write_text("1")
    for path in (inside, tmp_path / "folder"):
        inside.write_text("1")
        before = identity_of(File(path))
        assert identity_of(File(path)) == before
        inside.write_text("2")
        assert identity_of(File(path)) != before
