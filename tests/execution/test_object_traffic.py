"""How objects leave the controller: in messages or as streams, and what happens while too many files are open."""

from __future__ import annotations

import asyncio
import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest

from handout.execution.shell import object_streams
from handout.execution.shell.object_streams import CheckedSource
from handout.execution.shell.object_traffic import ObjectTraffic
from handout.execution.shell.run_objects import RunObjects
from handout.protocol.messages import INLINE
from handout.scheduler import commands as do
from handout.scheduler import events as ev
from handout.scheduler.run_spec import CONTROLLER


class Scene:
    """A run whose results are all in files, and a host that gets them."""

    def __init__(self, sizes: list[int]) -> None:
        self.posted: list[ev.Event] = []
        self.blobs: dict[int, bytes] = {}
        self.streams: dict[int, CheckedSource] = {}
        self.stopped: list[int] = []
        objects = RunObjects(max_memory=0)
        for number, size in enumerate(sizes):
            objects.put_new(number, bytes([number]) * size)
        self.run: Any = SimpleNamespace(
            number=7,
            base=0,
            objects=objects,
            suspects={},
            has_waited_for_files=False,
            ids=["f"],
            spec=SimpleNamespace(producer=[0]),
        )
        conversation = SimpleNamespace(send_object=self._send_object, stop_object=self.stopped.append)
        agent: Any = SimpleNamespace(name="far", conversation=conversation, put_many=self._put_many)
        core: Any = None
        self._traffic = ObjectTraffic({7: self.run}, {"far": agent}, core, self.posted.append)
        self.copy(len(sizes))

    def copy(self, count: int) -> None:
        """Have the first objects of the run copied to the host."""
        self._traffic.copy(do.CopyObjects("far", 7, list(range(count)), [CONTROLLER] * count))

    def _send_object(self, key: int, source: CheckedSource) -> int:
        self.streams[key] = source
        return key

    def _put_many(self, keys: list[int], blobs: list[bytes]) -> None:
        self.blobs.update(zip(keys, blobs, strict=True))


def no_file_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no file be opened for reading."""
    opens = os.open

    def lacking(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) == 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return opens(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", lacking)


async def test_small_results_in_files_travel_together_and_large_ones_as_streams() -> None:
    """A stream for each of thousands of small results would cost a round trip each."""
    scene = Scene([10, INLINE, INLINE + 1])
    assert scene.blobs == {0: bytes(10), 1: b"\1" * INLINE}
    assert scene.streams.keys() == {2}
    assert scene.posted == [ev.ObjectsStored("far", 7, [0, 1], [10, INLINE])]


async def test_small_results_wait_as_streams_while_too_many_files_are_open(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched:
        no_file_opens(patched)
        scene = Scene([10, 20])
        assert [bytes(source.read(0, 30)) for source in scene.streams.values()] == [b"", b""]
    assert [bytes(source.read(0, 30)) for source in scene.streams.values()] == [bytes(10), b"\1" * 20]
    assert scene.blobs == {}
    assert scene.posted == []
    (message,) = caplog.messages  # one for the run, and not one for each object
    assert "too many open files" in message
    assert "`ulimit -n`" in message


async def test_a_copy_fails_if_too_many_files_stay_open_and_the_result_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The core tries the copy again a few times, and then ends the task with an error. It does not wait for ever."""
    monkeypatch.setattr(object_streams, "PAUSE_S", 0)
    monkeypatch.setattr(object_streams, "TRIES", 4)
    no_file_opens(monkeypatch)
    scene = Scene([10])
    (source,) = scene.streams.values()
    reads = []

    def more() -> None:
        reads.append(bytes(source.read(0, 10)))

    source.on_more = more
    more()
    for _ in range(20):
        await asyncio.sleep(0)
    assert scene.posted == [ev.CopyFailed("far", 7, 0, CONTROLLER, missing=False)]
    assert reads == [b""] * 4
    assert scene.stopped == [0]
    assert 0 in scene.run.objects


async def test_a_small_result_whose_file_vanished_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene([])
    objects = scene.run.objects
    objects.put_new(0, b"x" * 10)
    objects.file(0).path.unlink()
    scene.copy(1)
    scene.streams[0].read(0, 10)
    await asyncio.sleep(0)
    assert scene.posted == [ev.CopyFailed("far", 7, 0, CONTROLLER, missing=True)]
    assert 0 not in objects
    assert "The result of task 'f' is made again" in caplog.text
