"""Data of an untrusted host: what is data comes back as it was, everything else is refused by name and never made."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import os
import pickle
import random
import struct
import uuid
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handout.agent import restricted, serial
from handout.agent.pickling import LoadError
from handout.data.trust import trust


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


@dataclasses.dataclass
class Unknown:
    number: int


class Canary:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def there_and_back(value: Any) -> Any:
    return restricted.loads(b"".join(serial.dumps(value)))


PLAIN = [
    None, True, 7, -(2**200), 1.5, 1j, "é" * 300, b"y" * 70_000, bytearray(b"abc"), range(3, 9), slice(1, None),
    [1, [2, (3,)]], {"a": (1, 2, 3, 4)}, {1, (2, 3)}, frozenset({"x"}), collections.OrderedDict(a=1),
    collections.deque([1, 2], maxlen=5), datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    datetime.time(1, 2), datetime.timedelta(1, 2, 3), decimal.Decimal("1.50"), fractions.Fraction(-1, 3),
    uuid.UUID(int=7), Row(1, [Pair(2, Colour.BLUE)]), Pair(Row(1), {"k": Colour.RED}), [Colour.RED] * 3,
    numpy.float64(2.5), numpy.int32(7), numpy.datetime64("2020-01-01", "ns"), numpy.bool_(True), numpy.str_("abc"),
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=lambda v: f"{type(v).__name__}-{str(v)[:12]}")
def test_data_comes_back_as_it_was(value: Any) -> None:
    got = there_and_back(value)
    assert type(got) is type(value)
    assert got == value


ARRAYS = [
    numpy.arange(10.0), numpy.arange(10_000.0).reshape(100, 100), numpy.arange(12).reshape(3, 4).T,
    numpy.arange(12).reshape(3, 4)[::2, ::2], numpy.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    numpy.array(["a", "bcd"]), numpy.array([b"a"]), numpy.zeros((0, 3)), numpy.array(3.0), numpy.arange(5, dtype=">f8"),
    numpy.array([(1, 2.0)], dtype=[("a", "i4"), ("b", ">f8")]), numpy.array(["2020-01-01"], dtype="M8[D]"),
    numpy.array([1, 2], dtype="m8[10s]"), numpy.zeros(4, "V3"), numpy.asfortranarray(numpy.ones((2, 3))),
]  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}-{a.shape}")
def test_arrays_come_back_as_they_were(array: Any) -> None:
    got, again = there_and_back([array, array])
    assert type(got) is numpy.ndarray
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    assert (got == array).all()
    assert got is again
    assert got.flags.writeable


def test_what_refers_to_itself_does_so_again() -> None:
    value: list[Any] = []
    value.append({"self": value})
    got = there_and_back(value)
    assert got[0]["self"] is got


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (int, "int"), (os.system, "posix.system"), (lambda: 1, "_load_function"), (ValueError("x"), "ValueError"),
        ([Row], "a type"), (Unknown(1), "Unknown"), (numpy.array([object()]), "array of 'O8'"),
        (numpy.ma.array([1]), "numpy.ma"), (pickle.PickleBuffer, "PickleBuffer"), (Path("/"), "pathlib"),
    ],
    ids=lambda v: str(v)[:20],
)  # fmt: skip
def test_everything_else_is_refused_by_name(value: Any, name: str) -> None:
    with pytest.raises(restricted.RefusedError) as caught:
        there_and_back(value)
    assert name in caught.value.name


@pytest.mark.parametrize("wrap", [lambda c: c, lambda c: [1, {"k": c}], lambda c: Row(1, c), lambda c: {"k": Pair(c)}])
def test_what_would_run_when_it_is_unpickled_does_not(wrap: Any, tmp_path: Path) -> None:
    with pytest.raises(restricted.RefusedError, match="system"):
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
    )  # ((x, x), (x, x)) and so on: small, and 2**60 parts to hash
    return pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + doubled + pickle.NONE + pickle.SETITEM


STATE = pickle.EMPTY_DICT + text("__class__") + named(Pair.__module__, "Pair") + pickle.SETITEM
HOSTILE = {
    "a key too deep to hash": _deep_key(),
    "a key that takes forever to hash": _shared_key(),
    "a state for a class": ROW + pickle.EMPTY_DICT + text("number") + pickle.NONE + pickle.SETITEM + pickle.BUILD,
    "another class for an object": ROW + pickle.EMPTY_TUPLE + pickle.NEWOBJ + STATE + pickle.BUILD,
    "a bytearray of a size that is not there": pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 50),
    "a memo of a size that is not there": pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", 0xFFFFFFFF),
    "a persistent id": text("x") + pickle.BINPERSID,
    "an extension": pickle.EXT1 + b"\x01",
    "the old way to call": pickle.MARK + b"iposix\nsystem\n",
    "the old way to name": b"cposix\nsystem\n",
    "a ratio that takes forever": named("fractions", "Fraction") + text("1e999999999") + pickle.TUPLE1 + pickle.REDUCE,
    "a length as a constructor's argument": named("builtins", "bytearray")
    + pickle.BININT + struct.pack("<i", 1 << 30) + pickle.TUPLE1 + pickle.REDUCE,
    "numpy's own state of a type": named("numpy", "dtype") + text("O8") + pickle.TUPLE1 + pickle.REDUCE,
    "a path through a module": named("handout.agent.byvalue", "attribute")
    + text("os") + text("system") + pickle.TUPLE2 + pickle.REDUCE,
    "a class by value": named("handout.agent.pickling", "_load_class")
    + text("o") + pickle.NONE + pickle.TUPLE2 + pickle.NONE + pickle.NONE + pickle.TUPLE3 + pickle.REDUCE,
    "nothing": b"",
    "an empty stack": pickle.TUPLE3,
}  # fmt: skip


@pytest.mark.parametrize("stream", HOSTILE.values(), ids=HOSTILE)
def test_a_stream_made_to_harm_is_refused(stream: bytes) -> None:
    with pytest.raises(LoadError):
        restricted.loads(b"\x80\x05" + stream + pickle.STOP)


CORPUS = [b"".join(serial.dumps(value)) for value in (*PLAIN[:31], *ARRAYS)]


def test_damaged_data_is_data_or_refused() -> None:
    chance = random.Random(1)
    for _ in range(20_000):
        data = bytearray(chance.choice(CORPUS)[:4000])
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            restricted.loads(bytes(data))
        except LoadError:
            pass


@given(st.binary(max_size=200))
def test_any_bytes_are_data_or_refused(data: bytes) -> None:
    try:
        restricted.loads(b"\x80\x05" + data)
    except LoadError:
        pass
