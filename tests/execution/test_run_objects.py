"""The objects that the controller holds for a run, in memory and in files."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy
import pytest

from handout.errors import DamagedFileError
from handout.execution.shell.run_objects import RunObjects
from handout.serialization.pickling import dumps


def encoded(value: Any) -> bytes:
    return b"".join(dumps(value))


def test_a_result_is_unpickled_when_it_is_asked_for_and_is_the_callers_own() -> None:
    table = RunObjects()
    data = bytearray(encoded(numpy.zeros(10_000)))
    table.put(3, data, len(data))
    first = table.value(3)
    first[0] = 1.0
    assert table.value(3)[0] == 0.0
    assert bytes(data) == encoded(numpy.zeros(10_000))


def test_what_is_here_already_stays() -> None:
    table = RunObjects()
    table.put_new(1, encoded("first"))
    table.put_new(1, encoded("second"))
    table.put(1, encoded("third"), 1)
    assert table.value(1) == "first"
    assert table.nbytes == len(encoded("first"))


def test_memory_left_counts_results_in_memory_and_neither_values_nor_files() -> None:
    table = RunObjects({0: [b"x" * 50]}, max_memory=100)
    table.put_new(1, b"y" * 60)
    assert table.memory_left == 40
    table.put_new(2, b"z" * 60)
    assert table.memory_left == 40
    assert table.segments(2) == [b"z" * 60]
    file = table.new_file()
    file.write(encoded("in a file"))
    table.put(3, file, len(encoded("in a file")))
    assert table.value(3) == "in a file"
    assert b"".join(table.segments(3) or ()) == encoded("in a file")
    table.drop([1, 2, 3, 99])
    assert table.memory_left == 100
    assert table.segments(3) is None
    assert (0 in table, 1 in table, len(table)) == (True, False, 1)
    assert not file.path.exists()


def test_a_folder_that_was_removed_is_told_and_the_object_is_not_held() -> None:
    table = RunObjects(max_memory=0)
    table.put_new(1, encoded("first"))
    open_file, held = table.new_file(), table.file(1)
    assert held is not None
    shutil.rmtree(held.path.parent)
    with pytest.raises(FileNotFoundError):
        table.put_new(2, encoded("second"))
    assert 2 not in table
    open_file.remove()
    table.drop([1])
    assert len(table) == 0


def test_a_damaged_file_is_told_by_name(tmp_path: Path) -> None:
    table = RunObjects(max_memory=0)
    table.put_new(1, encoded("in a file"))
    file = table.file(1)
    assert file is not None
    content = bytearray(file.path.read_bytes())
    content[-3] ^= 1
    file.path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="its bytes are not those that were written") as caught:
        table.value(1)
    assert caught.value.path == str(file.path)
    os.truncate(file.path, 3)
    with pytest.raises(DamagedFileError):
        table.value(1)
    file.path.unlink()
    with pytest.raises(DamagedFileError, match=r"not there any more .No such file"):
        table.value(1)
    file.path.mkdir()
    with pytest.raises(DamagedFileError, match=r"something else in its place"):
        table.value(1)
    file.path.rmdir()
    table.drop([1])


def test_more_results_are_in_files_than_may_be_open() -> None:
    table = RunObjects()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        for number in range(50):
            file = table.new_file()
            file.write(encoded(number))
            table.put(number, file, len(encoded(number)))
        assert [table.value(number) for number in range(50)] == list(range(50))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_file_of_a_dropped_object_stays_for_its_last_reader() -> None:
    """The journal's thread may write an object to the journal after the run has dropped the object."""
    table = RunObjects(max_memory=0)
    data = bytes(100_000)
    table.put_new(1, data)
    segments = table.segments(1)
    assert segments is not None
    path = table.file(1).path  # type: ignore[union-attr]
    table.drop([1])
    del table
    assert b"".join(segments) == data
    del segments
    assert not path.exists()


def test_files_go_with_their_table_and_those_of_a_killed_process_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os; from handout.execution.shell.run_objects import RunObjects as T; t = T(); t.new_file(); os.kill(os.getpid(), 9)"
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", code], env=env, check=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (left,) = tmp_path.iterdir()
    table, other = RunObjects(), RunObjects()
    table.new_file()
    assert not left.exists()
    other.new_file()  # a new table leaves the files of living processes alone
    assert len(list(tmp_path.iterdir())) == 2
    del table, other
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_value_in_parts_is_put_together() -> None:
    table = RunObjects({0: dumps(["x" * 100, numpy.arange(5_000)])})
    text, numbers = table.value(0)
    assert text == "x" * 100
    numpy.testing.assert_array_equal(numbers, numpy.arange(5_000))
    assert table.size(0) == len(encoded(["x" * 100, numpy.arange(5_000)]))


def test_asking_for_what_is_not_here_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        RunObjects().value(7)
