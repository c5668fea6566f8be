"""Objects on a host: tasks make and map them, and the controller sends and fetches them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from handout.protocol import messages
from handout.serialization import calls, pickling
from tests.host.rig import Rig

BIG = 3 << 20


def blob_of(value: object) -> bytes:
    return b"".join(bytes(s) for s in pickling.dumps(value))


def test_a_large_result_stays_and_is_fetched(rig: Rig) -> None:
    done = rig.run(lambda: bytearray(b"x" * BIG)).fields
    assert done["inline_sizes"] == [[-1]]
    assert done["sizes"][0][0] > BIG
    assert pickling.loads(rig.fetch(1)) == bytearray(b"x" * BIG)


def test_a_consumer_maps_a_large_result_and_changes_only_its_own_copy(rig: Rig) -> None:
    def change(data: bytearray) -> int:
        data[0] = 0
        return data[0] + data[1]

    rig.run(lambda: bytearray(b"\x01" * BIG))
    fn = rig.function(change)
    rig.submit([2, 3], fn, rig.call(inputs=1), inputs=[[1], [1]])
    rig.wait_for(2, 3)
    assert (rig.result(2), rig.result(3)) == (1, 1)


def test_a_task_that_changes_a_small_argument_changes_only_its_own_copy(rig: Rig) -> None:
    def append(items: list[int]) -> list[int]:
        items.append(1)
        return items

    rig.submit([1], rig.function(lambda: []), rig.call())
    rig.submit([2, 3, 4], rig.function(append), rig.call(inputs=1), inputs=[[1]] * 3)
    rig.wait_for(2, 3, 4)
    assert [rig.result(k) for k in (2, 3, 4)] == [[1]] * 3


def test_an_object_arrives_as_a_stream_and_wakes_the_task_that_waits_for_it(rig: Rig) -> None:
    rig.submit([1], rig.function(len), rig.call(inputs=1), inputs=[[50]])
    rig.send_object(50, blob_of(b"y" * BIG))
    rig.wait_for(1)
    assert rig.result(1) == BIG


def test_small_objects_come_in_messages(rig: Rig) -> None:
    data = blob_of([1, 2, 3])
    rig.send(messages.Objects([50], [len(data)]), [data])
    rig.submit([1], rig.function(sum), rig.call(inputs=1), inputs=[[50]])
    rig.wait_for(1)
    assert rig.result(1) == 6
    assert rig.fetch(50) == data


def test_a_task_that_waits_for_an_object_from_elsewhere_and_a_task_here(rig: Rig) -> None:
    rig.submit([1], rig.function(lambda: 4), rig.call())
    rig.submit([2], rig.function(lambda a, b: a + b), rig.call(inputs=2), inputs=[[1, 50]])
    rig.wait_for(1)
    rig.send_object(50, blob_of(5))
    rig.wait_for(2)
    assert rig.result(2) == 9


def test_picks_are_objects_of_their_own(rig: Rig) -> None:
    def make() -> dict[str, object]:
        return {"small": 1, "large": bytearray(BIG)}

    blob = b"".join(calls.dumps_call((), {}, [(("item", "small"),), (("item", "large"),)], lambda _: None))  # type: ignore[arg-type]
    rig.submit([1], rig.function(make), blob, out=[[-1, 101, 102]])
    done = rig.wait_for(1).fields
    assert done["sizes"][0][0] == -1
    assert rig.result(101) == 1
    assert len(pickling.loads(rig.fetch(102))) == BIG


def test_a_dropped_object_is_gone(rig: Rig) -> None:
    rig.run(lambda: bytes(BIG))
    rig.send(messages.Drop([1]))
    rig.send(messages.Fetch(1))
    rig.wait(lambda: rig.heard("missing"))
    assert [f["key"] for f in rig.heard("missing")] == [1]


def test_beyond_its_memory_a_host_writes_results_to_disk(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(store_limit=BIG)
    fn = rig.function(lambda x: bytearray([x]) * BIG)
    for i in range(1, 5):
        rig.submit([i], fn, rig.call(i))
        rig.wait_for(i)
    on_disk = [p for p in (Path(rig.folder) / "objects").iterdir() if p.stat().st_size > BIG]
    assert len(on_disk) == 3
    rig.submit([9], rig.function(lambda *parts: sum(len(p) for p in parts)), rig.call(inputs=4), inputs=[[1, 2, 3, 4]])
    rig.wait_for(9)
    assert rig.result(9) == 4 * BIG
    assert pickling.loads(rig.fetch(4)) == bytearray([4]) * BIG


def test_many_large_streams_both_ways_at_once(rig: Rig) -> None:
    data = os.urandom(20 << 20)
    rig.send_object(50, data)
    assert rig.fetch(50) == data
