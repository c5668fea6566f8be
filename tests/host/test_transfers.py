"""Objects that are given up on their way to a host, or that are sent twice."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from handout.host.agent.object_store import Incoming, ObjectStore, StoreFullError
from handout.host.agent.transfers import Transfers
from handout.protocol import messages
from handout.protocol.frames import Piece
from handout.protocol.messages import INLINE


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
    descriptor, write = incoming._fd, os.write

    def short_write(fd: int, data: memoryview) -> int:
        if failure is not None:
            raise OSError(failure, os.strerror(failure))
        return write(fd, data[:1])

    monkeypatch.setattr(os, "write", short_write)
    if failure is None:
        incoming.finish()
        outgoing = store.open(7)
        assert outgoing.check()
        outgoing.close()
    else:
        with pytest.raises(StoreFullError):
            incoming.finish()
        assert (7 in store, os.listdir(tmp_path)) == (False, [])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


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
    incoming, write, full = Incoming(store, 7, INLINE * 2), os.write, [False]
    incoming.write(b"ab" * (INLINE // 2))

    def short_write(fd: int, data: memoryview) -> int:
        if not full[0]:
            full[0] = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[:5_000])

    monkeypatch.setattr(os, "write", short_write)
    incoming.write(b"cd" * (INLINE // 2))
    incoming.finish()
    outgoing = store.open(7)
    assert outgoing.check()
    outgoing.close()
