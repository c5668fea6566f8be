"""Objects whose files another program removes or damages, and a store whose folder in memory is removed."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from handout.protocol import messages
from handout.serialization import pickling
from tests.host.rig import Bytes, Rig

BIG = 3 << 20


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Start the processes of a host that keeps its large objects in ``memory`` or on ``disk``."""
    made = Rig(**({} if request.param == "memory" else {"store_limit": 0}))
    made.task_class()
    try:
        yield made
        made.close()
    finally:
        made.kill()


@pytest.fixture
def key() -> int:
    """Return a key that no other test has at the same time, because the folders in memory of all agents are searched."""
    return 1 << 40 | secrets.randbits(30)


def file_of(rig: Rig, key: int) -> Path:
    (file,) = (*Path("/dev/shm").glob(f"handout-*/{key:x}"), *Path(rig.folder).glob(f"objects/{key:x}"))
    return file


def made(rig: Rig, key: int) -> Path:
    """Have a task make a large object, and return the file of the object."""
    rig.submit([1], rig.function(lambda: bytearray(b"x" * BIG)), rig.call(), out=[[key]])
    rig.wait_for(1)
    return file_of(rig, key)


def spoil(rig: Rig, file: Path, how: str) -> None:
    if how == "removed":
        file.unlink()
    elif how == "cut":
        with file.open("r+b") as opened:
            opened.truncate(BIG // 2)
    else:
        content = bytearray(file.read_bytes())
        content[BIG // 2] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("rig", "how"),
    [("memory", "removed"), ("memory", "cut"), ("disk", "removed"), ("disk", "cut"), ("disk", "damaged")],
    indirect=["rig"],
)
def test_a_task_whose_input_has_vanished_goes_back_and_the_object_is_told(rig: Rig, key: int, how: str) -> None:
    spoil(rig, made(rig, key), how)
    length = rig.function(len)
    rig.submit([2, 3], length, rig.call(inputs=1), inputs=[[key]] * 2)
    rig.wait(lambda: len({i for recalled in rig.heard("recalled") for i in recalled["attempt_ids"]}) == 2)
    assert [told["keys"] for told in rig.heard("vanished")] == [[key]]
    data = b"".join(bytes(s) for s in pickling.dumps(b"y" * BIG))
    rig.submit([4], length, rig.call(inputs=1), inputs=[[key]])
    rig.send_object(key, data)
    rig.wait_for(4)
    assert rig.result(4) == BIG


@pytest.mark.parametrize(
    ("rig", "how"),
    [("memory", "removed"), ("memory", "cut"), ("disk", "removed"), ("disk", "cut"), ("disk", "damaged")],
    indirect=["rig"],
)
def test_a_vanished_object_is_missing_when_it_is_fetched(rig: Rig, key: int, how: str) -> None:
    spoil(rig, made(rig, key), how)
    rig.send(messages.Fetch(key))
    rig.wait(lambda: rig.heard("missing") and rig.heard("vanished"))
    assert not rig.heard("stream_object")


@pytest.mark.parametrize("rig", ["disk"], indirect=True)
def test_an_object_that_arrives_on_the_disk_is_checked_too(rig: Rig, key: int) -> None:
    data = b"".join(bytes(s) for s in pickling.dumps(b"y" * BIG))
    rig.send_object(key, data)
    rig.wait(lambda: rig.heard("arrived"))
    assert rig.fetch(key) == data
    spoil(rig, file_of(rig, key), "damaged")
    rig.submit([2], rig.function(len), rig.call(inputs=1), inputs=[[key]])
    rig.wait(lambda: rig.heard("vanished"))


@pytest.mark.parametrize("rig", ["memory"], indirect=True)
def test_without_its_folder_in_memory_the_store_uses_the_disk(rig: Rig, key: int) -> None:
    shutil.rmtree(made(rig, key).parent)
    other = key + 1
    rig.submit([2], rig.function(lambda: bytearray(BIG)), rig.call(), out=[[other]])
    rig.wait_for(2)
    assert file_of(rig, other).is_relative_to(rig.folder)
    assert pickling.loads(rig.fetch(other)) == bytearray(BIG)
    third = key + 2
    rig.send_object(third, b"".join(bytes(s) for s in pickling.dumps(b"y" * BIG)))
    rig.wait(lambda: rig.heard("arrived"))
    assert file_of(rig, third).is_relative_to(rig.folder)


class Halves(Bytes):
    """An object whose second half comes only after `rest`."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.rest = False

    def read(self, offset: int, size: int) -> memoryview:
        return super().read(offset, size if self.rest else min(size, max(0, self.size // 2 - offset)))


@pytest.mark.parametrize("rig", ["memory"], indirect=True)
def test_an_object_whose_folder_is_removed_on_its_way_comes_again_onto_the_disk(rig: Rig, key: int) -> None:
    data = b"".join(bytes(s) for s in pickling.dumps(b"y" * BIG))
    source, length = Halves(data), rig.function(len)
    rig.submit([1], length, rig.call(inputs=1), inputs=[[key]])
    rig.send(messages.StreamObject(1, key, len(data)))
    rig.session.send_stream(1, source)

    def arriving() -> list[Path]:
        found = Path("/dev/shm").glob(f"handout-*/{key:x}.*.in")
        return [file for file in found if file.stat().st_size == source.size // 2]

    (file,) = rig.wait(arriving)
    shutil.rmtree(file.parent)
    source.rest = True
    rig.session.wake(1)
    rig.wait(lambda: rig.heard("vanished"))
    assert (rig.heard("vanished")[0]["keys"], rig.wait_for(1).fields["name"]) == ([key], "recalled")
    rig.submit([2], length, rig.call(inputs=1), inputs=[[key]])
    rig.send_stream(key, data)
    rig.wait_for(2)
    assert rig.result(2) == BIG
    assert file_of(rig, key).is_relative_to(rig.folder)
