"""Objects that are given up on their way to a host, or that are sent twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handout.host.agent.object_store import ObjectStore
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
