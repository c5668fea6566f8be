"""A plan is encoded as bytes. Running the bytes gives the same results as running the plan in one process."""

from __future__ import annotations

import asyncio
import json
import operator
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest

from handout import Cluster, File
from handout.errors import UnserializableError
from handout.execution.shell.run_objects import RunObjects
from handout.graph import Arg, Graph, Output
from handout.graph.objects import Pick
from handout.graph.plan import Plan
from handout.serialization import calls, file, folder_content, pickling
from handout.slices import at_once
from handout.submission.arguments import EncodedRun, encode_plan
from handout.submission.supplied_values import LARGE
from tests.pythons import bundle, run_on_host

__all__ = ["bundle"]


def add(*numbers: Any) -> Any:
    return sum(numbers)


def total(parts: Any, scale: float = 1) -> Any:
    return sum(parts) * scale


def pair(x: Any) -> dict[str, Any]:
    return {"a": x, "b": [x, 2 * x]}


def same(x: Any) -> Any:
    return x


def size(x: Any, *_: Any) -> int:
    return len(x)


def run(plan: Plan) -> tuple[dict[int, Any], EncodedRun]:
    """Encode a plan and run it as hosts would. Return the value of each object by number, and the encoded run."""
    encoded = at_once(encode_plan(plan))
    table = RunObjects(encoded.values)
    for task, blob in enumerate(encoded.calls):
        fn = pickling.loads(encoded.functions[encoded.fn[task]].blob)
        needs = encoded.inputs[task]
        args, kwargs, paths = calls.load_call(blob, lambda index, needs=needs: table.value(needs[index]))
        value = fn(*args, **kwargs)
        picks = [n for n in range(len(plan), len(encoded.producers)) if encoded.producers[n] == task]
        for number, path in zip([task, *picks], [(), *paths], strict=True):
            table.put_new(number, b"".join(pickling.dumps(calls.apply_path(value, path))))
    return {number: table.value(number) for number in range(len(encoded.producers))}, encoded


def result(graph: Graph, output: Output[Any], **options: Any) -> Any:
    plan = graph.compile(**options)
    values, _ = run(plan)
    number, path = plan.locate(output)
    return calls.apply_path(values[number], path)


# ---- the same results ------------------------------------------------------------------------------------


def test_scalars_results_and_results_inside_containers() -> None:
    graph = Graph()
    one = graph.add(add, 1, 2.5)
    two = graph.add(add, one, 3)
    three = graph.add(total, [one, two, 4], scale=two)
    assert result(graph, three) == (3.5 + 6.5 + 4) * 6.5


def seen(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any], list[int]]:
    """Return the arguments, and for each argument the first argument that is the same object."""
    ids = [id(arg) for arg in args]
    return args, kwargs, [ids.index(each) for each in ids]


class Pair(NamedTuple):
    left: Any
    right: Any


def test_lists_of_results_are_what_they_would_be_in_a_call() -> None:
    graph = Graph()
    a, b = graph.add(add, 1, 2), graph.add(add, 3, 4)
    value, made = graph.value([9]), graph.add(pair, 5)
    both = [a, b]
    for args in (
        (both,), (both, both), ((a, b), [a, a]), ([a, made["a"]], 1), (Pair(a, b),), ([], ()), ([a, [b]],),
        ([value, a], "x", None, [b], both), ([a, 3], both), (both, {"same": both}),
    ):  # fmt: skip
        here = seen(*substituted(args, {a: 3, b: 7, value: [9], made["a"]: pair(5)["a"]}))
        assert result(graph, graph.add(seen, *args)) == here


def substituted(arg: Any, values: dict[Any, Any]) -> Any:
    """Return an argument with each output replaced by its value. Equal lists stay one list."""
    known: dict[int, Any] = {}

    def walk(part: Any) -> Any:
        if isinstance(part, Output):
            return values[part]
        if isinstance(part, dict):
            return {key: walk(each) for key, each in part.items()}
        if isinstance(part, list | tuple) and id(part) not in known:
            items = [walk(each) for each in part]
            known[id(part)] = type(part)(*items) if isinstance(part, Pair) else type(part)(items)
        return known.get(id(part), part)

    return walk(arg)


