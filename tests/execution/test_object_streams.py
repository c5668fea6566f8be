"""Objects that pass through the controller: where they come from, where they go, and what happens without room."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handout.errors import DamagedFileError
from handout.execution.shell import object_streams
from handout.execution.shell.object_streams import BytesSource, CheckedSource, Fetches, Gathered, Relay
from handout.execution.shell.run_objects import RunObjects, SpillFile
from handout.journal import checksums
from handout.journal.object_files import ObjectFile
from handout.protocol.frames import ProtocolError
from handout.protocol.session import Session


@given(st.lists(st.binary(max_size=30), max_size=6), st.data())
def test_segments_read_as_if_they_were_joined(segments: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(segments)
    source = BytesSource(list(segments))
    assert source.size == len(whole)
    for _ in range(5):  # at any offset, because a stream goes back after a reconnection
        offset = data.draw(st.integers(0, len(whole) + 2))
        got = bytes(source.read(offset, 7))
        assert got == whole[offset : offset + len(got)]
        assert got or offset >= len(whole)


def test_segments_of_any_type_count_in_bytes() -> None:
    source = BytesSource([memoryview(b"abcdefgh").cast("I"), bytearray(b"xy")])
    assert source.size == 10
    assert bytes(source.read(8, 5)) == b"xy"


class Outcome:
    """Records what a sink reports."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.in_file: list[bool] = []
        self.failed: list[bool] = []

    def done(self, data: Any, nbytes: int) -> None:
        self.in_file.append(isinstance(data, SpillFile))
        if isinstance(data, SpillFile):
            data = data.path.read_bytes()
        assert len(data) == nbytes
        self.got.append(bytes(data))


def fetch(fetches: Fetches, outcome: Outcome, room: RunObjects, key: int = 1) -> None:
    fetches.expect(key, Gathered(outcome.done, outcome.failed.append, room))


def test_an_object_is_gathered_from_its_pieces() -> None:
    fetches, outcome, room = Fetches(), Outcome(), RunObjects()
    fetch(fetches, outcome, room)
    fetches.announced(1, 5, 6)
    fetches.piece(5, b"abc", False)
    fetches.piece(5, b"def", True)
    fetches.piece(5, b"late", True)
    assert outcome.got == [b"abcdef"]
    assert outcome.in_file == [False]
    assert not fetches.arriving
    assert not fetches.waiting


def test_an_empty_object_comes_as_well() -> None:
    fetches, outcome = Fetches(), Outcome()
    fetch(fetches, outcome, RunObjects())
    fetches.announced(1, 5, 0)
    fetches.piece(5, b"", True)
    assert outcome.got == [b""]


def test_objects_that_arrive_at_once_share_the_memory_and_the_rest_go_to_files() -> None:
    fetches, outcome, room = Fetches(), Outcome(), RunObjects(max_memory=10)
    for key in (1, 2, 3):
        fetch(fetches, outcome, room, key)
        fetches.announced(key, key, 6)
    for key in (1, 2, 3):
        fetches.piece(key, b"abcdef", True)
    assert outcome.in_file == [False, True, True]
    assert outcome.got == [b"abcdef"] * 3
    assert room.memory_left == 10


def test_memory_is_given_back_when_an_object_does_not_come() -> None:
    fetches, outcome, room = Fetches(), Outcome(), RunObjects(max_memory=10)
    fetch(fetches, outcome, room)
    fetches.announced(1, 5, 8)
    assert room.memory_left == 2
    fetches.lost()
    assert room.memory_left == 10
    assert outcome.failed == [False]


def test_what_the_host_does_not_have_is_told_apart_from_what_was_lost_with_it() -> None:
    fetches, outcome, room = Fetches(), Outcome(), RunObjects()
    fetch(fetches, outcome, room, 1)
    fetch(fetches, outcome, room, 2)
    fetches.missing(1)
    fetches.lost()
    fetches.missing(2)
    assert outcome.failed == [True, False]


def test_requests_of_one_key_are_answered_in_turn() -> None:
    fetches, first, second, room = Fetches(), Outcome(), Outcome(), RunObjects()
    fetch(fetches, first, room)
    fetch(fetches, second, room)
    fetches.announced(1, 5, 1)
    fetches.missing(1)
    fetches.piece(5, b"x", True)
    assert (first.got, second.failed) == ([b"x"], [True])


