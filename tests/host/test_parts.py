"""Parts of the agent and of the worker on their own, in states that are rare in a whole."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from handout.host.agent import completion
from handout.host.agent.dispatcher import Dispatcher
from handout.host.agent.link import ControllerLink
from handout.host.agent.object_store import ObjectStore, StoreFullError
from handout.host.agent.output_capture import Logs
from handout.host.agent.result_sender import ResultSender
from handout.host.agent.task_queue import QUEUED, READY, QueuedTask, TaskClassQueue, TaskQueue
from handout.host.agent.transfers import Transfers
from handout.host.agent.worker_pool import WorkerHandle, WorkerPool
from handout.host.system import shared_page
from handout.host.system.cgroups import ControlGroups
from handout.host.system.oom_kills import OomKills
from handout.host.worker.objects import WorkerObjects
from handout.host.worker.worker import Worker
from handout.protocol import messages
from handout.protocol.frames import MAX_PAYLOAD, Piece
from handout.protocol.ledger import Ledger
from handout.protocol.messages import INLINE
from handout.serialization import diagnosis
from tests.patience import HANG_S


class Nothing:
    """Stands for a part that is called and does nothing; counts what it was asked to do."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.calls.append(name)


class Wire:
    """Stands for the link: keeps what is sent."""

    def __init__(self) -> None:
        self.calm: list[tuple[Any, int]] = []

    def send_calmly(self, message: Any, payload: list[bytes]) -> None:
        self.calm.append((message, sum(map(len, payload))))


def new_page() -> memoryview:
    page = memoryview(bytearray(4096)).cast("Q")
    page[shared_page.RECALLED_FROM] = shared_page.NEVER
    return page


@pytest.fixture
def handle() -> WorkerHandle:
    return WorkerHandle(1, cast(socket.socket, Nothing()), new_page(), b"")


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(None, str(tmp_path))


@pytest.fixture
def stored() -> list[int]:
    return []


@pytest.fixture
def transfers(store: ObjectStore, stored: list[int]) -> Transfers:
    return Transfers(store, stored.append, lambda key, error: None)


def make_completion(queue: TaskQueue) -> tuple[completion.Completion, Nothing]:
    dispatcher = Nothing()
    parts = cast(ResultSender, Nothing()), queue, cast(ObjectStore, Nothing()), cast(Dispatcher, dispatcher)
    return completion.Completion(*parts, cast(WorkerPool, Nothing()), OomKills()), dispatcher


def test_what_was_recalled_stays_so_until_the_worker_has_passed_it(handle: WorkerHandle) -> None:
    """The worker runs 4; 8 to 10 are recalled, then 12: the worker has not passed 8 to 10 yet."""

    async def main() -> None:
        completed = make_completion(TaskQueue(lambda key: False))[0]
        handle.page[shared_page.ANNOUNCED], handle.next_number = 4, 11
        completed.recall_from(handle, 8)
        completed._settle(handle)
        handle.next_number = 13
        completed.recall_from(handle, 12)
        assert (handle.page[shared_page.RECALLED_FROM], handle.page[shared_page.RECALLED_TO]) == (8, 12)
        completed._settle(handle)
        handle.page[shared_page.ANNOUNCED], handle.next_number = 12, 20
        completed.recall_from(handle, 15)
        assert handle.page[shared_page.RECALLED_FROM] == 15

    asyncio.run(main())


def test_what_was_queued_on_a_worker_that_cannot_be_killed_starts_elsewhere(handle: WorkerHandle) -> None:
    async def main() -> None:
        queue = TaskQueue(lambda key: False)
        cls = TaskClassQueue(messages.NewTaskClass(1, {}))
        task = QueuedTask(1, 1, cls, b"", [], [1], 1, "t", 1, 0)
        task.state, task.worker, handle.queued = QUEUED, handle, {1: task}
        end, dispatcher = make_completion(queue)
        end._give_up(handle)
        assert task.state == READY
        assert "schedule" in dispatcher.calls

    asyncio.run(main())


def test_a_worker_that_the_supervisor_killed_for_the_lease_is_no_tasks_fault(handle: WorkerHandle) -> None:
    """The controller said hello in that very moment: on this side the lease has never ended."""

    async def main() -> None:
        task = QueuedTask(1, 1, TaskClassQueue(messages.NewTaskClass(1, {})), b"", [], [1], 1, "t", 1, 0)
        task.state, task.worker, handle.queued = QUEUED, handle, {1: task}
        handle.page[shared_page.ANNOUNCED] = 1
        end, _ = make_completion(TaskQueue(lambda key: False))
        failed: list[str] = []
        end._fail = lambda task, kind, payload=(), **fields: failed.append(kind)  # type: ignore[method-assign]
        end.bury(handle, messages.WorkerGone(1, 9, 0, True))
        assert failed == ["host"]

    asyncio.run(main())


