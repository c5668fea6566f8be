"""A connection writes bytes in pieces of a bounded size, and reports its end once."""

from __future__ import annotations

import pytest

from handout.transport.connection import Connection
from tests.transport.rig import Heard, Wire


@pytest.mark.parametrize(
    "sizes", [[], [0], [1, 0, 2], [64 << 10], [1, 64 << 10, 1], [65_535, 1, 1], [300 << 10], [1000] * 200]
)
async def test_segments_arrive_whole_in_writes_of_a_middling_size(sizes: list[int]) -> None:
    connection, wire = Connection(Heard()), Wire()
    connection.transport = wire
    segments = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
    connection.write(segments)
    assert b"".join(wire.written) == b"".join(segments)
    assert all(len(data) == 64 << 10 for data in wire.written[:-1])
    assert all(0 < len(data) <= 64 << 10 for data in wire.written)


async def test_the_first_end_counts_and_is_told_once() -> None:
    heard = Heard()
    connection = Connection(heard)
    first = OSError("the line is cut")
    connection.lost(first)
    connection.lost(None)
    assert heard.said == ["lost"]
    assert connection.error is first
    assert connection.closed.is_set()
    with pytest.raises(ConnectionResetError, match="the line is cut"):
        await connection.hello


async def test_an_end_after_the_answer_leaves_the_answer() -> None:
    connection = Connection(Heard())
    connection.hello.set_result({"agent": "a1"})
    connection.lost(None)
    assert await connection.hello == {"agent": "a1"}


async def test_a_full_connection_is_written_to_again_once_it_has_room() -> None:
    heard = Heard()
    connection = Connection(heard)
    connection.paused()
    assert connection.is_paused
    connection.resumed()
    assert not connection.is_paused
    assert heard.said == ["resumed"]


async def test_a_connection_that_never_opened_can_be_closed() -> None:
    Connection(Heard()).close()


async def test_a_closed_connection_is_lost_at_once_also_if_the_agent_never_confirms_it() -> None:
    heard = Heard()
    connection = Connection(heard)
    connection.transport = Wire()
    connection.close()
    connection.close()
    assert connection.closed.is_set()
    assert heard.said == ["lost"]
    assert connection.error is not None  # the agent has not closed it in an orderly way
