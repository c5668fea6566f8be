"""Definitions: what travels by value, what a process keeps of it, and what happens if loading it fails."""

from __future__ import annotations

import contextvars
import copyreg
import functools
import gc
import importlib.machinery
import io
import pickle
import re
import sys
import threading
import types
import weakref
from array import array
from pathlib import Path
from typing import Any, NewType

import numpy
import pytest

from handout.serialization import definitions, diagnosis, pickling, tokens
from tests.pythons import MINORS, bundle, require_python, run_on_host

__all__ = ["bundle"]


def dumps(value: Any, snapshot: pickling.Snapshot | None = None) -> bytes:
    return b"".join(pickling.dumps(value, snapshot))


def there_and_back(value: Any) -> Any:
    return pickling.loads(dumps(value))


def in_another_process(bundle: Path, value: bytes, source: str) -> str:
    head = "from handout.serialization import pickling\ndata = sys.stdin.buffer.read()\n"
    return run_on_host(sys.executable, head + source, stdin=value, bundle=bundle).decode().strip()


def script(source: str) -> dict[str, Any]:
    """Run `source` as the text of a program, and return the program's globals."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(source, space)
    return space


# ---- what a process keeps ----------------------------------------------------------------------------------


def test_tokens_do_not_keep_the_objects_that_they_name() -> None:
    cls = type("Short", (), {})
    token = tokens.token_of(cls)
    assert tokens.known(token) is cls
    dumps(cls())
    del cls
    gc.collect()
    assert tokens.known(token) is None
    assert token not in {each for each, _, _ in tokens.own_classes()}


#: Loads functions of six runs, and prints how many of them and of their namespaces there are, before and after `drop`.
RECEIVE = (
    "from handout.serialization import definitions, functions_by_value as by_value\n"
    "import gc, pickle\n"
    "def count(): gc.collect(); return len(definitions._received), len(by_value._namespaces)\n"
    "{start}\n"
    "functions = []\n"
    "for number, each in enumerate(pickle.loads(data)):\n"
    "    by_value.use(number % 2)\n"
    "    functions.append(pickling.loads(each))\n"
    "print([fn() for fn in functions], *count())\n"
    "del functions\n"
    "{drop}\n"
)


def received(bundle: Path, start: str, drop: str) -> list[str]:
    spaces = [script(f"LIMIT = {number}\ndef fn(): return LIMIT") for number in range(6)]
    blobs = pickle.dumps([dumps(space["fn"]) for space in spaces])
    return in_another_process(bundle, blobs, RECEIVE.format(start=start, drop=drop)).splitlines()


def test_a_process_keeps_no_function_that_it_received(bundle: Path) -> None:
    assert received(bundle, "", "print(*count())") == ["[0, 1, 2, 3, 4, 5] 6 6", "0 0"]


def test_a_worker_keeps_functions_and_namespaces_until_their_users_are_forgotten(bundle: Path) -> None:
    drop = (
        "print(*count(), sys.modules['__main__'].LIMIT)\n"
        "print(bool(definitions.forget([1])), *count(), sys.modules['__main__'].LIMIT)\n"
        "print(bool(definitions.forget([0])), *count(), sys.modules['__main__'] is before, definitions.forget([0]))\n"
    )
    start = "before = sys.modules['__main__']; pickling.become_worker()"
    assert received(bundle, start, drop) == [
        "[0, 1, 2, 3, 4, 5] 6 6", "6 6 5", "True 3 3 4", "True 0 0 True []",
    ]  # fmt: skip


#: Loads a function that counts its calls, and lets it make another one. Nothing is collected.
COUNT = (
    "from handout.serialization import definitions, functions_by_value as by_value\n"
    "import gc\n"
    "gc.disable()\n"
    "pickling.become_worker()\n"
    "by_value.use(0)\n"
    "count = pickling.loads(data)\n"
    "made = b''.join(pickling.dumps(count(True)))\n"
    "by_value.use(1)\n"
    "{load}\n"
    "del count\n"
    "definitions.forget([0])\n"
    "print(pickling.loads(data)(), pickling.loads(made)(), pickling.loads(data)())\n"
)


@pytest.mark.parametrize(
    ("load", "counts"), [("", "1 2 2"), ("pickling.loads(data)()", "3 4 5")], ids=["run is over", "run goes on"]
)
def test_a_run_finds_no_globals_of_a_run_that_is_over(bundle: Path, load: str, counts: str) -> None:
    space = script(
        "KEPT, N = [], 0\n"
        "def count(may_make=False):\n"
        "    global N\n"
        "    N += 1\n"
        "    def again():\n"
        "        global N\n"
        "        N += 1\n"
        "        return N\n"
        "    KEPT.append(again)\n"
        "    return again if may_make else N\n"
    )
    assert in_another_process(bundle, dumps(space["count"]), COUNT.format(load=load)) == counts


def test_a_worker_keeps_only_so_many_snapshots(bundle: Path) -> None:
    start = "by_value._MAX_SNAPSHOTS = 3\npickling.become_worker()"
    assert received(bundle, start, "print(*count())") == ["[0, 1, 2, 3, 4, 5] 6 6", "3 3"]


def uses_of_a_module_made_at_run_time(count: int) -> bytes:
    """Return a function that imports a module which only this process has, as so many runs pickle it."""
    module = types.ModuleType("handout_test_made")
    exec("LIMIT = 1\ndef fn():\n    import handout_test_made\n    return handout_test_made.LIMIT", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        return pickle.dumps([dumps(module.fn) for _ in range(count)])
    finally:
        del sys.modules[module.__name__]


def test_a_module_made_at_run_time_stays_importable_for_the_run_that_is_left(bundle: Path) -> None:
    source = (
        "from handout.serialization import definitions, functions_by_value as by_value\n"
        "import pickle\n"
        "pickling.become_worker()\n"
        "for number, each in enumerate(pickle.loads(data)):\n"
        "    by_value.use(number)\n    fn = pickling.loads(each)\n"
        "definitions.forget([0])\nprint(fn())\n"
        "definitions.forget([1])\nprint('handout_test_made' in sys.modules)\n"
    )
    assert in_another_process(bundle, uses_of_a_module_made_at_run_time(2), source).splitlines() == ["1", "False"]


def test_a_module_made_at_run_time_is_dropped_with_its_run_also_if_the_worker_keeps_only_newer_snapshots(
    bundle: Path,
) -> None:
    others = pickle.dumps([dumps(script(f"LIMIT = {number}\ndef fn(): return LIMIT")["fn"]) for number in (2, 3)])
    source = (
        "from handout.serialization import definitions, functions_by_value as by_value\n"
        "import pickle\n"
        "by_value._MAX_SNAPSHOTS = 1\n"
        "pickling.become_worker()\n"
        "made, others = map(pickle.loads, pickle.loads(data))\n"
        "by_value.use(1)\nfn = pickling.loads(made[0])\n"
        "by_value.use(2)\nprint([pickling.loads(each)() for each in others])\n"
        "print(fn(), len(by_value._kept), bool(definitions.forget([1])), 'handout_test_made' in sys.modules)\n"
    )
    data = pickle.dumps((uses_of_a_module_made_at_run_time(1), others))
    assert in_another_process(bundle, data, source).splitlines() == ["[2, 3]", "1 1 True False"]


def test_a_function_that_is_sent_in_many_runs_is_noted_once() -> None:
    space = script("def fn(): return 1")
    before = set(definitions._originals)  # those of other tests may be collected meanwhile
    for _ in range(5):
        assert there_and_back(space["fn"]) is space["fn"]
    assert len(set(definitions._originals) - before) == 1


def test_a_class_that_arrived_is_sent_on_as_it_arrived(bundle: Path) -> None:
    space = script("class Model:\n    size = 1\n    def double(self): return self.size * 2")
    source = (
        "from handout.serialization import definitions\n"
        "model = pickling.loads(data)\n"
        "blob = definitions.arrived_as(type(model))\n"
        "print(blob is not None and pickling.Snapshot().blob(type(model)) is blob, model.double())"
    )
    assert in_another_process(bundle, dumps(space["Model"]()), source) == "True 2"


ONE_COPY = """
import functools, sys, types
N = 1
@functools.lru_cache
def scaled(x): return N * x
class Sentinel:
    n = 1
    def __reduce__(self): return "MARK"