def test_no_message_is_over_the_limit_when_many_that_printed_end_at_once() -> None:
    async def main() -> None:
        wire, open_ = Wire(), False
        logs = Logs(lambda *_: None, lambda: open_)
        answers = ResultSender(cast(ControllerLink, wire), logs)
        data = memoryview(bytes(INLINE))
        for attempt_id in range(MAX_PAYLOAD // INLINE + 10):
            logs.add(attempt_id, 1, b"x\n")
            answers.done(attempt_id, 1, [INLINE], [INLINE], data)
        open_ = True
        answers.emit_loud()
        assert max(size for _, size in wire.calm) < MAX_PAYLOAD // 4
        attempt_ids = [t for message, _ in wire.calm for t in message.attempt_ids]
        assert attempt_ids == list(range(MAX_PAYLOAD // INLINE + 10))

    asyncio.run(main())


def test_a_result_made_again_counts_once(tmp_path: Path) -> None:
    objects = WorkerObjects([str(tmp_path)] * 2, ".w1")
    for _ in range(1000):
        objects.remember(1, bytes(INLINE))
    assert objects.get(1, {}) == bytes(INLINE)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    made = Worker(cast(socket.socket, Nothing()), new_page())
    made.objects = WorkerObjects([str(tmp_path)] * 2, ".w1")
    return made


def test_what_was_written_of_a_result_that_fails_is_removed(worker: Worker, tmp_path: Path) -> None:
    value = {"large": bytes(INLINE * 2), "lock": threading.Lock()}
    with pytest.raises(diagnosis.CannotPickleError):
        worker.encode(value, [(("item", "large"),), (("item", "lock"),)], [-1, 5, 6])
    assert os.listdir(tmp_path) == []


def test_results_of_one_task_ride_along_as_far_as_a_message_has_room(worker: Worker, tmp_path: Path) -> None:
    value = [bytes(60_000)] * 2000
    sizes, inline, _, payload = worker.encode(value, [(("item", i),) for i in range(2000)], [-1, *range(1, 2001)])
    assert sum(map(len, payload)) < MAX_PAYLOAD // 8
    assert inline.count(-1) - 1 == len(os.listdir(tmp_path)) > 1000
    assert min(sizes[1:]) > 60_000


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


def test_on_a_full_disk_small_inputs_go_along_with_their_task(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many of them would become files."""

    def refuse(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    async def main() -> None:
        queue = TaskQueue(store.__contains__)
        dispatcher = Dispatcher(queue, Ledger({}), store, cast(WorkerPool, Nothing()), {})
        keys = list(range(200))
        for key in keys:
            store.put(key, bytes(INLINE))
        task = QueuedTask(1, 1, TaskClassQueue(messages.NewTaskClass(1, {})), b"", keys, [], 1, "t", 1, 0)
        monkeypatch.setattr("handout.host.agent.object_store.os.write", refuse)
        assert dispatcher._inputs([task])[0] == keys
        with pytest.raises(StoreFullError):
            store.path(5)
        assert store.small(5) == bytes(INLINE)

    asyncio.run(main())


@pytest.mark.parametrize("number", [errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM])
def test_descriptors_that_cannot_be_sent_now_are_sent_later(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, refused = socket.send_fds, [number] * 3

    def send_fds(sock: socket.socket, buffers: list[bytes], fds: list[int]) -> int:
        if refused:
            raise OSError(refused.pop(), "not now")
        return send(sock, buffers, fds)

    async def main() -> None:
        monkeypatch.setattr(socket, "send_fds", send_fds)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pool = WorkerPool(ours, cast(Any, Nothing()), {}, str(tmp_path), ControlGroups({}))
            pool.prepare(1)
            pool.kill(pool.workers[1], 0.0)
            async with asyncio.timeout(HANG_S):
                while refused:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.3)
            theirs.setblocking(False)
            said, fds, _, _ = socket.recv_fds(theirs, 65536, 64)
            for fd in fds:
                os.close(fd)
            said += theirs.recv(65536)
            assert [json.loads(line)["m"] for line in said.splitlines()] == ["spawn", "kill"]
            assert len(fds) == 4
            pool._end(pool.workers[1], messages.WorkerGone(1))

    asyncio.run(main())


def test_a_supervisor_that_is_gone_is_not_written_to_again(tmp_path: Path) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        listener = Nothing()
        with ours:
            theirs.close()
            pool = WorkerPool(ours, cast(Any, listener), {}, str(tmp_path), ControlGroups({}))
            pool.prepare(1)
            await asyncio.sleep(0.01)
            assert listener.calls == ["on_orphaned"]
            assert not pool._unsent
            pool._end(pool.workers[1], messages.WorkerGone(1))

    asyncio.run(main())
