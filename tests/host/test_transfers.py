"""Objects that are given up on their way, that are sent twice, or that are very many."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from handout.host.agent.object_store import Incoming, ObjectStore, StoreFullError
from handout.host.agent.transfers import Transfers
from handout.host.worker.objects import file_name
from handout.protocol import messages
from handout.protocol.frames import Piece
from handout.protocol.messages import INLINE
from handout.protocol.session import Source


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))[:-1]  # without that of the listing itself


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(None, str(tmp_path))


@pytest.fixture
def stored() -> list[int]:
    return []


@pytest.fixture
def transfers(store: ObjectStore, stored: list[int]) -> Transfers:
    return Transfers(store, stored.append, lambda key, error: None, lambda keys: None)


@pytest.mark.parametrize("how", ["drop", "stop"])
@pytest.mark.parametrize("size", [10, INLINE * 2])
def test_an_object_given_up_on_its_way_leaves_nothing(
    transfers: Transfers, store: ObjectStore, stored: list[int], tmp_path: Path, how: str, size: int
) -> None:
    transfers.announce(messages.StreamObject(1, 7, size))
    transfers.receive(Piece(1, 0, b"abc", 0, False))
    if how == "drop":
        transfers.drop([7, 8])
    else:
        transfers.stop(1)
    transfers.receive(Piece(1, 3, bytes(size - 3), 0, True))
    assert (7 in store, stored, os.listdir(tmp_path), transfers._incoming) == (False, [], [], {})


def test_the_store_takes_an_object_that_comes_again(
    transfers: Transfers, store: ObjectStore, stored: list[int]
) -> None:
    transfers.announce(messages.StreamObject(1, 7, 10))
    transfers.drop([7])
    transfers.announce(messages.StreamObject(2, 7, 10))
    transfers.receive(Piece(2, 0, bytes(10), 0, True))
    assert stored == [7]
    assert store.size(7) == 10


@pytest.mark.parametrize("failure", [None, errno.ENOSPC])
def test_the_checksum_of_a_file_is_written_whole_or_the_object_found_no_room(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: int | None
) -> None:
    incoming = Incoming(store, 7, INLINE * 2)
    incoming.write(bytes(INLINE * 2))
    descriptors, write = open_files(), os.pwrite

    def short_write(fd: int, data: memoryview, offset: int) -> int:
        if failure is not None:
            raise OSError(failure, os.strerror(failure))
        return write(fd, data[:1], offset)

    monkeypatch.setattr(os, "pwrite", short_write)
    if failure is None:
        incoming.finish()
        outgoing = store.open(7)
        assert outgoing.check()
        outgoing.close()
    else:
        with pytest.raises(StoreFullError):
            incoming.finish()
        assert (7 in store, os.listdir(tmp_path)) == (False, [])
    assert open_files() == descriptors


def test_an_object_whose_file_cannot_be_completed_stays_in_memory(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(7, b"abc")

    def refuse(self: Incoming) -> None:
        raise StoreFullError("/full", 3, 0, "0 bytes are free")

    monkeypatch.setattr(Incoming, "finish", refuse)
    with pytest.raises(StoreFullError):
        store.path(7)
    assert (store.small(7), store.small_bytes) == (b"abc", 3)


def test_a_file_that_moves_to_the_disk_in_short_writes_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    store = ObjectStore(str(memory), str(disk), 1 << 30)
    incoming, write, full = Incoming(store, 7, INLINE * 2), os.pwrite, [False]
    incoming.write(b"ab" * (INLINE // 2))

    def short_write(fd: int, data: memoryview, offset: int) -> int:
        if not full[0]:
            full[0] = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[:5_000], offset)

    monkeypatch.setattr(os, "pwrite", short_write)
    incoming.write(b"cd" * (INLINE // 2))
    incoming.finish()
    outgoing = store.open(7)
    assert outgoing.check()
    outgoing.close()


@pytest.mark.parametrize("how", ["removed", "removed before the end", "cut", "without a disk"])
def test_an_object_whose_file_is_removed_on_its_way_has_vanished_and_can_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: list[int], how: str
) -> None:
    memory, disk, write = tmp_path / "memory", tmp_path / "disk", os.pwrite
    memory.mkdir()
    store = ObjectStore(str(memory), str(disk), 1 << 30)
    refused: list[int] = []
    transfers = Transfers(store, stored.append, lambda key, error: refused.append(key), lambda keys: None)
    transfers.announce(messages.StreamObject(1, 7, INLINE * 2))
    transfers.receive(Piece(1, 0, bytes(INLINE), 0, False))

    def full(fd: int, data: memoryview, offset: int) -> int:
        monkeypatch.setattr(os, "pwrite", write)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if how == "cut":
        (file,) = memory.iterdir()
        os.truncate(file, INLINE // 2)
        monkeypatch.setattr(os, "pwrite", full)
    elif how == "removed before the end":
        transfers.receive(Piece(1, INLINE, bytes(INLINE - 1), 0, False))
        shutil.rmtree(memory)
        transfers.receive(Piece(1, INLINE * 2 - 1, b"\0", 0, True))
    else:
        shutil.rmtree(memory)
    if how == "without a disk":
        disk.rmdir()
    if how != "removed before the end":
        transfers.receive(Piece(1, INLINE, bytes(INLINE), 0, True))
    assert (stored, refused, store.is_whole(7), list(tmp_path.rglob("*.in"))) == ([7], [], False, [])
    store.drop(7)
    assert store.file_bytes == 0
    transfers.announce(messages.StreamObject(2, 7, INLINE * 2))
    transfers.receive(Piece(2, 0, bytes(INLINE * 2), 0, True))
    if how == "without a disk":
        assert (stored, refused) == ([7], [7])
    else:
        assert (stored, refused, store.is_whole(7)) == ([7, 7], [], True)


def test_objects_that_arrive_at_one_time_hold_no_descriptors(
    transfers: Transfers, store: ObjectStore, stored: list[int]
) -> None:
    before = open_files()
    for key in range(300):
        transfers.announce(messages.StreamObject(key, key, INLINE * 2))
        transfers.receive(Piece(key, 0, bytes(INLINE), 0, False))
    assert open_files() == before
    for key in range(300):
        transfers.receive(Piece(key, INLINE, bytes(INLINE), 0, True))
    assert stored == list(range(300))
    assert all(map(store.is_whole, range(300)))


class Link:
    """Collects what an agent sends to the controller."""

    def __init__(self) -> None:
        self.session = self
        self.missing: list[int] = []
        self.streams: dict[int, Source] = {}

    def send(self, message: messages.Missing | messages.StreamObject) -> None:
        if isinstance(message, messages.Missing):
            self.missing.append(message.key)

    def send_stream(self, stream: int, source: Source) -> None:
        self.streams[stream] = source

    def schedule(self) -> None:
        pass


async def test_only_so_many_files_are_open_for_streams_to_the_controller(
    transfers: Transfers, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link: Any = Link()
    monkeypatch.setattr(transfers, "_max_files", 64)
    transfers.use(link)
    before = len(open_files())
    for key in range(300):
        store.put(key, key.to_bytes(2, "big") * INLINE)
        transfers.fetch(key)
    store.put(300, b"small")
    transfers.fetch(300)  # needs no file
    while len(link.streams) < 65:
        await asyncio.sleep(0)
    assert len(open_files()) == before + 64
    # The agent drops an object, and another program removes all other files that have not been opened.
    for key in range(150, 300):
        (tmp_path / file_name(key)).unlink()
    transfers.drop([299])
    store.drop(299)
    got = []
    while link.streams:
        source = link.streams.pop(next(iter(link.streams)))
        got.append(bytes(source.read(0, 2)))
        source.close()
        for _ in range(10):  # a stream begins in a later turn, once its file has been checked
            await asyncio.sleep(0)
    assert sorted(got) == sorted([*(key.to_bytes(2, "big") for key in range(150)), b"sm"])
    assert (len(open_files()), sorted(link.missing)) == (before, list(range(150, 300)))


def test_two_streams_of_one_object_do_not_disturb_each_other(
    transfers: Transfers, store: ObjectStore, stored: list[int], tmp_path: Path
) -> None:
    for stream in (1, 2):
        transfers.announce(messages.StreamObject(stream, 7, INLINE * 2))
        transfers.receive(Piece(stream, 0, b"a" * INLINE, 0, False))
    for stream in (1, 2):
        transfers.receive(Piece(stream, INLINE, b"b" * INLINE, 0, True))
    assert stored == [7, 7]
    assert store.is_whole(7)
    assert os.listdir(tmp_path) == [file_name(7)]