def test_elements_are_taken_where_they_were_made_and_travel_alone() -> None:
    graph = Graph()
    made = graph.add(pair, 7)
    last = graph.add(add, made["a"], made["b"][1])
    assert result(graph, last) == 21
    plan = graph.compile()
    assert [extra.task for extra in plan.extras if isinstance(extra, Pick)] == [0, 0]


def test_inline_functions_and_arguments_with_dump_and_load() -> None:
    graph = Graph()
    base = graph.add(add, 1, 2)
    inline = graph.add(pair, base, inline=True)
    text: Any = Arg(base, dump=str, load=float)
    last = graph.add(add, inline["b"][1], inline["a"], text)
    assert result(graph, last) == 6 + 3 + 3.0


def test_values_and_given_values() -> None:
    graph = Graph()
    value = graph.value([1, 2, 3])
    first = graph.add(total, value)
    last = graph.add(add, first, 1)
    assert result(graph, last) == 7
    assert result(graph, last, given={first: 10}) == 11


def test_a_function_by_value_finds_its_globals() -> None:
    graph = Graph()
    factor = 3
    assert result(graph, graph.add(lambda x: add(x, factor), 4)) == 7


# ---- what travels ----------------------------------------------------------------------------------------


def test_functions_and_equal_calls_travel_once() -> None:
    graph = Graph()
    first = graph.add(add)
    for _ in range(10):
        graph.add(add, first)
    _, encoded = run(graph.compile())
    assert len(encoded.functions) == 1
    assert len({id(blob) for blob in encoded.calls[1:]}) == 1


def test_a_function_has_one_number_for_one_content_in_all_runs() -> None:
    graph = Graph()
    graph.add(add, 1)
    first, again = at_once(encode_plan(graph.compile())), at_once(encode_plan(graph.compile()))
    assert first.functions[0].number == again.functions[0].number
    graph.add(lambda: 1)
    other = at_once(encode_plan(graph.compile()))
    assert [f.number == first.functions[0].number for f in other.functions] == [True, False]


@pytest.mark.parametrize("large", [b"x" * (LARGE + 1), "y" * (LARGE + 1), numpy.arange(20_000), list(range(50_000))])
def test_a_large_argument_is_one_object_however_many_take_it_and_however(large: Any) -> None:
    graph = Graph()
    first = graph.add(size, large)
    graph.add(size, large, first)
    graph.add(total, [1], scale=2)
    graph.add(size, x=large)
    graph.add(size, [large, first])
    values, encoded = run(graph.compile())
    assert list(encoded.values) == [5]
    assert encoded.inputs == [(5,), (0, 5), (), (5,), (0, 5)]
    assert encoded.nbytes[5] > LARGE
    assert encoded.producers[5] == -1
    assert max(map(len, encoded.calls)) < 1000
    assert values[1] == len(large)
    assert values[4] == 2  # the list stayed in the call, but not the large argument inside it


def test_arguments_that_are_large_only_together_stay_in_the_call() -> None:
    graph = Graph()
    graph.add(add, *[numpy.ones(5_000)] * 1, numpy.ones(5_000))
    _, encoded = run(graph.compile())
    assert not encoded.values


def test_arguments_are_snapshotted() -> None:
    graph = Graph()
    small, large, value = [1, 2], numpy.ones(20_000), bytearray(100_000)
    graph.add(total, small)
    graph.add(same, large)
    graph.add(size, graph.value(value))
    encoded = at_once(encode_plan(graph.compile()))
    small.append(3)
    large[:] = 7
    value[:] = b""
    table = RunObjects(encoded.values)
    assert calls.load_call(encoded.calls[0], table.value)[0] == ([1, 2],)
    assert {len(table.value(n)) for n in encoded.values} == {20_000, 100_000}
    assert all(numpy.all(table.value(n) != 7) for n in encoded.values)


