"""`Output`, the promise of a result: its equality, its elements, and the uses that it refuses."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import math
import operator
import os
import pickle
import pprint
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import pytest

from handout.errors import GraphError, NotAValueError
from handout.graph import Arg, Graph, Output, later


@pytest.fixture
def out(graph: Graph) -> Output[Any]:
    return graph.add(dict, [("a", [1, 2])], id="made")


def test_an_element_is_equal_to_the_same_element(out: Output[Any]) -> None:
    assert out["a"][0] == out["a"][0]
    assert hash(out["a"][0]) == hash(out["a"][0])
    assert out["a"][0] != out["a"][1]
    assert out["a"] != out
    assert out != "made"


def test_elements_with_keys_that_cannot_be_hashed_serve_as_keys(out: Output[Any]) -> None:
    assert {out[["x", "y"]]: 1}[out[["x", "y"]]] == 1
    assert {out[1:3]: 1}[out[1:3]] == 1
    assert out[1:3] != out[1:4]


class Unpicklable(list[int]):
    """A key that can be neither hashed nor pickled."""

    def __reduce__(self) -> Any:
        raise SystemExit


def test_elements_are_told_apart_by_their_whole_keys(out: Output[Any]) -> None:
    masks = [numpy.zeros(3000, bool) for _ in range(2)]
    masks[0][5:2500] = masks[1][7:2000] = True
    assert repr(masks[0]) == repr(masks[1])
    assert out[masks[0]] != out[masks[1]]
    assert out[masks[0]] == out[masks[0].copy()]
    assert len({out[key] for key in (1, True, 1.0, numpy.True_, (1,), (True,))}) == 5
    assert len({out[key] for key in (1, numpy.int64(1))}) == len({out[key] for key in ("a", numpy.str_("a"))}) == 1
    assert out[1:3] != out[True:3]
    key = Unpicklable()
    assert out[key] == out[key] != out[Unpicklable()]


def test_outputs_of_two_graphs_differ(graph: Graph) -> None:
    assert graph.add(int) != Graph().add(int)


def test_an_id_tells_the_path(out: Output[Any]) -> None:
    assert out.id == "made"
    assert out["a"][0].id == "made['a'][0]"
    assert out.pick(lambda m: m.weights["b"][-1]).id == "made.weights['b'][-1]"
    assert out[1:3].id == "made[1:3]"
    assert out[::2].id == "made[::2]"
    assert repr(out["a"]) == "Output(\"made['a']\")"


def test_a_pick_of_a_pick_is_one_longer_path(out: Output[Any]) -> None:
    assert out.pick(lambda m: m.a).pick(lambda m: m["b"]) == out.pick(lambda m: m.a["b"])
    assert out.pick(lambda m: m) == out


@pytest.mark.parametrize(
    "path",
    [
        lambda m: 3,
        lambda m: m.rows(),
        lambda m: m.a + 1,
        lambda m: m.a if m.b else m.c,
        lambda m: len(m.a),
        lambda m: m[m.a],
        lambda m: [x for x in m],  # noqa: C416
        lambda m: m.a == 3,
        lambda m: f"{m.a}",
        lambda m: m.a & m.b,
        lambda m: 1 << m.a,
        lambda m: round(m.a),
        lambda m: complex(m.a),
        lambda m: os.fspath(m.a),
        lambda m: divmod(1, m.a),
    ],
)
def test_a_pick_that_computes_is_refused(out: Output[Any], path: Any) -> None:
    with pytest.raises(GraphError, match="pick on 'made' may only follow attributes and items"):
        out.pick(path)


def test_a_pick_of_a_name_is_refused(out: Any) -> None:
    with pytest.raises(GraphError, match=r"'score' is not callable\. Write pick\(lambda r: r\.score\)"):
        out.pick("score")
    with pytest.raises(GraphError, match=r"Write pick\(lambda r: r\[0\]\)"):
        out.pick(0)


def test_a_pick_that_raises_raises(out: Output[Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        out.pick(lambda m: 1 // 0)


async def wait_for(out: Any) -> None:
    await out


async def loop_over(out: Any) -> None:
    async for _ in out:
        pass


def unpack(out: Any) -> Any:
    a, b = out
    return a, b


def enter(out: Any) -> None:
    with out:
        pass


async def enter_later(out: Any) -> None:
    async with out:
        pass


#: Each use of a value, and what the error tells the program to write instead.
USES: list[tuple[Callable[[Any], object], str]] = [
    (lambda out: out + 1, "graph.add(lambda x: x + ..., out)"),
    (lambda out: 1 + out, "graph.add(lambda x: ... + x, out)"),
    (lambda out: "data/" + out, "graph.add(lambda x: ... + x, out)"),
    (lambda out: sum([out, out]), "graph.add(sum, [out, other])"),
    (lambda out: [0] * out, "graph.add(lambda x: ... * x, out)"),
    (lambda out: out @ out, "graph.add(lambda x: x @ ..., out)"),
    (lambda out: out | {}, "graph.add(lambda x: x | ..., out)"),
    (lambda out: divmod(7, out), "graph.add(lambda x: divmod(..., x), out)"),
    (operator.neg, "graph.add(lambda x: -x, out)"),
    (abs, "graph.add(abs, out)"),
    (round, "graph.add(round, out)"),
    (math.sqrt, "graph.add(float, out)"),
    (int, "graph.add(int, out)"),
    (bytes, "graph.add(bytes, out)"),
    (range, "a function that takes the result"),
    (lambda out: [1, 2][out], "a function that takes the result"),
    (lambda out: out < 3, "graph.add(lambda x: x < ..., out)"),
    (lambda out: sorted([out, out]), "graph.add(lambda x: x < ..., out)"),
    (lambda out: max(out, 1), "graph.add(lambda x: x < ..., out)"),
    (bool, "Decide in a function"),
    (lambda out: out and 1, "Decide in a function"),
    (len, "graph.add(len, out)"),
    (list, "out[0], out[1]"),
    (unpack, "out[0], out[1]"),
    (lambda out: [*out], "out[0], out[1]"),
    (next, "out[0], out[1]"),
    (reversed, "out[0], out[1]"),
    (lambda out: 1 in out, "Search in a function"),
    (lambda out: operator.setitem(out, 0, 1), "returns a changed copy"),
    (lambda out: operator.delitem(out, 0), "returns a changed copy"),
    (lambda out: out(), "graph.add(lambda x: x(), out)"),
    (enter, "a function that takes the result"),
    (lambda out: asyncio.run(enter_later(out)), "a function that takes the result"),
    (lambda out: asyncio.run(wait_for(out)), "await handout.execute(graph)"),
    (lambda out: asyncio.run(loop_over(out)), "out[0], out[1]"),
    (lambda out: f"{out}.csv", 'graph.add(lambda x: f"{x}", out)'),
    ("{}.csv".format, 'graph.add(lambda x: f"{x}", out)'),
    (os.fspath, "Open the file in a function"),
    (lambda out: os.path.join(out, "x.csv"), "Open the file in a function"),
    (Path, "Open the file in a function"),
    (lambda out: out.score, "out.pick(lambda r: r.score)"),
    (lambda out: out.mean(), "graph.add(lambda r: r.mean(...), out)"),
    (lambda out: out.result(), "await handout.execute(graph)"),
]


@pytest.mark.parametrize(("use", "instead"), USES)
@pytest.mark.parametrize("kind", ["output", "arg"])
def test_a_promise_is_not_its_value(out: Output[Any], kind: str, use: Callable[[Any], object], instead: str) -> None:
    promise: Any = out if kind == "output" else Arg(out, load=len)
    with pytest.raises(NotAValueError, match="'made'") as caught:
        use(promise)
    assert isinstance(caught.value, TypeError)
    assert instead in str(caught.value)


def test_a_misspelt_attribute_names_the_nearest(out: Any) -> None:
    with pytest.raises(NotAValueError, match=r"Did you mean 'pick'\?"):
        out.pik(lambda m: m.a)


def test_an_arg_has_no_elements(out: Output[Any]) -> None:
    arg: Any = Arg(out, load=len)
    with pytest.raises(NotAValueError, match=r"Write Arg\(out\['a'\], ...\)"):
        arg["a"]


def test_an_output_cannot_be_indexed_by_an_output(out: Output[Any]) -> None:
    with pytest.raises(NotAValueError, match="indexed by another output"):
        out[out]


def test_numpy_computes_nothing_with_an_output(out: Any) -> None:
    numpy = pytest.importorskip("numpy")
    for use in (numpy.mean, lambda out: numpy.ones(2) + out, lambda out: numpy.asarray(out) < 1):
        with pytest.raises(NotAValueError, match="'made'"):
            use(out)
    assert list(numpy.array([out, out], dtype=object)) == [out, out]  # a table may have a column of outputs


def test_debuggers_and_logs_can_look_at_a_promise(out: Any, caplog: pytest.LogCaptureFixture) -> None:
    text = "Output('made')"
    assert repr(out) == str(out) == f"{out!r}" == f"{out!s}" == "%s" % out == pprint.pformat(out) == text
    logging.getLogger("tests").warning("made %s", out)
    assert caplog.messages == [f"made {text}"]
    for promise in (out, Arg(out, load=len)):
        for name in ("_repr_html_", "__wrapped__", "__array__", "__dict__", "score"):
            assert not hasattr(promise, name)
        assert getattr(promise, "score", None) is None
        assert inspect.unwrap(promise) is promise
        assert dict(inspect.getmembers(promise))
        mock.create_autospec(promise)
    with pytest.raises(AttributeError, match="'Output' object has no attribute '_score'") as caught:
        out._score
    assert not isinstance(caught.value, NotAValueError)
    assert {out: 1}[out] == 1
    assert out != 3
    assert out in [3, out]


def test_an_unfinished_promise_has_a_plain_error() -> None:
    for promise in (object.__new__(Output), object.__new__(Arg)):
        with pytest.raises(AttributeError, match="has no attribute"):
            repr(promise)


def test_an_output_inside_what_is_pickled_is_refused(out: Output[Any]) -> None:
    with pytest.raises(GraphError, match="inside an object"):
        pickle.dumps(out)


def test_an_output_is_never_copied(out: Output[Any]) -> None:
    assert copy.copy(out) is out
    assert copy.deepcopy([out])[0] is out


def test_an_output_is_small(out: Output[Any]) -> None:
    assert sys.getsizeof(out) <= 56
    assert not hasattr(out, "__dict__")


def test_later_gives_the_output_itself(out: Output[Any]) -> None:
    assert later(out) is out


def test_an_arg_that_converts_nothing_is_refused(out: Output[Any]) -> None:
    make: Any = Arg
    with pytest.raises(GraphError, match="converts nothing"):
        make(out)
    with pytest.raises(GraphError, match="dump=3 is not callable"):
        make(out, dump=3)
    assert repr(make(out, load=len)) == "Arg(Output('made'), load=<built-in function len>)"


def test_an_element_stays_the_same_if_its_indices_are_changed(graph: Graph) -> None:
    indices, picked = numpy.array([0, 1]), [2, 3]
    out = graph.add(dict)
    first, second = out[indices], out.pick(lambda found: found.rows[picked])
    indices[0] = picked[0] = 7
    assert first == out[numpy.array([0, 1])]
    assert second == out.pick(lambda found: found.rows[[2, 3]])
    assert first != out[indices]
    assert (first.id, second.id) == ("dict[array([0, 1])]", "dict.rows[[2, 3]]")
