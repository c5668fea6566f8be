"""Bytes from an untrusted host: data is read unchanged. Objects of other types are refused by name and not made."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import itertools
import os
import pickle
import random
import struct
import time
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handout import File
from handout.execution.trusted_classes import trust
from handout.serialization import pickling
from handout.serialization.pickling import LoadError
from handout.serialization.untrusted import reader


@trust
@dataclasses.dataclass
class Row:
    number: int
    more: Any = None


@trust
@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    left: Any
    right: Any = None


@trust
class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@trust
class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@trust
class Size(enum.Enum):
    """An enum whose ``_missing_`` Python would call for an unknown value."""

    SMALL = (1, 2)
    LARGE = 3.5

    @classmethod
    def _missing_(cls, value: object) -> Any:
        ran.append(value)
        return cls.SMALL


@trust
@dataclasses.dataclass
class Watched:
    """A class that records which of its methods ran."""

    number: int = 0

    def __new__(cls, *args: Any) -> Any:
        ran.append("__new__")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        ran.append("__post_init__")
        self.double = 2 * self.number

    @property
    def half(self) -> float:
        return self.number / 2

    @half.setter
    def half(self, value: float) -> None:
        ran.append("setter")


#: The methods of `Watched`, and the unknown values of `Size`, that ran.
ran: list[Any] = []


@dataclasses.dataclass
class Unknown:
    number: int


class OwnError(Exception):
    """An exception of the user's, which is pickled by its parts."""


class Canary:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def there_and_back(value: Any) -> Any:
    return reader.loads(b"".join(pickling.dumps(value)))


PLAIN = [
    None, True, 7, -(2**200), 1.5, 1j, "é" * 300, b"y" * 70_000, bytearray(b"abc"), range(3, 9), slice(1, None),
    [1, [2, (3,)]], {"a": (1, 2, 3, 4)}, {1, (2, 3)}, frozenset({"x"}), collections.OrderedDict(a=1),
    collections.deque([1, 2], maxlen=5), datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    datetime.time(1, 2), datetime.timedelta(1, 2, 3), decimal.Decimal("1.50"), fractions.Fraction(-1, 3),
    uuid.UUID(int=7), Row(1, [Pair(2, Colour.BLUE)]), Pair(Row(1), {"k": Colour.RED}), [Colour.RED] * 3,
    Rights.READ | Rights.WRITE, [Size.SMALL, Size.LARGE], {(Colour.RED, 1.5): 1, Pair(1, (2,)): 2, 2**70: 3},
    numpy.float64(2.5), numpy.int32(7), numpy.str_(""), numpy.datetime64("2020-01-01", "ns"), numpy.bool_(True), numpy.str_("abc"),
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=lambda v: f"{type(v).__name__}-{str(v)[:12]}")
def test_data_comes_back_unchanged(value: Any) -> None:
    got = there_and_back(value)
    assert type(got) is type(value)
    assert got == value


ARRAYS = [
    numpy.arange(10.0), numpy.arange(10_000.0).reshape(100, 100), numpy.arange(12).reshape(3, 4).T,
    numpy.arange(12).reshape(3, 4)[::2, ::2], numpy.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    numpy.array(["a", "bcd"]), numpy.array([b"a"]), numpy.zeros((0, 3)), numpy.array(3.0), numpy.arange(5, dtype=">f8"),
    numpy.array([(1, 2.0)], dtype=[("a", "i4"), ("b", ">f8")]), numpy.array(["2020-01-01"], dtype="M8[D]"),
    numpy.array([1, 2], dtype="m8[10s]"), numpy.array([1, 2], dtype="m8"), numpy.zeros((0, 3), "f4")[::2],
    numpy.array([((1, 2), 3)], dtype=[("a", [("b", "i4"), ("c", "M8[s]")]), ("d", "i8")]), numpy.zeros(4, "V3"), numpy.asfortranarray(numpy.ones((2, 3))),
]  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}-{a.shape}")
def test_arrays_come_back_unchanged(array: Any) -> None:
    got, again = there_and_back([array, array])
    assert type(got) is numpy.ndarray
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    assert (got == array).all()
    assert got is again
    assert got.flags.writeable