def test_what_goes_by_value_asks_for_this_version_of_python_also_as_an_argument() -> None:
    graph = Graph()
    graph.add(add, 1)
    graph.add(same, lambda: 1)
    graph.add(lambda: 1)
    shared = graph.value([lambda: 2])
    graph.add(same, shared)
    encoded = at_once(encode_plan(graph.compile()))
    pythons = [encoded.functions[fn].python for fn in encoded.fn]
    here = f"3.{sys.version_info[1]}"
    assert pythons == [None, here, here, here]


def test_a_run_with_modules_of_ones_own_needs_their_bundle_and_others_need_none() -> None:
    graph = Graph()
    graph.add(operator.add, 1, 2)
    assert at_once(encode_plan(graph.compile())).bundle is None
    graph.add(add, 1)
    encoded = at_once(encode_plan(graph.compile()))
    assert encoded.bundle is not None
    assert all(function.needs_bundle for function in encoded.functions)
    assert __name__.partition(".")[0] in encoded.bundle.names


# ---- what cannot travel ----------------------------------------------------------------------------------


class Model:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Refusing:
    """An object that has no attributes to show."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class Unreadable(list[Any]):
    def __len__(self) -> int:
        raise RuntimeError("no length")


class Stopping:
    """An object whose pickling raises what would end the program, or all work of an event loop."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error

    def __call__(self) -> None: ...


def anything(*_args: Any, **_kwargs: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        ((1, {"model": Model()}), {}, "args[1]['model'].lock"),
        ((), {"x": Model()}, "x.lock"),
        ((1, [threading.Event()]), {}, "args[1][0]"),
        ((1, Refusing()), {}, "args[1]"),
        (({Refusing},), {"x": [Refusing()]}, "x[0]"),
        ((1, [Unreadable()]), {}, "args[1]"),
    ],
)
def test_an_argument_that_cannot_travel_is_refused_with_function_and_path(args: Any, kwargs: Any, path: str) -> None:
    graph = Graph()
    graph.add(anything, *args, after=graph.add(add), **kwargs)
    with pytest.raises(UnserializableError) as caught:
        at_once(encode_plan(graph.compile()))
    assert caught.value.path == path
    assert "'anything'" in str(caught.value)


def test_a_function_and_a_value_that_cannot_travel_are_refused_by_name() -> None:
    lock = threading.Lock()
    graph = Graph()
    graph.add(lambda: lock, id="locker")
    with pytest.raises(UnserializableError, match=r"'locker'.*<closure lock>"):
        at_once(encode_plan(graph.compile()))
    graph = Graph()
    graph.add(same, graph.value({"a": lock}, id="held"))
    with pytest.raises(UnserializableError, match=r"'held'.*value\['a'\]"):
        at_once(encode_plan(graph.compile()))
    graph = Graph()
    graph.add(same, graph.value(Refusing(), id="silent"))
    with pytest.raises(UnserializableError, match=r"'silent'.*value"):
        at_once(encode_plan(graph.compile()))


@pytest.mark.parametrize("error", [SystemExit("no"), GeneratorExit("no"), asyncio.CancelledError("no")])
@pytest.mark.parametrize("place", ["argument", "part", "large", "function", "value"])
def test_an_object_that_would_end_the_program_is_refused_like_any_other(place: str, error: BaseException) -> None:
    graph, culprit = Graph(), Stopping(error)
    if place == "function":
        graph.add(culprit)
    elif place == "value":
        graph.add(anything, graph.value([culprit]))
    else:
        graph.add(anything, {"part": [culprit], "large": ["x" * LARGE, culprit]}.get(place, culprit))
    with pytest.raises(UnserializableError, match=f"Stopping.*{type(error).__name__}: no"):
        at_once(encode_plan(graph.compile()))


