"""How a worker remembers, encodes and writes results."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path
from typing import cast

import pytest

from handout.host.task_context import Current
from handout.host.worker.call_loader import CallLoader
from handout.host.worker.lent_state import LentState
from handout.host.worker.objects import MissingInputError, StoreAccessError, WorkerObjects, file_name
from handout.host.worker.result_encoder import ResultEncoder
from handout.host.worker.worker import Worker
from handout.protocol.frames import MAX_PAYLOAD
from handout.protocol.messages import INLINE, SetUp
from handout.serialization import diagnosis
from tests.host.doubles import Nothing, new_page


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    made = Worker(cast(socket.socket, Nothing()), new_page())
    made.objects = WorkerObjects([str(tmp_path)] * 2, ".w1")
    made.results = ResultEncoder(made.objects, made.page, cast(LentState, Nothing()), lambda: None, 1 << 40, None)
    return made


def test_a_result_that_is_made_again_is_counted_once(tmp_path: Path) -> None:
    objects = WorkerObjects([str(tmp_path)] * 2, ".w1")
    for _ in range(1000):
        objects.remember(1, bytes(INLINE))
    assert objects.get(1, {}) == bytes(INLINE)


@pytest.mark.parametrize("how", ["whole", "changed", "cut", "unreadable"])
def test_a_file_that_cannot_be_read_is_damaged_and_does_not_kill_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    objects = WorkerObjects([str(tmp_path)] * 2, ".w1")
    objects.write(1, [b"x" * 3_000_000], True)
    (path,) = tmp_path.iterdir()
    if how == "whole":
        assert bytes(objects.get(1, {})) == b"x" * 3_000_000
        return
    if how == "changed":
        with path.open("r+b") as file:
            file.seek(2_000_000)
            file.write(b"y")
    elif how == "cut":
        os.truncate(path, 2)
    else:

        def bad_sector(fd: int, buffers: list[memoryview], offset: int) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "preadv", bad_sector)
    with pytest.raises(MissingInputError):
        objects.get(1, {})
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_result_that_cannot_be_pickled_are_removed(worker: Worker, tmp_path: Path) -> None:
    value = {"large": bytes(INLINE * 2), "lock": threading.Lock()}
    with pytest.raises(diagnosis.CannotPickleError):
        worker.results.encode(value, [(("item", "large"),), (("item", "lock"),)], [-1, 5, 6])
    assert os.listdir(tmp_path) == []


def test_small_objects_of_a_result_become_files_once_the_report_has_no_room_for_them(
    worker: Worker, tmp_path: Path
) -> None:
    value = [bytes(60_000)] * 2000
    sizes, inline_sizes, _, payload = worker.results.encode(
        value, [(("item", i),) for i in range(2000)], [-1, *range(1, 2001)]
    )
    assert sum(map(len, payload)) < MAX_PAYLOAD // 8
    assert inline_sizes.count(-1) - 1 == len(os.listdir(tmp_path)) > 1000
    assert min(sizes[1:]) > 60_000


def test_a_worker_that_is_interrupted_while_it_cleans_up_begins_again_and_ends(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[BaseException] = [OSError("raised by the handler of a signal"), KeyboardInterrupt()]

    def clean_up(current: Current, checked: bool) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(worker, "_clean_up", clean_up)
    worker._settle(Current("t", "h", 1, 0, ""), True)
    assert not errors
    assert worker.leaving


def test_an_input_that_the_system_does_not_let_the_worker_read_is_no_error_of_the_function(
    worker: Worker, tmp_path: Path
) -> None:
    loader = CallLoader(SetUp("h", [], "", {}, "", ""), worker.objects, cast(LentState, Nothing()), None)
    (tmp_path / file_name(7)).mkdir()  # a folder can be opened, but not read
    with pytest.raises(StoreAccessError, match=r"cannot read input 7 from the store: .*Is a directory"):
        loader._load_input(7, {})