def test_a_value_that_contains_itself_does_so_again() -> None:
    value: list[Any] = []
    value.append({"self": value})
    got = there_and_back(value)
    assert got[0]["self"] is got


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (int, "int"), (os.system, "posix.system"), (lambda: 1, "a function"), (ValueError("x"), "ValueError"),
        ([Row], "a type"), (Unknown(1), "Unknown"), (numpy.array([object()]), "array of 'O8'"),
        (numpy.ma.array([1]), "numpy.ma"), (pickle.PickleBuffer, "PickleBuffer"), (Path("/"), "pathlib"),
        (File(__file__), "handout.File"), (File(os.path.dirname(__file__)), "handout.File"), (OwnError("x"), "an exception"),
    ],
    ids=lambda v: str(v)[:20],
)  # fmt: skip
def test_everything_else_is_refused_by_name(value: Any, name: str) -> None:
    with pytest.raises(reader.RefusedError) as caught:
        there_and_back(value)
    assert name in caught.value.name


@pytest.mark.parametrize("wrap", [lambda c: c, lambda c: [1, {"k": c}], lambda c: Row(1, c), lambda c: {"k": Pair(c)}])
def test_code_that_unpickling_would_run_does_not_run(wrap: Any, tmp_path: Path) -> None:
    with pytest.raises(reader.RefusedError, match="system"):
        there_and_back(wrap(Canary(tmp_path / "ran")))
    assert list(tmp_path.iterdir()) == []


def test_only_dataclasses_and_enums_are_registered() -> None:
    with pytest.raises(TypeError, match="dataclass"):
        trust(Canary)


# ---- streams that no pickler writes -------------------------------------------------------------------------


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + pickle.STACK_GLOBAL


ROW = named(Row.__module__, "Row")
KEYS = 60


def _deep_key() -> bytes:
    nested = pickle.EMPTY_TUPLE + pickle.TUPLE1 * 100_000
    return pickle.EMPTY_DICT + nested + pickle.NONE + pickle.SETITEM


def _shared_key() -> bytes:
    doubled = b"".join(
        pickle.MEMOIZE + pickle.BINGET + bytes([i]) + pickle.TUPLE2 for i in range(KEYS)
    )  # ((x, x), (x, x)) and so on: a few bytes, but 2**60 parts to hash
    return pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + doubled + pickle.NONE + pickle.SETITEM