@pytest.mark.parametrize("fn", [anything, Stopping(KeyboardInterrupt())])
def test_ctrl_c_during_the_pickling_of_a_call_or_function_ends_the_program(fn: Any) -> None:
    graph = Graph()
    graph.add(fn, *([Stopping(KeyboardInterrupt())] if fn is anything else ()))
    plan = graph.compile()
    with pytest.raises(KeyboardInterrupt):
        at_once(encode_plan(plan))


class Fickle:
    """A large object that can be pickled once."""

    def __init__(self) -> None:
        self.tries = 0

    def __reduce__(self) -> Any:
        self.tries += 1
        if self.tries > 1:
            raise SystemExit
        return bytes, (bytes(2 * LARGE),)


def test_an_argument_that_can_be_pickled_only_once_is_refused() -> None:
    graph = Graph()
    graph.add(anything, Fickle())
    with pytest.raises(UnserializableError, match=r"'anything'.*args\[0\]"):
        at_once(encode_plan(graph.compile()))


def test_a_file_that_does_not_exist_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").touch()
    for given, said in (
        (File("dta.csv"), f"'dta.csv' in the current folder '{tmp_path}'. Did you mean 'data.csv'? Give the path"),
        (File(tmp_path / "other.txt"), f"there is no file or folder '{tmp_path}/other.txt'. Give the path of a file"),
        (File("in/x"), f"'in/x' in the current folder '{tmp_path}', and no folder '{tmp_path}/in'."),
        (File("data.csv/x"), "there is no file or folder 'data.csv/x'"),
        (File("~/data.csv"), "write os.path.expanduser('~/data.csv'), because only a shell replaces ~."),
    ):
        graph = Graph()
        graph.add(same, [given])
        with pytest.raises(UnserializableError) as caught:
            at_once(encode_plan(graph.compile()))
        assert str(caught.value).startswith("'same' cannot take args[0][0]: there is no file or folder")
        assert said in str(caught.value)
        assert (caught.value.path, caught.value.type) == ("args[0][0]", "handout.File")


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda path: open(path), r"handout\.File\(path\) instead"),  # noqa: SIM115
        (lambda path: open(path, "rb"), r"handout\.File\(path\) instead"),  # noqa: SIM115
        (lambda path: tempfile.NamedTemporaryFile(), r"handout\.File\(path\) instead"),  # noqa: SIM115
        (lambda path: sqlite3.connect(":memory:"), "Open the connection inside the function"),
        (lambda path: socket.socket(), "Open the connection inside the function"),
        (lambda path: (each for each in "ab"), r"Pass a list of its items: list\(\.\.\.\)"),
        (lambda path: threading.Lock(), "Create this object inside the function"),
    ],
)
def test_what_cannot_be_pickled_has_a_remedy_of_its_kind(make: Any, remedy: str) -> None:
    value = make(__file__)
    graph = Graph()
    graph.add(same, {"deep": [value]})
    try:
        with pytest.raises(UnserializableError, match=rf"args\[0\]\['deep'\]\[0\].* cannot be pickled.*{remedy}"):
            at_once(encode_plan(graph.compile()))
    finally:
        getattr(value, "close", lambda: None)()


def test_a_folder_beyond_the_limit_gives_one_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_content, "MAX_ENTRIES", 0)
    (tmp_path / "a").touch()
    graph = Graph()
    graph.add(same, File(tmp_path))
    with pytest.raises(UnserializableError, match=r"'same' cannot take args\[0\]: the folder .*unpack_archive\.$"):
        at_once(encode_plan(graph.compile()))


