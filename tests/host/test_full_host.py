"""A host whose file system has no room for a result or an argument."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handout.serialization import pickling
from tests.host.disks import mounted
from tests.host.rig import Rig


@pytest.fixture
def small_disk() -> Iterator[str]:
    """Mount a file system of 8 MiB, and yield its folder."""
    with mounted("size=8m") as folder:
        yield folder


@pytest.fixture
def rig(small_disk: str) -> Iterator[Rig]:
    """Start the processes of a host that keeps its objects on the small disk."""
    made = Rig(base=small_disk, store_limit=0)
    made.task_class()
    try:
        yield made
        made.close()
    finally:
        made.kill()


def test_a_result_without_room_says_what_it_needed(rig: Rig) -> None:
    failed = rig.run(lambda: bytearray(20 << 20)).fields
    assert failed["kind"] == "disk"
    assert failed["argument"] is False
    assert failed["need"] > 20 << 20
    assert failed["free"] < 8 << 20
    assert failed["path"].startswith(rig.folder)
    rig.run(lambda: bytearray(2 << 20), attempt_id=2)
    assert pickling.loads(rig.fetch(2)) == bytearray(2 << 20)
    assert len([p for p in Path(rig.folder, "objects").iterdir() if p.is_file()]) == 1


def test_an_argument_without_room_fails_what_waits_for_it(rig: Rig) -> None:
    fn = rig.function(len)
    rig.submit([1], fn, rig.call(inputs=1), inputs=[[50]])
    rig.send_stream(50, bytes(20 << 20))
    assert rig.wait_for(1).fields["kind"] == "disk"
    assert rig.wait_for(1).fields["argument"] is True
    rig.submit([2], fn, rig.call(inputs=1), inputs=[[50]])
    assert rig.wait_for(2).fields["kind"] == "disk"
    rig.run(lambda: "alive", attempt_id=3)
    assert rig.result(3) == "alive"
