"""What the controller holds of a run."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy
import pytest

from handout.agent.serial import dumps
from handout.data.objects import ObjectTable


def encoded(value: Any) -> bytes:
    return b"".join(dumps(value))


def test_a_result_is_unpickled_when_it_is_asked_for_and_is_the_callers_own() -> None:
    table = ObjectTable()
    data = bytearray(encoded(numpy.zeros(10_000)))
    table.put(3, data, len(data))
    first = table.value(3)
    first[0] = 1.0
    assert table.value(3)[0] == 0.0
    assert bytes(data) == encoded(numpy.zeros(10_000))


def test_what_is_here_already_stays() -> None:
    table = ObjectTable()
    table.put_new(1, encoded("first"))
    table.put_new(1, encoded("second"))
    table.put(1, encoded("third"), 1)
    assert table.value(1) == "first"
    assert table.nbytes == len(encoded("first"))


def test_memory_left_counts_results_in_memory_and_neither_values_nor_files() -> None:
    table = ObjectTable({0: [b"x" * 50]}, max_memory=100)
    table.put_new(1, b"y" * 60)
    assert table.memory_left == 40
    table.put_new(2, b"z" * 60)
    assert table.memory_left == 0
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the table closes it
    file.write(encoded("in a file"))
    file.flush()
    table.put(3, file, len(encoded("in a file")))
    assert table.value(3) == "in a file"
    assert b"".join(table.segments(3) or ()) == encoded("in a file")
    table.drop([1, 2, 3, 99])
    assert table.memory_left == 100
    assert table.segments(3) is None
    assert (0 in table, 1 in table, len(table)) == (True, False, 1)


def test_a_value_in_parts_is_put_together() -> None:
    table = ObjectTable({0: dumps(["x" * 100, numpy.arange(5_000)])})
    text, numbers = table.value(0)
    assert text == "x" * 100
    numpy.testing.assert_array_equal(numbers, numpy.arange(5_000))
    assert table.size(0) == len(encoded(["x" * 100, numpy.arange(5_000)]))


def test_asking_for_what_is_not_here_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        ObjectTable().value(7)
