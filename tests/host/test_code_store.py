"""Code that the controller has released: the agent and its workers keep it while a task needs it, and then drop it."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from handout.protocol import messages
from handout.protocol.resource_ledger import PARTS
from tests.host.rig import Bytes, Rig, alive
from tests.seen import resident_bytes

#: Bytes of data in the closure of a function. Two new workers together take less, even if shared pages count twice.
SIZE = 60 << 20
#: The lowest key that an object of a run can have. Bundles have lower keys.
FIRST = 1 << 44


def large(number: int) -> Callable[[], int]:
    data = os.urandom(SIZE)
    return lambda: len(data) + number


def bundle(padding: int) -> bytes:
    """Return a source bundle without modules, with so many bytes that the zip does not compress."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            index = {"modules": [], "paths": {}, "executable": [], "extensions": [], "folders": []}
            archive.writestr("modules.json", json.dumps(index))
            archive.writestr("padding", os.urandom(padding))
        return file.getvalue()


def test_released_functions_are_gone_from_the_agent_and_its_workers(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(cpu=1)
    before = resident_bytes(rig.pid)
    for number in range(1, 6):
        fn = rig.function(large(number))
        rig.submit([number], fn, rig.call())
        rig.wait_for(number)
        assert rig.result(number) == SIZE + number
        rig.send(messages.Release([fn], [], []))
        rig.run(lambda: 0, attempt_id=100 + number)
    # The last function may still lie in buffers. More memory than that would mean that a released function was kept.
    rig.wait(lambda: resident_bytes(rig.pid) < before + 4 * SIZE)


def test_code_is_released_only_once_no_task_needs_it(rig: Rig, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    def wait() -> str:
        while not os.path.exists(gate):
            time.sleep(0.01)
        return "waited"

    rig.task_class(7, need={"cpu": 2 * PARTS})
    fn = rig.function(wait)
    rig.submit([1], fn, rig.call(), cls=7)
    rig.submit([2, 3, 4], fn, rig.call(), cls=7)
    rig.submit([5], fn, rig.call(inputs=1), cls=7, inputs=[[99]])
    rig.send(messages.Release([fn], [7], []))
    rig.wait(lambda: rig.heard("started"))
    time.sleep(1.2)  # in this time, the agent has checked again whether a task needs the code
    Path(gate).touch()
    rig.wait_for(1, 2, 3, 4)
    assert rig.result(4) == "waited"


def test_code_that_is_sent_again_while_it_is_being_released_stays(rig: Rig, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    def wait() -> int:
        while not os.path.exists(gate):
            time.sleep(0.01)
        return 1

    fn = rig.function(wait)
    rig.submit([1], fn, rig.call())
    rig.send(messages.Release([fn], [], []))
    rig._fn -= 1
    assert rig.function(wait) == fn
    Path(gate).touch()
    rig.wait_for(1)
    time.sleep(1.2)  # in this time, the agent has checked again whether a task needs the code
    rig.submit([2], fn, rig.call())
    rig.wait_for(2)
    assert rig.result(2) == 1


def test_a_released_bundle_leaves_the_store(rig: Rig) -> None:
    for key, data in ((3, b"x" * 100), (4, b"y" * (1 << 20))):
        if len(data) > messages.INLINE:
            rig.send_object(key, data)
        else:
            rig.send(messages.Objects([key], [len(data)]), [data])
        assert rig.fetch(key) == data
    rig.send(messages.Release([], [], [3, 4]))
    for key in (3, 4):
        rig.send(messages.Fetch(key))
    rig.wait(lambda: [f["key"] for f in rig.heard("missing")] == [3, 4])


def test_the_workers_of_a_released_bundle_end_because_they_hold_its_file(rig: Rig) -> None:
    workers = []
    for attempt_id, padding in ((1, 1 << 20), (2, 100)):  # a file of the store, then a file beside the small objects
        rig.send_object(3, bundle(padding))
        rig.task_class(attempt_id, bundle=3)
        rig.run(os.getpid, attempt_id=attempt_id, cls=attempt_id)
        workers.append(rig.result(attempt_id))
        rig.send(messages.Release([], [attempt_id], [3]))
        rig.wait(lambda: not alive(workers[-1]))
    assert workers[0] != workers[1]


def test_a_damaged_bundle_is_asked_for_again_and_at_last_a_failure_to_load(rig: Rig) -> None:
    rig.task_class(7, bundle=3)
    for attempt_id in range(1, 5):
        rig.send_object(3, b"not a zip file")
        told = rig.run(os.getpid, attempt_id=attempt_id, cls=7)
        rig.wait(lambda attempt_id=attempt_id: len(rig.heard("vanished")) == attempt_id)  # type: ignore[misc]
        assert told.fields["name"] == ("recalled" if attempt_id < 4 else "failed")
    assert told.fields["kind"] == "input"
    assert "not a zip file" in told.fields["message"]


def test_a_bundle_that_is_sent_again_while_it_still_arrives_is_whole(rig: Rig) -> None:
    """Both streams write to the same file. The first stream goes on after the second one was announced."""

    class Slow(Bytes):
        arrived = 1000

        def read(self, offset: int, size: int) -> memoryview:
            return super().read(offset, max(0, min(size, self.arrived - offset)))

    data = os.urandom(200_000)
    first, second = Slow(data), Slow(data)
    for stream, source in ((1, first), (2, second)):
        rig.send(messages.StreamObject(stream, 3, len(data)))
        rig.session.send_stream(stream, source)
        rig.pump()
        rig.pump()
    for stream, source in ((1, first), (2, second)):
        source.arrived = len(data)
        rig.session.wake(stream)
        rig.pump()
    rig.wait(lambda: rig.heard("arrived"))
    assert rig.fetch(3) == data


def test_a_controller_that_takes_over_uses_numbers_of_its_own_and_old_code_goes(rig: Rig, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    def wait() -> str:
        while not os.path.exists(gate):
            time.sleep(0.01)
        return "old"

    before = resident_bytes(rig.pid)
    rig.run(large(1), attempt_id=FIRST + 1)
    rig.submit([FIRST + 2], rig.function(wait), rig.call())
    rig.submit([FIRST + 3], rig._fn, rig.call(inputs=1), inputs=[[FIRST + 2]])
    rig.wait(lambda: rig.heard("started"))
    shift = rig.take_over()["shift"]
    assert shift == rig._fn
    rig.task_class(shift + 1)
    rig.run(lambda: "new", attempt_id=FIRST + 4, cls=shift + 1)
    assert rig.result(FIRST + 4) == "new"
    Path(gate).touch()
    rig.wait_for(FIRST + 2)
    assert rig.result(FIRST + 2) == "old"
    rig.wait(lambda: resident_bytes(rig.pid) < before + SIZE)


def test_a_task_whose_bundle_was_still_arriving_goes_back_to_a_controller_that_takes_over(rig: Rig) -> None:
    """The rest of the bundle never comes, so the task would wait forever on this agent."""
    rig.task_class(7, bundle=3)
    rig.send(messages.StreamObject(1, 3, 200_000))
    rig.submit([FIRST + 1], rig.function(lambda: 1), rig.call(), cls=7)
    rig.pump()
    rig.disconnect()
    time.sleep(0.3)
    assert rig.take_over()["attempt_ids"] == [FIRST + 1]
    assert rig.wait(lambda: rig.heard("recalled"))[0]["attempt_ids"] == [FIRST + 1]
