"""Which tasks start, and which inputs the agent sends along with them."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path
from typing import NoReturn, cast

import pytest

from handout.host.agent.dispatcher import _RESERVE_S, Dispatcher
from handout.host.agent.object_store import ObjectStore, StoreFullError
from handout.host.agent.task_queue import QUEUED, READY, QueuedTask, TaskClassQueue, TaskQueue
from handout.host.agent.worker_pool import WorkerHandle, WorkerKey, WorkerPool
from handout.protocol import messages
from handout.protocol.messages import INLINE
from handout.protocol.resource_ledger import PARTS, Ledger
from tests.host.doubles import Nothing, new_page


class Workers(Nothing):
    """A pool whose workers are handles without processes."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: dict[int, WorkerHandle] = {}
        self.has_idle = False
        self.warm: list[WorkerHandle] = []

    def acquire(self, key: WorkerKey, *_: object) -> WorkerHandle:
        number = len(self.workers) + 1
        worker = self.workers[number] = WorkerHandle(number, cast(socket.socket, Nothing()), new_page(), b"")
        worker.key = key
        return worker


class Refusing:
    """A function that raises an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *_: object) -> NoReturn:
        raise self.error


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(None, str(tmp_path))


def test_on_a_full_disk_small_inputs_go_along_with_their_task(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk with room, the agent would write many of these inputs to files instead."""

    def refuse(fd: int, data: object, offset: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    async def main() -> None:
        queue = TaskQueue(store.__contains__)
        dispatcher = Dispatcher(queue, Ledger({}), store, cast(WorkerPool, Nothing()), {})
        keys = list(range(200))
        for key in keys:
            store.put(key, bytes(INLINE))
        task = QueuedTask(1, 1, TaskClassQueue(messages.NewTaskClass(1, {})), b"", keys, [], 1, "t", 1, 0)
        monkeypatch.setattr("handout.host.agent.object_store.os.pwrite", refuse)
        assert dispatcher._inputs([task])[0] == keys
        with pytest.raises(StoreFullError):
            store.path(5)
        assert store.small(5) == bytes(INLINE)

    asyncio.run(main())


def test_a_class_whose_tasks_start_keeps_no_later_class_waiting(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a task that waits for long keeps later tasks from its host, and each task that starts ends such a wait."""
    clock = 0.0

    def queued(number: int, task_class: TaskClassQueue) -> QueuedTask:
        return QueuedTask(number, 1, task_class, b"", [], [], 1, "t", 1, 0)

    async def main() -> None:
        nonlocal clock
        queue, pool = TaskQueue(store.__contains__), Workers()
        dispatcher = Dispatcher(queue, Ledger({"cpu": PARTS, "disk": PARTS}), store, cast(WorkerPool, pool), {1: b""})
        often, late = (
            TaskClassQueue(messages.NewTaskClass(number, {name: PARTS})) for number, name in ((1, "cpu"), (2, "disk"))
        )
        first, second, third = (queued(number, often) for number in (1, 2, 3))
        for task in (first, second, third):
            queue.add(task)
        dispatcher._start_ready()
        assert [task.state for task in (first, second, third)] == [QUEUED, READY, READY]
        worker = pool.workers[1]
        clock = 2 * _RESERVE_S
        worker.queued.clear()
        dispatcher.forget(worker, first)
        dispatcher.release(worker)
        dispatcher._start_ready()
        last = queued(4, late)
        queue.add(last)
        dispatcher._start_ready()
        assert [task.state for task in (second, third, last)] == [QUEUED, READY, QUEUED]

    monkeypatch.setattr("handout.host.agent.dispatcher.now", lambda: clock)
    asyncio.run(main())


def test_a_class_whose_waiting_tasks_were_all_recalled_does_not_wait_any_more(store: ObjectStore) -> None:
    queue, task_class = TaskQueue(store.__contains__), TaskClassQueue(messages.NewTaskClass(1, {}))
    task = QueuedTask(1, 1, task_class, b"", [], [], 1, "t", 1, 0)
    queue.add(task)
    task_class.blocked_since = 5.0
    assert queue.heads() == [(task.order, task_class)]
    queue.end(task)  # as when the task is recalled
    assert queue.heads() == []
    assert task_class.blocked_since is None


def test_a_bundle_that_finds_no_room_fails_its_tasks_and_keeps_no_others_waiting(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        store.put(3, b"a bundle")
        queue, pool = TaskQueue(store.__contains__), Workers()
        dispatcher = Dispatcher(queue, Ledger({}), store, cast(WorkerPool, pool), {1: b""})
        failed: list[tuple[TaskClassQueue, StoreFullError]] = []
        dispatcher.on_no_room = lambda task_class, error: failed.append((task_class, error))
        full = StoreFullError("/full", 100, 0, "0 bytes are free")
        monkeypatch.setattr(store, "path", Refusing(full))
        bundled, plain = (
            TaskClassQueue(messages.NewTaskClass(number, {}, bundle=bundle)) for number, bundle in ((1, 3), (2, None))
        )
        tasks = [QueuedTask(n, 1, each, b"", [], [], 1, "t", 1, 0) for n, each in ((1, bundled), (2, plain))]
        for task in tasks:
            queue.add(task)
        dispatcher._start_ready()
        assert failed == [(bundled, full)]
        assert tasks[1].state == QUEUED

    asyncio.run(main())