def number(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def big(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG4 + struct.pack("<i", len(raw)) + raw


def state(*values: tuple[str, bytes]) -> bytes:
    return pickle.EMPTY_DICT + pickle.MARK + b"".join(text(name) + value for name, value in values) + pickle.SETITEMS


def load(stream: bytes) -> Any:
    return reader.loads(b"\x80\x05" + stream + pickle.STOP)


RECONSTRUCT = named("numpy.core.multiarray", "_reconstruct")


def dtype(code: str) -> bytes:
    state = pickle.MARK + number(3) + text("<") + pickle.NONE * 3 + number(-1) * 2 + number(0) + pickle.TUPLE
    return named("numpy", "dtype") + text(code) + pickle.TUPLE1 + pickle.REDUCE + state + pickle.BUILD


def _nested(count: int, *, shared: bool) -> bytes:
    """Return a stream with nested pairs as the key of a dict. If ``shared``, each pair holds the next one twice."""
    out = pickle.EMPTY_LIST + pickle.EMPTY_LIST + pickle.MARK + number(1) + pickle.MEMOIZE
    for at in range(count):
        inside = pickle.LONG_BINGET + struct.pack("<I", at)
        fields = pickle.EMPTY_LIST + pickle.MARK + inside + (inside if shared else number(1)) + pickle.APPENDS
        pair = named(Pair.__module__, "Pair") + pickle.EMPTY_TUPLE + pickle.NEWOBJ
        out += pair + fields + pickle.BUILD + pickle.MEMOIZE
    return out + pickle.APPENDS + pickle.EMPTY_DICT + pickle.LONG_BINGET + struct.pack("<I", count)


def _alike(count: int) -> bytes:
    return b"".join(big(k * ((1 << 61) - 1)) for k in range(1, count))


def _doubled() -> bytes:
    return pickle.EMPTY_TUPLE + b"".join(
        pickle.MEMOIZE + pickle.BINGET + bytes([i]) + pickle.TUPLE2 for i in range(KEYS)
    )


def _records(count: int) -> bytes:
    """Return a stream with a numpy record type of ``count`` levels. Each level has two fields of the level below."""
    out = dtype("i1")
    for at in range(count):
        field = pickle.BINGET + bytes([at]) + number(0) + pickle.TUPLE2
        fields = pickle.EMPTY_DICT + pickle.MARK + text("a") + field + text("b") + field + pickle.SETITEMS
        names = text("a") + text("b") + pickle.TUPLE2
        state = (
            pickle.MARK
            + number(3)
            + text("|")
            + pickle.NONE
            + names
            + fields
            + number(1) * 2
            + number(0)
            + pickle.TUPLE
        )
        out += (
            pickle.MEMOIZE + named("numpy", "dtype") + text("V1") + pickle.TUPLE1 + pickle.REDUCE + state + pickle.BUILD
        )
    return out


STATE = pickle.EMPTY_DICT + text("__class__") + named(Pair.__module__, "Pair") + pickle.SETITEM
HOSTILE = {
    "a key too deep to hash": _deep_key(),
    "a key that takes forever to hash": _shared_key(),
    "a state for a class": ROW + pickle.EMPTY_DICT + text("number") + pickle.NONE + pickle.SETITEM + pickle.BUILD,
    "another class for an object": ROW + pickle.EMPTY_TUPLE + pickle.NEWOBJ + STATE + pickle.BUILD,
    "a bytearray longer than the stream": pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 50),
    "a memo number far too high": pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", 0xFFFFFFFF),
    "a persistent id": text("x") + pickle.BINPERSID,
    "an extension": pickle.EXT1 + b"\x01",
    "the old opcode for a call": pickle.MARK + b"iposix\nsystem\n",
    "the old opcode for a name": b"cposix\nsystem\n",
    "a ratio that takes forever": named("fractions", "Fraction") + text("1e999999999") + pickle.TUPLE1 + pickle.REDUCE,
    "a length as a constructor's argument": named("builtins", "bytearray")
    + pickle.BININT + struct.pack("<i", 1 << 30) + pickle.TUPLE1 + pickle.REDUCE,
    "numpy's own state of a type": named("numpy", "dtype") + text("O8") + pickle.TUPLE1 + pickle.REDUCE,
    "a path through a module": named("handout.serialization.importable", "attribute")
    + text("os") + text("system") + pickle.TUPLE2 + pickle.REDUCE,
    "a class by value": named("handout.serialization.definitions", "load_class")
    + text("o") + pickle.NONE + pickle.TUPLE2 + pickle.NONE + pickle.NONE + pickle.TUPLE3 + pickle.REDUCE,
    "nothing": b"",
    "an empty stack": pickle.TUPLE3,
}  # fmt: skip


@pytest.mark.parametrize("stream", HOSTILE.values(), ids=HOSTILE)
def test_a_stream_made_to_harm_is_refused(stream: bytes) -> None:
    with pytest.raises(LoadError):
        reader.loads(b"\x80\x05" + stream + pickle.STOP)


def test_only_objects_that_the_reader_made_get_a_state() -> None:
    values = (("_value_", number(666)), ("_name_", text("EVIL")), ("nice", text("shadow")))
    red = named(Colour.__module__, "Colour") + number(1) + pickle.TUPLE1 + pickle.REDUCE
    for made in (red, red + pickle.MEMOIZE + pickle.BINGET + b"\0"):
        with pytest.raises(reader.RefusedError, match="state for a Colour"):
            load(made + state(*values) + pickle.BUILD)
    assert (Colour.RED.value, Colour.RED.name) == (1, "RED")
    twice = ROW + pickle.EMPTY_TUPLE + pickle.NEWOBJ + (state(("number", number(1))) + pickle.BUILD) * 2
    with pytest.raises(reader.RefusedError, match="state for a Row"):
        load(twice)


def test_no_code_of_a_registered_class_runs() -> None:
    watched = Watched(4)
    ran.clear()
    got = there_and_back(watched)
    assert (got, got.double) == (watched, 8)
    cls = named(Watched.__module__, "Watched")
    shadowed = load(cls + pickle.EMPTY_TUPLE + pickle.NEWOBJ + state(("half", number(1))) + pickle.BUILD)
    assert shadowed.half == 0
    for call in (pickle.REDUCE, pickle.NEWOBJ):
        with pytest.raises(reader.RefusedError, match="Watched made"):
            load(cls + number(4) + pickle.TUPLE1 + call)
    with pytest.raises(reader.RefusedError, match="does not exist"):
        load(named(Size.__module__, "Size") + number(9) + pickle.TUPLE1 + pickle.REDUCE)
    assert ran == []


def test_a_placeholder_never_gets_into_a_value() -> None:
    """An earlier reader counted uses of placeholders, and a tuple that was read twice from the memo broke the count."""
    args = named("numpy", "ndarray") + number(0) + pickle.SHORT_BINBYTES + b"\1b" + pickle.TUPLE3 + pickle.MEMOIZE
    shape = pickle.MARK + number(1) + number(0) + pickle.TUPLE1
    made = shape + dtype("f8") + pickle.NEWFALSE + pickle.SHORT_BINBYTES + b"\0" + pickle.TUPLE + pickle.BUILD
    arrays = RECONSTRUCT + args + pickle.REDUCE + made + RECONSTRUCT + pickle.BINGET + b"\0" + pickle.REDUCE + made
    assert len(load(pickle.EMPTY_LIST + pickle.MARK + arrays + pickle.APPENDS)) == 2
    for wrap in (pickle.APPENDS, pickle.TUPLE + pickle.APPEND):
        with pytest.raises(reader.RefusedError, match="a type"):
            load(pickle.EMPTY_LIST + pickle.MARK + arrays + named("numpy", "dtype") + wrap)


SLOW = {
    "dataclasses that share parts": lambda: _nested(60, shared=True) + pickle.NONE + pickle.SETITEM,
    "dataclasses too deep": lambda: _nested(5000, shared=False) + pickle.NONE + pickle.SETITEM,
    "numbers that hash alike": lambda: pickle.EMPTY_SET + pickle.MARK + _alike(20_000) + pickle.ADDITEMS,
    "numbers that hash alike, one by one": lambda: pickle.EMPTY_DICT
    + b"".join(big(k * ((1 << 61) - 1)) + pickle.NONE + pickle.SETITEM for k in range(1, 20_000)),
    "a frozenset of numbers that hash alike": lambda: pickle.MARK + _alike(20_000) + pickle.FROZENSET,
    "one long key again and again": lambda: pickle.MARK + number(1) * 10_000 + pickle.TUPLE + pickle.MEMOIZE
    + pickle.EMPTY_LIST + pickle.MARK
    + (pickle.EMPTY_DICT + pickle.BINGET + b"\0" + pickle.NONE + pickle.SETITEM) * 20_000 + pickle.APPENDS,
    "one long number again and again": lambda: big(1 << 800_000) + pickle.MEMOIZE + pickle.EMPTY_DICT
    + (pickle.BINGET + b"\0" + pickle.NONE + pickle.SETITEM) * 20_000,
    "one long deque again and again": lambda: named("collections", "deque") + pickle.MEMOIZE + pickle.MARK
    + number(1) * 10_000 + pickle.TUPLE + pickle.TUPLE1 + pickle.MEMOIZE + pickle.EMPTY_LIST + pickle.MARK
    + (pickle.BINGET + b"\0" + pickle.BINGET + b"\1" + pickle.REDUCE) * 50_000 + pickle.APPENDS,
    "a ratio that takes forever to reduce": lambda: named("fractions", "Fraction") + big(3**300_000) + big(7**300_000)
    + pickle.TUPLE2 + pickle.REDUCE,
    "a class by value that takes forever to find": lambda: named("handout.serialization.definitions", "load_class")
    + _doubled() + pickle.NONE + pickle.NONE + pickle.TUPLE3 + pickle.REDUCE,
    "a numpy type that takes forever to print": lambda: named("numpy", "dtype") + _doubled() + pickle.TUPLE1
    + pickle.REDUCE,
    "records in records that share parts": lambda: _records(40),
    "an enum's value that takes forever to hash": lambda: named(Colour.__module__, "Colour") + _doubled()
    + pickle.TUPLE1 + pickle.REDUCE,
}  # fmt: skip


@pytest.mark.parametrize("stream", SLOW.values(), ids=SLOW)
def test_bytes_that_take_forever_to_read_are_refused_at_once(stream: Callable[[], bytes]) -> None:
    data = stream()
    start = time.process_time()
    with pytest.raises(reader.RefusedError):
        load(data)
    assert time.process_time() - start < 2


def _scalar(code: str, raw: bytes = b"") -> bytes:
    raw = pickle.SHORT_BINBYTES + bytes([len(raw)]) + raw
    return named("numpy.core.multiarray", "scalar") + dtype(code) + raw + pickle.TUPLE2 + pickle.REDUCE


def _strided(code: str, *shape: int, raw: bytes = b"") -> bytes:
    args = named("numpy", "ndarray") + number(0) + pickle.SHORT_BINBYTES + b"\1b" + pickle.TUPLE3
    axes = pickle.MARK + b"".join(map(number, shape)) + pickle.TUPLE
    raw = pickle.SHORT_BINBYTES + bytes([len(raw)]) + raw
    state = pickle.MARK + number(1) + axes + dtype(code) + pickle.NEWFALSE + raw + pickle.TUPLE
    return RECONSTRUCT + args + pickle.REDUCE + state + pickle.BUILD


LARGE = {
    "a scalar without its bytes": _scalar("V300000000"),
    "a scalar of another size": _scalar("V300000000", b"abc"),
    "elements without a size": _strided("S0", 1 << 30),
    "an array without its bytes": _strided("f8", 1 << 30),
    "an array of another size": _strided("f8", 1 << 30, raw=b"12345678"),
    "a negative length": _strided("f8", -1, raw=b"12345678"),
}


@pytest.mark.parametrize("stream", LARGE.values(), ids=LARGE)
def test_memory_is_allocated_for_bytes_and_not_for_numbers(stream: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(reader.RefusedError):
            load(stream)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_array_with_an_empty_axis_allocates_nothing() -> None:
    tracemalloc.start()
    try:
        assert load(_strided("f8", 0, 1 << 30)).shape == (0, 1 << 30)
        assert load(_strided("V999999999", 0)).shape == (0,)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_repeated_copies_of_one_buffer_are_refused() -> None:
    raw = pickle.BINBYTES + struct.pack("<I", 1 << 20) + bytes(1 << 20) + pickle.MEMOIZE
    scalars = (
        named("numpy", "scalar") + dtype(f"V{1 << 20}") + pickle.BINGET + b"\0" + pickle.TUPLE2 + pickle.REDUCE
    ) * 20
    with pytest.raises(reader.RefusedError, match="too long"):
        load(raw + pickle.EMPTY_LIST + pickle.MARK + scalars + pickle.APPENDS)


def test_ordinary_keys_with_the_same_hash_are_accepted() -> None:
    """-1 and -2 have the same hash, and coordinates around zero contain both."""
    grid = dict.fromkeys(itertools.product(range(-3, 3), repeat=5), 0)
    assert there_and_back(grid) == grid
    key = tuple(range(20))
    assert there_and_back([{key: n} for n in range(10_000)])[-1] == {key: 9999}


def test_a_message_contains_only_printable_and_short_text_of_a_host() -> None:
    name = "\x1b[2J\udc80" + "x" * 200_000
    raw = name.encode("utf-8", "surrogatepass")
    named = text("os") + pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw + pickle.STACK_GLOBAL
    with pytest.raises(reader.RefusedError) as caught:
        load(named)
    assert str(caught.value).startswith("it holds os.?[2J?xxx")
    assert len(str(caught.value)) < 400


def test_a_date_outside_the_calendar_is_refused() -> None:
    day = pickle.SHORT_BINBYTES + b"\4" + bytes([7, 234, 2, 31])
    with pytest.raises(LoadError, match="day is out of range"):
        load(named("datetime", "date") + day + pickle.TUPLE1 + pickle.REDUCE)


CORPUS = [b"".join(pickling.dumps(value)) for value in (*PLAIN, *ARRAYS)]


def test_damaged_data_is_data_or_refused() -> None:
    chance = random.Random(1)
    for _ in range(20_000):
        data = bytearray(chance.choice(CORPUS)[:4000])
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            reader.loads(bytes(data))
        except LoadError:
            pass


@given(st.binary(max_size=200))
def test_any_bytes_are_data_or_refused(data: bytes) -> None:
    try:
        reader.loads(b"\x80\x05" + data)
    except LoadError:
        pass
