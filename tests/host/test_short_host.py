"""A host that runs short of something other than space: descriptors, the size of a file, inodes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handout.serialization import pickling
from tests.host.disks import mounted
from tests.host.rig import Rig

BIG = 3 << 20


def limited(folder: Path, limit: str) -> str:
    """Return a program that runs Python with a limit, which is written as an argument of ``ulimit``."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nulimit {limit}\nexec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    return str(program)


def start(**settings: object) -> Rig:
    rig = Rig(**settings)  # type: ignore[arg-type]
    rig.task_class()
    return rig


@pytest.fixture
def few_inodes() -> Iterator[str]:
    """Mount a file system that can hold a few files only, and yield its folder."""
    with mounted("size=64m,nr_inodes=60") as folder:
        yield folder


def test_twenty_descriptors_are_enough(tmp_path: Path) -> None:
    rig = start(python=limited(tmp_path, "-n 20"))
    try:
        rig.run(lambda: bytearray(BIG))
        assert pickling.loads(rig.fetch(1)) == bytearray(BIG)
        rig.submit([2], rig.function(len), rig.call(inputs=1), inputs=[[1]])
        rig.submit([*range(10, 40)], rig.function(lambda: 7), rig.call())
        rig.wait_for(2, *range(10, 40))
        assert [rig.result(2), rig.result(10), rig.result(39)] == [BIG, 7, 7]
        rig.close()
    finally:
        rig.kill()


def test_too_few_descriptors_for_a_worker_are_told_by_number(tmp_path: Path) -> None:
    rig = start(python=limited(tmp_path, "-n 14"))
    try:
        failed = rig.run(lambda: 1).fields
        assert failed["kind"] == "host"
        assert failed["message"] == "the host cannot start a worker: the limit on open files is 14 (ulimit -n)"
        rig.close()
    finally:
        rig.kill()


def test_a_limit_on_the_size_of_files_is_told_by_number(tmp_path: Path) -> None:
    rig = start(python=limited(tmp_path, "-f 2048"))
    try:
        failed = rig.run(lambda: bytearray(BIG)).fields
        assert failed["kind"] == "disk"
        assert "the limit on the size of a file is 1048576 bytes (ulimit -f)" in failed["message"]
        rig.submit([2], rig.function(len), rig.call(inputs=1), inputs=[[50]])
        rig.send_stream(50, bytes(BIG))
        failed = rig.wait_for(2).fields
        assert (failed["kind"], failed["argument"]) == ("disk", True)
        assert "(ulimit -f)" in failed["message"]
        rig.run(lambda: "alive", attempt_id=3)
        assert rig.result(3) == "alive"
        rig.close()
    finally:
        rig.kill()


def test_a_file_system_without_inodes_is_told_by_number(few_inodes: str) -> None:
    rig = start(base=few_inodes, store_limit=0)
    try:
        spent = [Path(few_inodes, f"file{number}") for number in range(60)]
        for file in spent:
            try:
                file.touch()
            except OSError:
                break
        failed = rig.run(lambda: bytearray(BIG)).fields
        assert failed["kind"] == "disk"
        assert "the file system has no inodes left (it has 60 in all)" in failed["message"]
        for file in spent:
            file.unlink(missing_ok=True)
        rig.run(lambda: bytearray(BIG), attempt_id=2)
        assert pickling.loads(rig.fetch(2)) == bytearray(BIG)
        rig.close()
    finally:
        rig.kill()