MARK = Sentinel()
MARK.old = 1
module = sys.modules["handout_test_made"] = types.ModuleType("handout_test_made")
module.n = 1
def fn():
    import handout_test_made
    return scaled(2), vars(MARK), module.n, handout_test_made.n
"""


def test_what_a_process_has_one_copy_of_is_brought_up_to_date(bundle: Path) -> None:
    space = script(ONE_COPY)
    first = dumps([space["fn"], space["MARK"], space["scaled"]])
    space["N"] = space["module"].n = 10
    space["MARK"].__dict__ = {"new": 2}
    second = dumps([space["fn"], space["MARK"], space["scaled"]])
    del sys.modules["handout_test_made"]
    source = (
        "import pickle\n"
        "for each in pickle.loads(data):\n"
        "    fn, mark, scaled = pickling.loads(each)\n"
        "    print(fn(), mark is fn.__globals__['MARK'], scaled is fn.__globals__['scaled'])\n"
    )
    found = in_another_process(bundle, pickle.dumps([first, second, first]), source).splitlines()
    assert found[0] == "(2, {'old': 1}, 1, 1) True True"
    assert found[1] == "(20, {'new': 2}, 10, 10) True True"
    assert found[2].startswith("(20, {'new': 2}"), "older bytes do not undo newer ones"


def test_equal_definitions_have_equal_digests_in_two_runs() -> None:
    space = script(
        "import functools\nLIMIT = 1\nclass C:\n    a = 1\n"
        "@functools.cache\ndef cached(): return LIMIT\ndef fn(): return cached(), C"
    )
    first, second = (pickling.Snapshot().blob(space["fn"]) for _ in range(2))
    assert first.digest == second.digest
    assert first.keys != second.keys


# ---- loading that fails --------------------------------------------------------------------------------------


def test_a_class_whose_definition_could_not_be_loaded_is_loaded_anew(bundle: Path) -> None:
    """The first attempt fails because a module is missing. It must not leave an incomplete class behind."""
    sys.modules["handout_test_absent"] = module = types.ModuleType("handout_test_absent")
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    exec("class Value:\n    pass\nVALUE = Value()", module.__dict__)
    try:
        data = dumps(type("Holder", (), {"__module__": "__main__", "value": module.VALUE, "later": [1, object]})())
    finally:
        del sys.modules["handout_test_absent"]
    source = (
        "import types\n"
        "for _ in range(2):\n"
        "    try:\n        pickling.loads(data)\n"
        "    except ModuleNotFoundError as error:\n        print(error.name)\n"
        "sys.modules['handout_test_absent'] = module = types.ModuleType('handout_test_absent')\n"
        "module.Value = type('Value', (), {'__module__': 'handout_test_absent'})\n"
        "holder = pickling.loads(data)\n"
        "print(type(holder.value) is module.Value, holder.later)"
    )
    found = in_another_process(bundle, data, source).splitlines()
    assert found == ["handout_test_absent", "handout_test_absent", "True [1, <class 'object'>]"]


def test_threads_that_load_one_class_never_see_half_of_it(bundle: Path) -> None:
    attributes = "\n".join(f"    a{number} = [{number}]" for number in range(200))
    space = script(f"class Wide:\n{attributes}\n    def last(self): return self.a199")
    source = (
        "import threading\n"
        "sys.setswitchinterval(1e-6)\n"
        "start, found = threading.Barrier(8), []\n"
        "def work():\n"
        "    start.wait()\n"
        "    found.append(pickling.loads(data).last())\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "[each.start() for each in threads]\n[each.join() for each in threads]\n"
        "print(found == [[199]] * 8)"
    )
    assert in_another_process(bundle, dumps(space["Wide"]()), source) == "True"


def test_threads_may_pickle_one_class_at_the_same_time() -> None:
    cls = type("Shared", (), {"__module__": "__main__"})
    start, found = threading.Barrier(8), []

    def work() -> None:
        start.wait()
        dumps(cls())
        found.append(tokens.token_of(cls))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(set(found)) == 1


# ---- the receiver --------------------------------------------------------------------------------------------


def test_a_worker_sees_the_namespace_of_the_run_as_its_main_module(bundle: Path) -> None:
    one, two = (
        script(f"NUMBER = {n}\ndef fn():\n    import __main__\n    return NUMBER, __main__.NUMBER") for n in (1, 2)
    )
    source = (
        "import pickle\n"
        "before = sys.modules['__main__']\n"
        "one, two = pickle.loads(data)\n"
        "pickling.loads(one)\nprint(sys.modules['__main__'] is before)\n"
        "pickling.become_worker()\n"
        "print([pickling.loads(each)() for each in (two, two)])"
    )
    blobs = pickle.dumps([dumps(one["fn"]), dumps(two["fn"])])
    assert in_another_process(bundle, blobs, source).splitlines() == ["True", "[(2, 2), (2, 2)]"]


def test_the_main_module_of_a_program_stays_what_it_is() -> None:
    before = sys.modules["__main__"]
    assert there_and_back(script("def fn(): return 1")["fn"])() == 1
    assert sys.modules["__main__"] is before


# ---- types that code often holds -----------------------------------------------------------------------------


def test_a_view_of_memory_keeps_its_format_its_shape_and_whether_it_can_be_written() -> None:
    for view in (memoryview(array("d", [1.5, 2.0])), memoryview(b"abcdef").cast("B", (2, 3))):
        back = there_and_back(view)
        assert (back.format, back.shape, back.readonly, back.tolist()) == (
            view.format, view.shape, view.readonly, view.tolist()
        )  # fmt: skip


class Resumable(threading.Thread):
    def __reduce__(self) -> Any:
        return Resumable, ()


class Reopened(io.RawIOBase):
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Reopened, (self.path,)


def test_a_class_that_says_how_its_objects_are_pickled_is_obeyed() -> None:
    assert isinstance(there_and_back(Resumable()), Resumable)
    assert there_and_back(Reopened("a")).path == "a"
    meta = type("Meta", (type,), {})
    copyreg.pickle(meta, lambda cls: (re.compile, (cls.__name__,)))
    try:
        assert there_and_back(meta("text", (), {})).pattern == "text"
    finally:
        del copyreg.dispatch_table[meta]


def test_a_key_function_of_cmp_to_key_keeps_its_comparison() -> None:
    key = functools.cmp_to_key(lambda one, other: other - one)
    assert sorted([1, 3, 2], key=there_and_back(key)) == [3, 2, 1]
    assert there_and_back([key(4)])[0].obj == 4


def test_a_class_of_a_text_without_a_module_goes_by_value(bundle: Path) -> None:
    space: dict[str, Any] = {}
    exec("class Bare:\n    def one(self): return 1", space)
    assert in_another_process(bundle, dumps(space["Bare"]()), "print(pickling.loads(data).one())") == "1"


def test_objects_that_only_this_process_can_name_map_back() -> None:
    kind = NewType("kind", int)
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=3)
    assert there_and_back([kind, variable]) == [kind, variable]


def test_a_weak_reference_refers_to_the_object_beside_it() -> None:
    class Node:
        pass

    node = Node()
    loaded, reference, known = there_and_back([node, weakref.ref(node), weakref.WeakSet([node])])
    assert reference() is loaded
    assert list(known) == [loaded]


def test_names_in_annotations_travel_but_not_those_that_only_look_like_names(bundle: Path) -> None:
    space = script(
        "from __future__ import annotations\nimport threading, typing\n"
        "class Node: pass\n"
        "train = threading.Lock()\n"
        "def fn(a: typing.Literal['train'], b: typing.Optional['Node']): return 1"
    )
    source = (
        "import typing\nfn = pickling.loads(data)\n"
        "print(typing.get_type_hints(fn)['b'] == typing.Optional[fn.__globals__['Node']], 'train' in fn.__globals__)"
    )
    assert in_another_process(bundle, dumps(space["fn"]), source) == "True False"


def test_buffers_stay_out_of_the_pickle_if_dill_writes_another_part_of_the_value() -> None:
    class Node:
        pass

    node, data = Node(), numpy.arange(100_000)
    segments = pickling.dumps([data, node, weakref.ref(node)])
    assert data.nbytes in [each.nbytes for each in segments if isinstance(each, memoryview)]
    assert numpy.array_equal(pickling.loads(b"".join(segments))[0], data)


class Tee(io.TextIOBase):
    """A stream of a program, which holds no file."""


def test_a_stream_that_a_program_defines_is_pickled_and_a_file_is_not(tmp_path: Path) -> None:
    assert isinstance(there_and_back(Tee()), Tee)
    with (tmp_path / "file").open("w") as file, pytest.raises(diagnosis.CannotPickleError):
        diagnosis.dumps_or_diagnose([Tee(), file], "x")


def test_a_lock_inside_a_definition_is_refused_with_its_path() -> None:
    space = script("import threading\nclass C:\n    lock = threading.Lock()\ndef fn(): return C")
    with pytest.raises(diagnosis.CannotPickleError) as caught:
        diagnosis.dumps_or_diagnose(space["fn"], "fn")
    assert caught.value.path == "fn.<global C>.lock"


def test_a_named_object_may_be_freed_when_the_interpreter_has_freed_the_globals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", errors.append)
    token = tokens.token_of(cls := type("Short", (), {}))
    with monkeypatch.context() as exit_of_interpreter:
        for name in ("_by_id", "_by_token", "_versions", "_arrived"):
            exit_of_interpreter.setattr(tokens, name, None)
        del cls
        gc.collect()
    assert (errors, tokens.known(token)) == ([], None)


# ---- syntax of Python 3.12 -----------------------------------------------------------------------------------

SEND_TEXT = """
from handout.serialization import pickling
space = {"__name__": "__main__"}
exec(sys.argv[1], space)
sys.stdout.buffer.write(b"".join(pickling.dumps(space["task"])))
"""
CALL = """
from handout.serialization import pickling
print(pickling.loads(sys.stdin.buffer.read())())
"""


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        (
            "class Bound: pass\n"
            "def task():\n"
            "    class A:\n"
            "        def m[T: Bound](self): pass\n"
            "    return A.m.__type_params__[0].__bound__.__name__",
            "Bound",
        ),
        (
            "class Bound: pass\n"
            "def fn[T: Bound, *U](x: T): return x\n"
            "def task(): return fn.__type_params__, fn.__type_params__[0].__bound__ is Bound",
            "((T, U), True)",
        ),
        (
            "class Sorted[T]: pass\n"
            "def fn[T: Sorted[T]](x): return x\n"
            "def task():\n"
            "    T, = fn.__type_params__\n"
            "    return T.__bound__.__args__[0] is T",
            "True",
        ),
    ],
    ids=["a global in the bound of a method", "type parameters", "a bound that names its variable"],
)
@pytest.mark.parametrize("minor", [minor for minor in MINORS if minor >= 12])
def test_type_parameters_and_their_bounds_travel(minor: int, source: str, printed: str, bundle: Path) -> None:
    python = require_python(minor)
    sent = run_on_host(python, SEND_TEXT, source, bundle=bundle)
    assert run_on_host(python, CALL, stdin=sent, bundle=bundle).decode().strip() == printed


def test_defaults_of_a_named_tuple_that_have_changed_count_in_the_next_run(bundle: Path) -> None:
    space = script(
        "import collections\nPair = collections.namedtuple('Pair', 'a b')\ndef fn(): return Pair.__new__.__defaults__"
    )
    blobs = []
    for defaults in (None, (1,), (1, [2]), None):
        space["Pair"].__new__.__defaults__ = defaults
        blobs.append(dumps(space["fn"]))
    source = "import pickle\npickling.become_worker()\nfor each in pickle.loads(data): print(pickling.loads(each)())"
    assert in_another_process(bundle, pickle.dumps(blobs), source).splitlines() == ["None", "(1,)", "(1, [2])", "None"]
