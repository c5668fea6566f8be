"""The recipes of warm values, and their identities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handout.errors import UnserializableError
from handout.graph import Arg, Graph, later
from handout.graph.warm import Warm
from handout.serialization import calls
from handout.serialization.pickling import loads
from handout.slices import at_once
from handout.submission.arguments import EncodedRun, encode_plan
from handout.submission.single_call import CallOptions, EncodedCall, encode_call


def take(*values: Any) -> int:
    return len(values)


def load(path: Any, bits: int = 8) -> Any:
    return path


def made(x: int) -> int:
    return x


def encoded(graph: Graph) -> EncodedRun:
    return at_once(encode_plan(graph.compile()))


def called(*args: Any) -> EncodedCall:
    return encode_call(take, args, {}, CallOptions({}))


def identities(*warm: Warm[Any]) -> list[str]:
    graph = Graph()
    for each in warm:
        graph.add(take, each)
    found = encoded(graph)
    return [found.warm[recipe] for (recipe,) in found.inputs]


def local(bits: int) -> Any:
    def make() -> int:
        return bits

    return make


def test_a_recipe_is_sent_once_and_its_call_names_it() -> None:
    graph = Graph()
    warm = Warm(load, "x", bits=4)
    graph.map(take, warm, range(3))
    run = encoded(graph)
    assert run.inputs == [(3,)] * 3
    assert list(run.values) == [3]
    (name, timeout_s, *call), kwargs, _ = calls.load_call(b"".join(map(bytes, run.values[3])), lambda index: index)
    assert (name, timeout_s, call[1:], kwargs) == ("Warm(load)", 600.0, ["x"], {"bits": 4})
    asked: list[Any] = []

    def get(identity: bytes, recipe: int, inputs: Any, nested: int) -> str:
        asked.append((identity.hex(), recipe, tuple(inputs)))
        return "the value"

    args, _, _ = calls.load_call(run.calls[1], lambda index: index, get)
    assert args == ("the value", 1)
    assert asked == [(run.warm[3], 0, ())]


def test_equal_recipes_have_equal_identities() -> None:
    one, same, other, path = identities(Warm(load, "x"), Warm(load, "x"), Warm(load, "y"), Warm(load, Path("x")))
    assert one == same
    assert len({one, other, path}) == 3
    assert identities(Warm(load, Path("x"))) == [path]
    assert identities(Warm(local(1)), Warm(local(1)), Warm(local(2))) == identities(
        Warm(local(1)), Warm(local(1)), Warm(local(2))
    )
    first, again, differs = identities(Warm(local(1)), Warm(local(1)), Warm(local(2)))
    assert first == again != differs
    assert called(Warm(load, "x")).bytes.warm == {0: one}
    assert called([Warm(load, "x"), Warm(load, "y")]).bytes.warm == {0: one, 1: other}


def test_conversions_and_inline_functions_are_a_part_of_the_identity() -> None:
    graph = Graph()
    out = graph.add(made, 1)
    inline = [graph.add(made, i, inline=True) for i in range(2)]
    makers = [
        Warm(load, later(out)),
        Warm(load, later(Arg(out, load=str))),
        Warm(load, later(Arg(out, load=abs))),
        *(Warm(load, later(each)) for each in inline),
    ]
    for warm in makers:
        graph.add(take, warm)
    run = encoded(graph)
    assert len(set(run.warm.values())) == len(makers)
    assert not any(warm.identity for warm in makers), "other runs may replace the outputs"


def test_what_changes_after_the_first_use_has_no_effect_on_the_identity() -> None:
    numbers = [1]
    warm = Warm(load, numbers)
    before = identities(warm)
    numbers.append(2)
    assert identities(warm) == before
    assert identities(Warm(load, numbers)) != before


def test_a_call_takes_its_objects_in_the_order_of_their_numbers() -> None:
    large, inner = b"x" * 100_000, Warm(load, "y")
    call = called(large, Warm(load, later(inner)), inner)
    assert len(call.bytes.values) == 3
    found: list[Any] = []

    def get(identity: bytes, recipe: int, inputs: Any, nested: int) -> Any:
        value = b"".join(map(bytes, call.bytes.values[recipe]))  # type: ignore[arg-type]
        found.append((recipe, tuple(inputs)))
        return calls.load_call(value, lambda index: index, lambda *_: "inner")[0][3]

    args, _, _ = calls.load_call(
        call.bytes.blob,
        lambda index: loads(b"".join(map(bytes, call.bytes.values[index]))),
        get,  # type: ignore[arg-type]
    )
    assert args == (large, "inner", "y")
    assert found == [(2, (1,)), (1, ())]


def test_an_argument_that_cannot_be_pickled_is_named() -> None:
    graph = Graph()
    graph.add(take, Warm(load, [1, (x for x in "ab")]))
    for make in (lambda: encoded(graph), lambda: called(Warm(load, [1, (x for x in "ab")]))):
        with pytest.raises(
            UnserializableError, match=r"'Warm\(load\)' cannot be sent to a host, because args\[0\]\[1\]"
        ):
            make()