async def test_an_object_of_handout_in_a_closure_is_named_as_a_whole() -> None:
    graph = Graph()
    out = graph.add(same, [1], id="made")
    async with Cluster() as cluster:
        held: Any
        for held, kind, said in (
            (out, "graph.output.Output", r"output 'made' is inside an object .* inside lists, tuples and dicts\."),
            (
                graph,
                "graph.graph.Graph",
                r"a Graph cannot be copied, pickled, or sent to a host\. .* the values that it is built from\.",
            ),
            (cluster, "execution.cluster.Cluster", r"Such an object works only in the program .* needs\."),
        ):
            again = Graph()
            again.add(lambda held=held: held, id="f")
            with pytest.raises(UnserializableError, match=rf"<default 0> \(handout\.{kind}\) cannot.*: .*{said}$"):
                at_once(encode_plan(again.compile()))


def test_a_folder_is_packed_once_for_all_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.txt").write_text("small")
    packed: list[str] = []
    real = file.pack
    monkeypatch.setattr(file, "pack", lambda path: packed.append(path) or real(path))
    folder = File(tmp_path)
    graph = Graph()
    graph.map(same, [folder] * 3)
    encoded = at_once(encode_plan(graph.compile()))
    assert packed == [str(tmp_path)]
    assert [len(inputs) for inputs in encoded.inputs] == [1, 1, 1]
    assert len(encoded.values) == 1


# ---- programs --------------------------------------------------------------------------------------------

DRIVER = """
import sys
from handout.graph import Graph
from handout.slices import at_once
from handout.submission.arguments import encode_plan
graph = Graph()
graph.add(job, Thing(20))
encoded = at_once(encode_plan(graph.compile()))
import json, base64
print(json.dumps({
    "fn": base64.b64encode(encoded.functions[0].blob).decode(),
    "call": base64.b64encode(encoded.calls[0]).decode(),
    "bundle": base64.b64encode(encoded.bundle.data).decode(),
    "python": encoded.functions[0].python,
    "names": sorted(encoded.bundle.names),
}))
"""
HOST = """
import json, base64, tempfile
from handout.host.worker import importer
from handout.serialization import calls, file, folder_content, pickling
sent = json.load(sys.stdin)
importer.install(base64.b64decode(sent["bundle"]), tempfile.mkdtemp() + "/modules/1")
fn = pickling.loads(base64.b64decode(sent["fn"]))
args, kwargs, _ = calls.load_call(base64.b64decode(sent["call"]), None)
value = fn(*args, **kwargs)
print(fn.__module__, type(value).__module__, value.n)
"""
JOB = """
from helpers import Thing
def job(thing):
    import late
    return Thing(thing.n + late.one())
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "helpers.py").write_text("class Thing:\n    def __init__(self, n): self.n = n\n")
    (tmp_path / "late.py").write_text("def one(): return 1\n")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").touch()
    guarded = "if __name__ == '__main__':" + DRIVER.replace("\n", "\n    ")
    (tmp_path / "pkg" / "mod.py").write_text(JOB + guarded)
    (tmp_path / "script.py").write_text(JOB + DRIVER)
    return tmp_path


@pytest.mark.parametrize("command", [["script.py"], ["-m", "pkg.mod"]], ids=["a script", "python -m"])
def test_a_program_with_modules_beside_it(home: Path, bundle: Path, command: list[str]) -> None:
    source = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=home,
        env={"PYTHONPATH": str(source), "PATH": ""},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    sent = json.loads(done.stdout)
    assert sent["names"] == ["helpers", "late"]
    assert sent["python"] is not None  # the functions of the program travel by value
    told = run_on_host(sys.executable, HOST, stdin=done.stdout, bundle=bundle).decode()
    assert told.split() == ["__main__", "helpers", "21"]


def test_a_function_that_closes_over_too_much_is_refused_with_what_to_do_instead() -> None:
    data = bytes(70_000_000)
    graph = Graph()
    graph.add(lambda: len(data), id="heavy")
    with pytest.raises(UnserializableError, match=r"'heavy' holds 66\.8 MiB.*limit is 64 MiB.*graph\.value"):
        at_once(encode_plan(graph.compile()))
