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
from handout.host.agent.worker_handle import WorkerHandle, WorkerKey
from handout.host.agent.worker_pool import WorkerPool
from handout.protocol import messages
from handout.protocol.messages import INLINE
from handout.protocol.resource_ledger import PARTS, Ledger
from tests.host.doubles import Nothing, new_page

GB = 10**9 * PARTS


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


class WarmWorkers(Workers):
    """A pool whose dismissed workers end when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.dismissed: list[WorkerHandle] = []

    def release(self, worker: WorkerHandle) -> None:
        if not worker.leaving and worker.warm:
            worker.idle = True
            self.warm.append(worker)

    def reuse(self, worker: WorkerHandle) -> None:
        worker.idle = False
        self.warm.remove(worker)

    def dismiss(self, worker: WorkerHandle) -> None:
        self.reuse(worker)
        worker.leaving = True
        self.dismissed.append(worker)


class WarmScene:
    """A dispatcher, and tasks that end as soon as the test says so."""

    def __init__(self, store: ObjectStore, amounts: dict[str, int], devices: list[int]) -> None:
        self.queue, self.pool = TaskQueue(store.__contains__), WarmWorkers()
        self.ledger = Ledger(amounts, devices)
        self.dispatcher = Dispatcher(self.queue, self.ledger, store, cast(WorkerPool, self.pool), {1: b""})
        self.count = 0

    def task_class(self, need: dict[str, int], *warm: str) -> TaskClassQueue:
        self.count += 1
        return TaskClassQueue(messages.NewTaskClass(self.count, need, warm=warm))

    def start(self, task_class: TaskClassQueue) -> QueuedTask:
        self.count += 1
        task = QueuedTask(self.count, 1, task_class, b"", [], [], 1, "t", 1, 0)
        self.queue.add(task)
        self.dispatcher._start_ready()
        return task

    def end(self, task: QueuedTask, *warm: str) -> WorkerHandle:
        worker: WorkerHandle = task.worker
        worker.warm.update(warm)
        worker.queued.clear()
        self.dispatcher.forget(worker, task)
        self.queue.end(task)
        self.dispatcher.release(worker)
        return worker

    def leave(self, worker: WorkerHandle) -> None:
        worker.gone = True
        self.dispatcher.release(worker)
        self.dispatcher._start_ready()


def test_a_task_gets_the_idle_worker_that_has_its_warm_value(store: ObjectStore) -> None:
    async def main() -> None:
        scene = WarmScene(store, {"cpu": 4 * PARTS}, [GB, GB, GB])
        need = {"cpu": PARTS, "gpu": PARTS}
        one, two, both = (scene.task_class(need, *warm) for warm in ("a", "b", "ab"))
        first = scene.end(scene.start(one), "a")
        second = scene.end(scene.start(two), "b")
        assert second is not first
        assert scene.ledger.free == {"cpu": 4 * PARTS}
        assert scene.ledger.claims == 2
        assert scene.end(scene.start(one)) is first
        assert scene.end(scene.start(both), "a", "b") is first, "of two that have one value, it was used last"
        assert scene.end(scene.start(two)) is second, "it has fewer other values"
        larger = scene.task_class({**need, "cpu": 0}, "a")
        assert scene.end(scene.start(larger)) is first, "another cost, with the same GPU"
        other = scene.task_class({"cpu": PARTS}, "a")
        assert scene.start(other).worker not in (first, second), "its worker must not see the GPU"

    asyncio.run(main())


def test_idle_warm_workers_end_for_a_task_that_fits_only_without_them(store: ObjectStore) -> None:
    async def main() -> None:
        scene = WarmScene(store, {"cpu": 2 * PARTS, "memory": 4 * PARTS}, [])
        small = {"cpu": PARTS, "memory": PARTS}
        workers = [scene.end(scene.start(scene.task_class(small, value)), value) for value in "abc"]
        assert scene.ledger.free == {"cpu": 2 * PARTS, "memory": PARTS}
        fits = scene.start(scene.task_class({"cpu": 2 * PARTS, "memory": PARTS}))
        assert fits.state == QUEUED
        scene.end(fits)
        assert not scene.pool.dismissed
        too_large = scene.start(scene.task_class({"memory": 5 * PARTS}))
        assert not scene.pool.dismissed, "it would not fit without them either"
        scene.queue.end(too_large)
        waits = scene.start(scene.task_class({"memory": 3 * PARTS}))
        assert scene.pool.dismissed == workers[:2], "those used least recently"
        scene.dispatcher._start_ready()
        assert scene.pool.dismissed == workers[:2], "their amounts are about to be free"
        assert waits.state == READY
        for worker in workers[:2]:
            scene.leave(worker)
        assert waits.state == QUEUED
        assert scene.ledger.free["memory"] == 0

    asyncio.run(main())


def test_a_full_host_ends_a_warm_worker_for_a_new_one(store: ObjectStore) -> None:
    async def main() -> None:
        scene = WarmScene(store, {}, [])
        scene.dispatcher.max_workers = 2
        worker, other = [scene.end(scene.start(scene.task_class({}, value)), value) for value in "ab"]
        task = scene.start(scene.task_class({}))
        assert task.state == READY
        assert scene.pool.dismissed == [worker]
        scene.dispatcher._start_ready()
        assert scene.pool.warm == [other], "the first one is about to make room"
        del scene.pool.workers[worker.number]
        scene.leave(worker)
        assert task.state == QUEUED

    asyncio.run(main())
