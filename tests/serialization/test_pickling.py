"""Values, calls and exceptions are encoded and decoded, in one process and between fresh ones."""

from __future__ import annotations

import array
import io
import pickle
import socket
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handout.serialization import calls, diagnosis, encoded_object, exceptions, pickling
from tests.patience import HANG_S
from tests.pythons import MINORS, bundle, find_python, require_python, run_on_host

__all__ = ["bundle"]

PROGRAM = Path(__file__).with_name("by_value.py")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
VALUES = st.recursive(SCALARS, lambda v: st.lists(v) | st.dictionaries(st.text(), v) | st.tuples(v, v), max_leaves=20)


@pytest.mark.parametrize(
    "value",
    [
        [list(range(n, n + 10)) for n in range(40_000)],
        {str(n): n for n in range(200_000)},
        bytes(range(256)) * 20_000,
        bytearray(range(256)) * 20_000,
        "x" * (3 << 20),
        [numpy.arange(1 << 20), numpy.ones(3)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_large_value_is_read_in_pieces_between_which_other_threads_run(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Watched(encoded_object._Pieces):
        def read(self, nbytes: int) -> bytes:
            asked.append(nbytes)
            return super().read(nbytes)

    monkeypatch.setattr(encoded_object, "_Pieces", Watched)
    data = b"".join(pickling.dumps(value))
    found = pickling.loads(memoryview(data).toreadonly())
    assert type(found) is type(value)
    assert pickle.dumps(found) == pickle.dumps(value)
    if type(value) in (list, dict) and len(data) > len(value) * 8:
        assert max(asked, default=0) < 100_000
    with pytest.raises((EOFError, pickle.UnpicklingError, pickling.LoadError)):
        pickling.loads(data[:-100])


def test_a_large_pickle_of_an_old_protocol_is_read_too() -> None:
    value = [("a\nb", n, 1.5, None, True, 10**30, types.SimpleNamespace) for n in range(100_000)]
    for protocol in (0, 2, 5):
        assert pickling.loads(pickle.dumps(value, protocol)) == value


def there_and_back(value: Any) -> Any:
    return pickling.loads(b"".join(pickling.dumps(value)))


def on_the_host(data: bytes, bundle: Path, expression: str, python: str = sys.executable) -> str:
    source = f"from handout.serialization import pickling\nvalue = pickling.loads(sys.stdin.buffer.read())\nprint({expression})"
    return run_on_host(python, source, stdin=data, bundle=bundle).decode().strip()


# ---- values ----------------------------------------------------------------------------------------------


@given(VALUES)
def test_any_plain_value_comes_back_equal(value: Any) -> None:
    assert there_and_back(value) == value


def test_large_buffers_are_not_copied_into_the_segments() -> None:
    data = numpy.arange(100_000)
    segments = pickling.dumps({"a": data})
    views = [s for s in segments if isinstance(s, memoryview)]
    assert [v.nbytes for v in views] == [data.nbytes]
    assert numpy.shares_memory(numpy.frombuffer(views[0], data.dtype), data)


def test_large_bytes_are_written_without_a_copy() -> None:
    data = b"x" * (1 << 20)
    assert any(segment is data for segment in pickling.dumps([data]))


def test_buffers_are_aligned_to_64_bytes_from_the_start_of_the_object() -> None:
    arrays = [numpy.arange(n, dtype="u1") for n in (5_000, 5_001, 70_000)]
    data = b"".join(pickling.dumps(arrays))
    for each in arrays:
        assert data.index(each.tobytes()) % 64 == 0
    for before, after in zip(arrays, pickling.loads(data), strict=True):
        numpy.testing.assert_array_equal(before, after)


def test_loading_from_writable_memory_maps_it_and_writing_to_the_value_writes_there() -> None:
    data = bytearray(b"".join(pickling.dumps(numpy.zeros(10_000))))
    loaded = pickling.loads(memoryview(data))
    loaded[0] = 1.0
    assert pickling.loads(memoryview(data))[0] == 1.0


def test_loading_from_read_only_memory_gives_a_value_that_can_be_written_to() -> None:
    loaded = pickling.loads(b"".join(pickling.dumps(numpy.zeros(10_000))))
    loaded[0] = 1.0
    assert loaded[0] == 1.0


def test_an_object_that_ends_early_is_a_named_error() -> None:
    data = b"".join(pickling.dumps(numpy.zeros(10_000)))
    with pytest.raises(pickling.LoadError, match="100 bytes early"):
        pickling.loads(data[:-100])


def test_a_value_that_only_dill_can_pickle_goes_through_dill_and_keeps_the_rules_of_this_package() -> None:
    class Local:
        pass

    owner = Local()
    loaded_owner, ref = there_and_back([owner, weakref.ref(owner)])
    assert type(loaded_owner) is Local
    assert isinstance(ref, weakref.ref)


def test_a_module_travels_by_name() -> None:
    assert there_and_back([subprocess, types.MappingProxyType({"a": 1})]) == [subprocess, {"a": 1}]


# ---- code by value ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("minor", MINORS)
def test_code_of_main_makes_a_round_trip_through_a_fresh_process(minor: int, bundle: Path) -> None:
    """The program sends functions that call each other, enums, named tuples and closures.

    The classes that come back are the original classes.
    """
    command = [require_python(minor), "-S", str(PROGRAM), str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG_S)
    assert done.stdout.strip() == "round trip", done.stderr


def test_code_by_value_on_another_version_is_a_named_error_and_not_a_crash(bundle: Path) -> None:
    others = [m for m in MINORS if m != sys.version_info[1] and find_python(m)]
    if not others:
        pytest.skip("no other version of Python on this machine")
    source = (
        "from handout.serialization import functions_by_value, pickling\n"
        "try:\n    pickling.loads(sys.stdin.buffer.read())\n"
        "except functions_by_value.PythonMismatchError as error:\n    print(error)"
    )
    data = b"".join(pickling.dumps(lambda: 1))
    told = run_on_host(require_python(others[0]), source, stdin=data, bundle=bundle).decode()
    assert f"made by Python 3.{sys.version_info[1]}; this is Python 3.{others[0]}" in told


@pytest.mark.parametrize("minor", MINORS)
def test_plain_values_travel_between_versions(minor: int, bundle: Path) -> None:
    data = b"".join(pickling.dumps({"a": [1, (2.5, b"x")], "f": len, "b": array.array("d", range(10_000))}))
    expression = "(value['a'], value['f']([1]), sum(value['b']))"
    assert on_the_host(data, bundle, expression, require_python(minor)) == "([1, (2.5, b'x')], 1, 49995000.0)"


def test_a_function_is_loaded_once_per_process_and_maps_back_to_the_original() -> None:
    def local() -> int:
        return 1

    assert there_and_back(local) is local


def test_a_snapshot_reads_a_global_once_and_the_next_snapshot_reads_it_again(bundle: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("LIMIT = 1\ndef limit():\n    return LIMIT", namespace)
    run = pickling.Snapshot()
    first = b"".join(pickling.dumps(namespace["limit"], run))
    namespace["LIMIT"] = 2
    assert b"".join(pickling.dumps(namespace["limit"], run)) == first
    assert on_the_host(first, bundle, "value()") == "1"
    assert on_the_host(b"".join(pickling.dumps(namespace["limit"])), bundle, "value()") == "2"


def test_a_class_that_changed_between_runs_is_brought_up_to_date_in_place(bundle: Path) -> None:
    class Model:
        size = 1
        old: ClassVar[Any] = object()

        def __len__(self) -> int:
            return 0

    first = b"".join(pickling.dumps(Model(), pickling.Snapshot()))
    Model.size = 2
    del Model.old, Model.__len__
    second = b"".join(pickling.dumps(Model(), pickling.Snapshot()))
    source = (
        "from handout.serialization import pickling\nimport pickle\n"
        "one, two = pickle.load(sys.stdin.buffer)\n"
        "old = pickling.loads(one)\nnew = pickling.loads(two)\npickling.loads(one)\n"
        "print(type(old) is type(new), old.size, new.size, hasattr(old, 'old'), bool(old))"
    )
    found = run_on_host(sys.executable, source, stdin=pickle.dumps((first, second)), bundle=bundle)
    assert found == b"True 2 2 False True\n"


def test_forked_workers_do_not_give_two_classes_one_token() -> None:
    source = (
        "import os, sys\nfrom handout.serialization import tokens\n"
        "class A: pass\n"
        "before = tokens.token_of(A)\n"
        "pid = os.fork()\n"
        "if pid: os.wait()\n"
        "class B: pass\n"
        "print(tokens.token_of(B)[0], tokens.token_of(A) == before, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=HANG_S)
    (one, same_one), (two, same_two) = (line.split() for line in done.stdout.splitlines())
    assert one != two
    assert same_one == same_two == "True"


def test_names_of_modules_are_recorded_also_those_imported_inside() -> None:
    def local() -> None:
        import wave  # noqa: F401

    snapshot = pickling.Snapshot()
    pickling.dumps([local, partial(there_and_back), io], snapshot)
    assert {"wave", "io", __name__} <= snapshot.modules
    assert snapshot.by_value


# ---- values that cannot be pickled -----------------------------------------------------------------------


class Holder:
    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


def closing_over(part: Any) -> Callable[[], Any]:
    return lambda: part


@pytest.mark.parametrize(
    ("make", "path", "kind"),
    [
        (lambda: [1, Holder(model=Holder(lock=threading.Lock()))], "x[1].model.lock", "_thread.lock"),
        (lambda: {"a": {"b": (i for i in ())}}, "x['a']['b']", "generator"),
        (lambda: Holder(thread=threading.Thread()), "x.thread", "threading.Thread"),
        (lambda: (socket.socket(),), "x[0]", "socket.socket"),
        (lambda: [PROGRAM.open()], "x[0]", "_io.TextIOWrapper"),
        (lambda: partial(print, threading.RLock()), "x.args[0]", "_thread.RLock"),
        (lambda: closing_over(threading.Lock()), "x.<closure part>", "_thread.lock"),
        (lambda: closing_over({"k": threading.Event()}), "x.<closure part>['k']", "threading.Event"),
    ],
)
def test_the_path_to_the_part_that_cannot_be_pickled_is_named(make: Callable[[], Any], path: str, kind: str) -> None:
    value = make()
    with pytest.raises(diagnosis.CannotPickleError) as caught:
        diagnosis.dumps_or_diagnose(value, "x")
    assert (caught.value.path, caught.value.type) == (path, kind)
    assert path in str(caught.value)
    for part in value if isinstance(value, list | tuple) else ():
        if hasattr(part, "close"):
            part.close()


def test_a_lock_among_a_functions_globals_is_refused_and_not_copied() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "LOCK": threading.Lock()}
    exec("def locked():\n    with LOCK:\n        pass", namespace)
    with pytest.raises(diagnosis.CannotPickleError) as caught:
        diagnosis.dumps_or_diagnose(namespace["locked"], "locked")
    assert caught.value.path == "locked.<global LOCK>"


@pytest.mark.parametrize(("name", "path"), [("One", "x.__class__.lock"), ("Two", "x.__bases__[0].lock")])
def test_a_lock_of_a_metaclass_or_of_a_base_class_is_named(name: str, path: str) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "Lock": threading.Lock}
    source = """
class Meta(type):
    lock = Lock()
class Base:
    lock = Lock()
class One(metaclass=Meta):
    pass
class Two(Base):
    pass
"""
    exec(source, namespace)
    with pytest.raises(diagnosis.CannotPickleError) as caught:
        diagnosis.dumps_or_diagnose(namespace[name], "x")
    assert caught.value.path == path


def test_a_structure_nested_too_deeply_is_refused_by_name() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(diagnosis.CannotPickleError, match="recursion"):
        diagnosis.dumps_or_diagnose(deep, "x")
    while deep:  # otherwise Python frees it recursively
        deep = deep[0]


# ---- calls -----------------------------------------------------------------------------------------------


class Promise:
    """A substitute for an output of a graph."""

    def __init__(self, mark: Any) -> None:
        self.mark = mark


def call(*args: Any, paths: Any = (), **kwargs: Any) -> bytes:
    return b"".join(calls.dumps_call(args, kwargs, paths, lambda obj: getattr(obj, "mark", None)))


INPUTS = ["zero", {"k": [1, 2]}]


def test_inputs_replace_their_marks_at_any_place() -> None:
    one = Promise(calls.Slot(1))
    blob = call(Promise(calls.Slot(0)), 7, [one, {"x": one}], key=one)
    args, kwargs, paths = calls.load_call(blob, INPUTS.__getitem__)
    assert args == ("zero", 7, [INPUTS[1], {"x": INPUTS[1]}])
    assert kwargs == {"key": INPUTS[1]}
    assert paths == ()


def test_an_input_is_requested_once_and_is_one_object() -> None:
    asked: list[int] = []

    def slot(index: int) -> Any:
        asked.append(index)
        return object()

    zero = Promise(calls.Slot(0))
    for blob in (call(zero, zero), call([zero], Promise(calls.Slot(0)), a=zero)):
        asked.clear()
        args, kwargs, _ = calls.load_call(blob, slot)
        first = args[0][0] if isinstance(args[0], list) else args[0]
        assert asked == [0]
        assert first is args[1]
        assert kwargs.get("a", first) is first


def test_paths_come_along_and_can_be_followed() -> None:
    path = (("item", "k"), ("item", 1))
    _, _, paths = calls.load_call(call(1, paths=[path]), INPUTS.__getitem__)
    assert paths == (path,)
    assert calls.apply_path(INPUTS[1], paths[0]) == 2


@pytest.mark.parametrize(
    ("path", "kind", "element"),
    [
        ((("item", 5),), IndexError, "value[5]"),
        ((("item", 0), ("item", "a")), TypeError, "value[0]['a']"),
        ((("item", slice(1, None)), ("attr", "score")), AttributeError, "value[1:].score"),
    ],
)
def test_the_error_of_a_missing_element_names_the_element(path: Any, kind: type[Exception], element: str) -> None:
    with pytest.raises(kind) as caught:
        calls.apply_path([1, 2], path)
    assert caught.value.__notes__ == [f"It was raised while the element {element} was taken from a value of type list."]


CALLS: list[Any] = []


def noting(x: Any, y: int) -> Any:
    CALLS.append(x)
    return {"r": (x, y)}


def test_an_inline_function_is_called_once_in_its_consumer_for_all_its_places() -> None:
    CALLS.clear()
    inline = calls.Inline(noting, [Promise(calls.Slot(0))], {"y": 3})
    element = calls.Taken(inline, (("item", "r"), ("item", 1)))
    args, _, _ = calls.load_call(call(Promise(inline), [Promise(inline)], Promise(element)), INPUTS.__getitem__)
    assert args == ({"r": ("zero", 3)}, [{"r": ("zero", 3)}], 3)
    assert CALLS == ["zero"]


def test_load_of_an_argument_runs_where_it_is_consumed() -> None:
    loaded = calls.Loaded(calls.Slot(0), str.upper)
    assert calls.load_call(call(Promise(loaded)), INPUTS.__getitem__)[0] == ("ZERO",)


async def test_an_inline_coroutine_function_is_awaited_also_inside_a_loop() -> None:
    async def inner(x: int) -> int:
        return x + 1

    assert calls.load_call(call(Promise(calls.Inline(inner, [1], {}))), INPUTS.__getitem__)[0] == (2,)


def test_what_an_inline_function_raises_is_the_users_error_with_its_own_cause() -> None:
    def inner() -> None:
        raise ValueError("mine") from KeyError("k")

    with pytest.raises(ValueError, match="mine") as caught:
        calls.load_call(call(Promise(calls.Inline(inner, [], {}))), INPUTS.__getitem__)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__context__ is None or isinstance(caught.value.__context__, KeyError)


def test_arguments_that_cannot_be_loaded_are_not_the_users_error() -> None:
    with pytest.raises(pickling.LoadError, match="no_such_module_here"):
        calls.load_call(b"cno_such_module_here\nname\n.", INPUTS.__getitem__)


# ---- exceptions ------------------------------------------------------------------------------------------


class Picky(Exception):
    """An exception that cannot be pickled, because it holds a lock."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code} {detail}")
        self.lock = threading.Lock()


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def there_and_back_again(error: BaseException) -> BaseException:
    blob, _ = exceptions.dump_exception(error)
    assert blob is not None
    return exceptions.load_exception(blob)


def test_an_exception_keeps_type_arguments_notes_cause_and_text() -> None:
    error = raised(ValueError("a", 2), cause=raised(KeyError("k")))
    error.add_note("seen")
    blob, text = exceptions.dump_exception(error)
    assert blob is not None
    back = exceptions.load_exception(blob)
    assert (type(back), back.args, back.__notes__) == (ValueError, ("a", 2), ["seen"])
    assert isinstance(back.__cause__, KeyError)
    assert "in raised" in text
    assert "direct cause" in text


def test_an_exception_that_cannot_be_pickled_keeps_its_class_and_its_text() -> None:
    blob, text = exceptions.dump_exception(raised(Picky(3, detail="no")))
    assert exceptions.load_class(blob) is Picky
    with pytest.raises(pickle.UnpicklingError, match="Picky"):
        exceptions.load_exception(blob)
    assert "Picky: 3 no" in text


class Unprintable:
    """A note that is not text, and whose ``__str__`` raises an error."""

    def __str__(self) -> str:
        raise OSError("no text")


def test_a_note_whose_text_cannot_be_made_does_not_lose_the_exception() -> None:
    error = raised(ValueError("v"))
    error.__notes__ = [Unprintable(), "seen"]  # type: ignore[list-item]
    assert there_and_back_again(error).__notes__ == ["<no text: str() raised OSError>", "seen"]


def test_a_cause_that_cannot_be_pickled_does_not_lose_the_exception() -> None:
    back = there_and_back_again(raised(ValueError("v"), cause=Picky(3, detail="no")))
    assert str(back) == "v"
    assert "Picky: 3 no" in str(back.__cause__)


def test_exceptions_that_are_each_others_cause_come_back_as_a_ring() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    back = there_and_back_again(one)
    assert back.__cause__ is not None
    assert back.__cause__.__cause__ is back


def test_an_exception_with_a_lock_in_it_keeps_its_text() -> None:
    blob, text = exceptions.dump_exception(ValueError(threading.Lock()))
    assert exceptions.load_class(blob) is ValueError
    assert "lock object" in text