@pytest.mark.parametrize("pieces", [[b"abcdefg"], [b"abc"], [b"abcdef", b"g"]])
def test_an_object_of_another_size_than_announced_is_nonsense(pieces: list[bytes]) -> None:
    fetches, outcome = Fetches(), Outcome()
    fetch(fetches, outcome, RunObjects())
    fetches.announced(1, 5, 6)
    *first, last = pieces
    for piece in first:
        fetches.piece(5, piece, False)
    with pytest.raises(ProtocolError, match="6 bytes"):
        fetches.piece(5, last, True)


class Full:
    """A sink on a full disk. The method whose name is `fails_at` raises."""

    def __init__(self, fails_at: str) -> None:
        self.fails_at = fails_at
        self.failed: list[bool] = []

    def _step(self, name: str) -> None:
        if name == self.fails_at:
            raise OSError(28, "No space left on device")

    def begin(self, size: int) -> None:
        self._step("begin")

    def write(self, data: Any) -> None:
        self._step("write")

    def end(self) -> None:
        self._step("end")

    def fail(self, missing: bool) -> None:
        self.failed.append(missing)


@pytest.mark.parametrize("where", ["begin", "write", "end"])
def test_a_full_disk_fails_the_object_and_not_the_conversation(where: str) -> None:
    fetches, sink, outcome = Fetches(), Full(where), Outcome()
    fetches.expect(1, sink)
    fetch(fetches, outcome, RunObjects(), 2)
    fetches.announced(1, 1, 3)
    fetches.announced(2, 2, 3)
    fetches.piece(1, b"abc", True)
    fetches.piece(2, b"abc", True)
    assert sink.failed == [False]
    assert outcome.got == [b"abc"]
    assert not fetches.arriving


def relay() -> tuple[Relay, list[str]]:
    story: list[str] = []

    def start(relay: Relay) -> Callable[[], None]:
        relay.on_more = lambda: story.append("more")
        story.append(f"start {relay.size}")

        def stop() -> None:
            story.append("stop")
            relay.close()

        return stop

    return Relay(start, lambda missing: story.append(f"failed {missing}")), story


def test_a_relayed_object_can_be_read_while_it_arrives_and_again() -> None:
    made, story = relay()
    made.begin(6)
    assert bytes(made.read(0, 10)) == b""
    made.write(memoryview(b"abc"))
    assert bytes(made.read(0, 10)) == b"abc"
    made.write(b"def")
    assert bytes(made.read(2, 3)) == b"cde"
    assert bytes(made.read(0, 6)) == b"abcdef"
    made.end()
    made.close()
    assert story == ["start 6", "more", "more", "more"]


async def test_a_relayed_object_that_is_damaged_in_its_file_does_not_arrive() -> None:
    made, story = relay()
    made.begin(6)
    made.write(b"abcdef")
    made._file.seek(4)
    made._file.write(b"X")
    made.end()
    assert bytes(made.read(0, 3)) == b"abc"
    assert [bytes(made.read(3, 3)) for _ in range(2)] == [b"", b""]
    await asyncio.sleep(0)
    assert story == ["start 6", "more", "more", "stop", "failed False"]


async def test_a_damaged_file_of_the_controller_is_not_sent_to_its_end(tmp_path: Path) -> None:
    whole, damaged = b"0123456789", b"012345678X"
    told: list[str] = []
    digest = checksums.of_object([whole])
    good = CheckedSource(file_of(tmp_path / "good", whole, digest), lambda error: told.append("good"))
    assert [bytes(good.read(at, 4)) for at in (0, 4, 0, 4, 8, 8)] == [b"0123", b"4567", b"0123", b"4567", b"89", b"89"]
    bad = CheckedSource(file_of(tmp_path / "bad", damaged, digest), lambda error: told.append("bad"))
    assert [bytes(bad.read(at, 4)) for at in (0, 4, 8, 8, 0)] == [b"0123", b"4567", b"", b"", b""]
    assert told == []
    await asyncio.sleep(0)
    assert told == ["bad"]


async def test_a_file_that_is_shortened_while_it_is_sent_is_damaged_and_kills_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    file = file_of(tmp_path / "cut", b"0123456789")
    source = CheckedSource(file, lambda error: told.append("cut"))
    assert source.read(0, 4) == b"0123"
    os.truncate(tmp_path / "cut", 6)
    assert [source.read(at, 4) for at in (4, 4)] == [b"", b""]
    await asyncio.sleep(0)
    assert told == ["cut"]


