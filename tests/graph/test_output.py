"""`Output`, the promise of a result: its equality, its elements, and the uses that it refuses."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

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
    ],
)
def test_a_pick_that_computes_is_refused(out: Output[Any], path: Any) -> None:
    with pytest.raises(GraphError, match="pick on 'made' may only follow attributes and items"):
        out.pick(path)


def test_a_pick_that_raises_raises(out: Output[Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        out.pick(lambda m: 1 // 0)


@pytest.mark.parametrize(
    "use",
    [
        list,
        bool,
        lambda out: 1 in out,
        lambda out: [*out],
        lambda out: out and 1,
        lambda out: out[out],
    ],
)
def test_an_output_is_not_its_value(out: Output[Any], use: Any) -> None:
    with pytest.raises(NotAValueError, match="'made'") as caught:
        use(out)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, GraphError)


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
