"""Large arguments that several calls take become one value, as long as their bytes stay the same."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

from handout import UnserializableError
from handout.submission.call_values import SharedArguments, SharedValue
from handout.submission.single_call import CallOptions, EncodedCall, encode_call

LARGE = 100_000


class Rows(list[int]):
    """A list that weak references can refer to."""


def take(*args: Any, **kwargs: Any) -> None:
    """Stand for any function."""


@pytest.fixture
def shared() -> SharedArguments:
    return SharedArguments(max_idle=1 << 20)


def encoded(shared: SharedArguments | None, *args: Any, **kwargs: Any) -> EncodedCall:
    return encode_call(take, args, kwargs, OPTIONS, shared=shared)


def values(shared: SharedArguments | None, *args: Any, **kwargs: Any) -> list[Any]:
    return list(encoded(shared, *args, **kwargs).bytes.values)


OPTIONS = CallOptions({})


def test_the_same_argument_of_two_calls_is_one_value(shared: SharedArguments) -> None:
    rows, text = list(range(LARGE)), "x" * LARGE
    first, second = values(shared, rows, 1), values(shared, 2, again=rows)
    assert first == second
    assert [each.is_known for each in first] == [True]
    assert values(shared, text, rows) == [*values(shared, text), *first]


def test_equal_arguments_are_values_of_their_own_and_so_are_those_of_calls_without_a_table() -> None:
    table, rows = SharedArguments(0), list(range(LARGE))
    assert values(table, rows) != values(table, list(rows))
    assert not any(isinstance(value, SharedValue) for value in values(None, rows))


@pytest.mark.parametrize("change", [lambda data: data.__setitem__(7, 1), lambda data: data.append(1)])
def test_an_argument_that_has_changed_is_a_new_value(shared: SharedArguments, change: Any) -> None:
    data = bytearray(LARGE)
    before = values(shared, data)
    change(data)
    after = values(shared, data)
    assert before != after
    assert list(before[0]) != list(after[0])
    assert values(shared, data) == after


def test_the_earlier_bytes_of_an_argument_that_has_changed_are_forgotten(shared: SharedArguments) -> None:
    data = bytearray(LARGE)
    before = [*values(shared, data), *values(shared, data)]
    assert shared.end(before[:1]) + shared.end(before[1:]) == []
    data[7] = 1
    after = values(shared, data)
    assert shared.end(after) == before[:1]


def test_the_value_does_not_change_with_the_argument(shared: SharedArguments) -> None:
    data = bytearray(LARGE)
    (value,) = values(shared, data)
    before = b"".join(value)
    data[:] = b"\1" * LARGE
    assert b"".join(value) == before


def test_a_read_only_array_over_memory_that_can_change_is_copied(shared: SharedArguments) -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    memory = numpy.zeros(LARGE)
    argument = memory[10:].view()
    argument.flags.writeable = False
    (first,) = values(shared, argument)
    before = b"".join(first)
    memory[20] = 1
    (second,) = values(shared, argument)
    assert b"".join(first) == before != b"".join(second)


def test_an_array_over_the_memory_of_an_unknown_object_is_copied(shared: SharedArguments) -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")

    class Foreign:
        """An object that has no buffer, and tells numpy its address."""

        memory = numpy.zeros(LARGE)
        __array_interface__ = {**memory.__array_interface__, "data": (memory.ctypes.data, True)}  # noqa: RUF012

    (value,) = values(shared, numpy.asarray(Foreign()))
    assert all(isinstance(segment, bytes) for segment in value)


def test_a_frozen_array_is_not_copied(shared: SharedArguments) -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    frozen = numpy.zeros(LARGE)
    frozen.flags.writeable = False
    for argument in (frozen, frozen[10:], numpy.frombuffer(bytes(LARGE))):
        (value,) = values(shared, argument)
        assert any(isinstance(segment, memoryview) for segment in value)


def test_an_argument_that_one_call_took_is_forgotten_when_another_call_begins_without_it(
    shared: SharedArguments,
) -> None:
    rows = Rows(range(LARGE))
    seen = weakref.ref(rows)
    found = values(shared, rows)
    assert shared.end(found) == []
    other = values(shared, "x" * LARGE)
    assert shared.end(other) == found
    assert not found[0].is_known
    del rows
    gc.collect()
    assert seen() is None


def test_an_argument_that_the_next_call_takes_too_stays_known(shared: SharedArguments) -> None:
    rows = Rows(range(LARGE))
    found = values(shared, rows)
    assert shared.end(found) == []
    assert values(shared, rows) == found
    values(shared, 1)
    assert shared.end(found) == []
    assert rows in shared


def test_an_argument_of_several_calls_stays_known_until_the_table_is_cleared(shared: SharedArguments) -> None:
    rows = Rows(range(LARGE))
    found = values(shared, rows)
    values(shared, rows)
    assert shared.end(found) == shared.end(found) == []
    assert values(shared, rows) == found
    assert shared.clear() == found
    assert not found[0].is_known
    assert shared.end(found) == []  # the last call ends after the table was cleared
    assert values(shared, rows) != found


def test_of_the_arguments_that_no_call_takes_only_the_last_ones_stay_known(shared: SharedArguments) -> None:
    large = [bytearray(400_000) for _ in range(5)]
    found = [values(shared, data)[0] for data in (*large, *large)]
    gone = [value for each in found for value in shared.end([each])]
    assert gone == found[:3]
    assert [data in shared for data in large] == [False, False, False, True, True]


def test_the_last_argument_stays_known_however_large_it_is() -> None:
    table, data = SharedArguments(max_idle=10), bytearray(LARGE)
    found = [*values(table, data), *values(table, data)]
    assert table.end(found[:1]) + table.end(found[1:]) == []
    assert data in table


def test_a_value_that_holds_code_is_not_shared(shared: SharedArguments) -> None:
    def local() -> bytes:
        return b""

    def loaded(data: bytes) -> Any:
        return lambda: (local, data)

    holder = [loaded(bytes(LARGE))]
    (first,), (second,) = values(shared, holder), values(shared, holder)
    assert first is not second
    assert not isinstance(first, SharedValue)


def test_data_beside_code_is_shared_and_pickled_once(shared: SharedArguments) -> None:
    rows = list(range(LARGE))
    assert values(shared, rows, lambda: 1) == values(shared, rows, lambda: 2)


def test_a_call_that_cannot_be_sent_leaves_nothing_behind(shared: SharedArguments) -> None:
    text = "x" * LARGE
    with pytest.raises(UnserializableError):
        encoded(shared, text, threading.Lock())
    assert text not in shared