async def test_a_file_that_vanished_before_its_first_read_is_told_with_the_reason(tmp_path: Path) -> None:
    told: list[DamagedFileError | OSError] = []
    source = CheckedSource(file_of(tmp_path / "gone", b"0123456789"), told.append)
    (tmp_path / "gone").unlink()
    assert [bytes(source.read(0, 4)) for _ in range(2)] == [b"", b""]
    await asyncio.sleep(0)
    (error,) = told
    assert "the file cannot be read (No such file or directory)" in str(error)


async def test_files_that_wait_to_be_sent_are_not_open(tmp_path: Path) -> None:
    """A task with a thousand large inputs needs no thousand descriptors, although their streams take turns."""
    session = Session(heartbeat_s=1.0, now=0.0)
    session.attach({}, 0.0)
    data = bytes(40_000)
    before = len(os.listdir("/proc/self/fd"))
    told: list[DamagedFileError | OSError] = []
    for number in range(300):
        session.send_stream(number, CheckedSource(file_of(tmp_path / str(number), data), told.append))
    assert len(os.listdir("/proc/self/fd")) == before
    sent = 0
    while session.has_output:
        sent += sum(len(segment) for segment in session.take(0.0))
        assert len(os.listdir("/proc/self/fd")) == before
        session.credit.acknowledged = session.credit.sent
    assert sent > 300 * len(data)
    assert told == []


async def test_an_object_waits_while_no_file_can_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_streams, "PAUSE_S", 0)
    told: list[DamagedFileError | OSError] = []
    source = CheckedSource(file_of(tmp_path / "late", b"0123456789"), told.append)
    more = asyncio.Event()
    source.on_more = more.set
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert bytes(source.read(0, 4)) == b""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await more.wait()
    assert [bytes(source.read(at, 4)) for at in (0, 4, 8)] == [b"0123", b"4567", b"89"]
    assert told == []


def file_of(path: Path, data: bytes, digest: str | None = None) -> ObjectFile:
    path.write_bytes(data)
    return ObjectFile(path, len(data), digest or checksums.of_object([data]))


@pytest.mark.parametrize("data", [b"abc", b"abcdefg"])
def test_a_relayed_object_of_another_size_than_announced_is_refused(data: bytes) -> None:
    """Otherwise the host that gets the object would wait for the rest for ever."""
    fetches = Fetches()
    made, story = relay()
    fetches.expect(5, made)
    fetches.announced(5, 1, 6)
    with pytest.raises(ProtocolError, match="an object of 6 bytes"):
        fetches.piece(1, data, True)
    fetches.lost()
    assert story[-2:] == ["stop", "failed False"]


def test_a_relay_whose_giver_is_lost_ends_what_it_had_begun_to_send() -> None:
    made, story = relay()
    made.begin(6)
    made.write(b"abc")
    made.fail(False)
    assert story == ["start 6", "more", "stop", "failed False"]


def test_a_relay_that_never_began_is_closed_and_told() -> None:
    made, story = relay()
    made.fail(True)
    made.write(b"late")
    assert story == ["failed True"]


def test_a_large_relay_leaves_no_file_behind() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir())) if os.path.exists("/proc/self/fd") else 0

    before = open_files()
    made, _ = relay()
    made.begin(10 << 20)
    made.write(bytes(10 << 20))
    assert bytes(made.read(9 << 20, 4)) == bytes(4)
    made.fail(False)
    assert open_files() == before


def test_results_that_arrive_in_files_hold_no_descriptors() -> None:
    fetches, outcome, room = Fetches(), Outcome(), RunObjects(max_memory=10)
    room.new_file().remove()  # makes the folder, whose lock has a descriptor
    before = len(os.listdir("/proc/self/fd"))
    for key in range(300):
        fetch(fetches, outcome, room, key)
        fetches.announced(key, key, 200_000)
        fetches.piece(key, bytes(100_000), False)
    assert len(os.listdir("/proc/self/fd")) == before
    for key in range(300):
        fetches.piece(key, bytes([key % 251]) * 100_000, True)
    assert outcome.in_file == [True] * 300
    assert outcome.got == [bytes(100_000) + bytes([key % 251]) * 100_000 for key in range(300)]
