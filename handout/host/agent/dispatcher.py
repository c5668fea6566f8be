"""Decides when each task starts, and on which worker.

A task starts only under a claim: the amounts that the task needs, which are taken from the ledger of this host. Only
this module makes claims. Tasks start in the order in which they arrived. However, if the ledger has no room for a task,
later tasks that fit may start first. A task that waits for nothing but such room is READY.

The tasks of one task class need the same amounts, and have the same limits and options. Most workers run one task at a
time, and all tasks of the worker run under one claim. A round trip between agent and worker can take longer than a
short task. Therefore the dispatcher sends a worker short tasks in batches. If a task waits only for results of tasks
that are queued on one worker, the dispatcher queues the task behind them.

Coroutines are different: if their task class allows it, many of them run at the same time in the event loop of one
worker, each under its own claim. Such a loop is called a shared loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

from handout.host.agent.object_store import ObjectStore, StoreFullError
from handout.host.agent.task_queue import QUEUED, WAITING, QueuedTask, TaskClassQueue, TaskQueue
from handout.host.agent.worker_handle import WorkerHandle, WorkerKey
from handout.host.agent.worker_pool import THREAD_VARIABLES, WorkerPool
from handout.host.system import processes
from handout.host.system.clock import now, now_ns
from handout.protocol import messages
from handout.protocol.frames import Buffer
from handout.protocol.resource_ledger import Ledger

#: The largest number of tasks that are queued on one worker, unless the worker has a shared loop.
BATCH = 128
#: The dispatcher queues a further task on a worker only if all tasks of the worker, including the further one, are
#: expected to take at most this many microseconds together.
BATCH_US = 2000.0
#: A batch gets no further READY task once the pickled calls of its tasks have more than this many bytes together.
_BATCH_BYTES = 1 << 20
#: A batch carries small inputs of at most this many bytes together. The store writes further small inputs to files,
#: which the worker reads. The batch exceeds this limit only if the store has no room for such a file.
_SENT_BYTES = 8 << 20
#: The dispatcher sends a worker further tasks only while at most this many tasks are queued on the worker.
_LOW = 64
#: The largest number of coroutines in one shared loop.
MAX_CONCURRENT = 1000
#: The largest number of functions for which `ExpectedDurations` keeps estimates.
_FUNCTIONS_KEPT = 4096
#: Once tasks of one task class have waited for room for more than this many seconds, the dispatcher starts no tasks of
#: classes whose first READY task arrived later. Room that becomes free then goes to the class that has waited.
_RESERVE_S = 30.0
#: If the system refuses a new worker, the dispatcher takes no further worker into use for this many seconds.
_SPAWN_RETRY_S = 0.2


class ExpectedDurations:
    """Estimates how long a function's next task will take, from the durations of the function's earlier tasks.

    When the controller releases a function, the estimate is kept, because a later run may use the function again under
    the same number. If there are more than `_FUNCTIONS_KEPT` estimates, the one that was made first is deleted.
    """

    def __init__(self) -> None:
        self._us: dict[int, float] = {}

    def get(self, fn: int) -> float | None:
        """Return the estimate for a function in microseconds; None if no task of the function has returned yet."""
        return self._us.get(fn)

    def add(self, fn: int, us: int) -> None:
        """Record the duration of a task.

        The first task of a function often takes long, because it imports modules. Therefore a duration below the
        estimate changes the estimate more than a duration above it.
        """
        old = self._us.get(fn)
        if old is None:
            self._us[fn] = us
            if len(self._us) > _FUNCTIONS_KEPT:
                del self._us[next(iter(self._us))]
        else:
            self._us[fn] = old + (us - old) * (0.5 if us < old else 0.25)


class Dispatcher:
    """Starts tasks on workers when the ledger has room for them.

    Args:
        queue: The tasks.
        ledger: The amounts that this host has, and the claims that tasks hold on these amounts.
        store: The store that has the inputs.
        pool: The workers.
        functions: Pickled functions, by their numbers.
    """

    def __init__(
        self, queue: TaskQueue, ledger: Ledger, store: ObjectStore, pool: WorkerPool, functions: Mapping[int, bytes]
    ) -> None:
        self._queue = queue
        self._ledger = ledger
        self._store = store
        self._pool = pool
        self._functions = functions
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self.durations = ExpectedDurations()
        #: True from the end of the lease until the lease is renewed. No task starts while this is True.
        self.paused = False
        #: Called after the dispatcher has sent tasks to a worker.
        self.on_busy: Callable[[], None] = lambda: None
        #: Called with a task class and the error if the system refuses what a worker for this class needs.
        self.on_no_worker: Callable[[TaskClassQueue, OSError], None] = lambda task_class, error: None
        #: Called when the store has no room for the file of a task class's source bundle. Its tasks cannot start then.
        self.on_no_room: Callable[[TaskClassQueue, StoreFullError], None] = lambda task_class, error: None
        #: If the host has this many workers and none of them is idle, the dispatcher forks no further worker, except
        #: for a shared loop. The ledger does not limit tasks whose cost is empty, so this limit is needed as well.
        self.max_workers = 64 + 2 * (os.cpu_count() or 1)
        #: Seconds that a cancelled task has to end by itself, before the agent kills its worker.
        self.grace_s = 5.0
        #: The dispatcher takes no further worker into use before this time, in seconds of the monotonic clock. `hold`
        #: sets this time after the system has refused a new worker.
        self._hold_until = 0.0
        #: Maps each `WorkerKey` with a shared loop to the worker that gets the next coroutine for this key.
        self._loops: dict[WorkerKey, WorkerHandle] = {}
        #: Keys of the objects that workers must read with the restricted reader, which accepts only data.
        self.distrusted: set[int] = set()
        #: The classes whose objects the restricted reader accepts in addition to those of its own list.
        self._types: Sequence[Any] = ()
        self._visible = [d for d in map(str.strip, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")) if d]

    def schedule(self) -> None:
        """Start tasks in the next turn of the event loop, when all messages of the present turn have been handled."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._start_ready)

    def hold(self) -> None:
        """Take no further worker into use for `_SPAWN_RETRY_S` seconds, because the system refused a new process."""
        self._hold_until = now() + _SPAWN_RETRY_S
        self._loop.call_later(_SPAWN_RETRY_S, self.schedule)

    def _start_ready(self) -> None:
        self._scheduled = False
        if self.paused:
            return
        blocked = False
        for _, task_class in self._queue.heads():
            head = task_class.head
            if task_class.shared_loop:
                self._fill_shared(task_class)
            else:
                self._fill(task_class, blocked)
            if task_class.head is not head:
                task_class.blocked_since = None
            if task_class.head is None:
                continue
            blocked = True
            at = now()
            if task_class.blocked_since is None:
                task_class.blocked_since = at
            elif at - task_class.blocked_since > _RESERVE_S:
                break

    # ---- one task at a time --------------------------------------------------------------------------------

    def _fill(self, task_class: TaskClassQueue, blocked: bool) -> None:
        """Start as many tasks of one task class as the ledger has room for.

        Args:
            task_class: The task class.
            blocked: True if an earlier task of another class waits for room. Workers that already have tasks of this
                class then get no further tasks, so that they release their claims sooner and the earlier task finds
                room.
        """
        head = task_class.head
        while head is not None:
            worker = self._claim_worker(task_class)
            if worker is None:
                break
            share = max(4, len(task_class.ready) // max(1, len(task_class.workers)))
            self._send_tasks(worker, share)
            head = task_class.head
        if head is None or blocked or task_class.alone:
            return
        for worker in task_class.workers:
            if worker.leaving or worker.slow_task in worker.queued:
                continue
            if len(worker.queued) <= _LOW and worker.load_us < BATCH_US / 2:
                self._send_tasks(worker, BATCH)

    def _claim_worker(self, task_class: TaskClassQueue) -> WorkerHandle | None:
        """Claim the amounts that a task of a task class needs, and return a worker that holds the claim.

        Return None if the ledger has no room, or if no further worker can be taken into use now.
        """
        worker = self._reuse_warm(task_class)
        if worker is not None:
            return worker
        if len(self._pool.workers) >= self.max_workers and not self._pool.has_idle:
            if self._pool.warm and not any(worker.leaving for worker in self._pool.workers.values()):
                self._pool.dismiss(self._pool.warm[0])
            return None
        if self._hold_until > now():
            return None
        claim = self._ledger.claim(task_class.need)
        if claim is None:
            self._make_room(task_class.need)
            return None
        key = WorkerKey(task_class.bundle, claim.devices, task_class.threads, False, task_class.options)
        worker = self._acquire(key, task_class)
        if worker is None:
            self._ledger.release(claim)
            return None
        worker.claim, worker.task_class = claim, task_class
        task_class.workers.append(worker)
        return worker

    def _reuse_warm(self, task_class: TaskClassQueue) -> WorkerHandle | None:
        """Return an idle worker that has a warm value for tasks of a class, if there is one. It then holds a claim."""
        if not task_class.warm:
            return None
        wanted = WorkerKey(task_class.bundle, (), task_class.threads, False, task_class.options)
        able = [
            worker
            for worker in reversed(self._pool.warm)
            if worker.key is not None and worker.key._replace(devices=()) == wanted and worker.warm & task_class.warm
        ]
        # Of two workers that have equally many of the values, the one with fewer others leaves the other free for tasks
        # that need those.
        for worker in sorted(able, key=lambda worker: (-len(worker.warm & task_class.warm), len(worker.warm))):
            claim = None if worker.held is None else self._ledger.exchange(worker.held, task_class.need)
            if claim is not None:
                self._pool.reuse(worker)
                worker.claim, worker.held, worker.task_class = claim, None, task_class
                task_class.workers.append(worker)
                return worker
        return None

    def _make_room(self, need: Mapping[str, int]) -> None:
        """End idle warm workers if a need fits once they have released what they hold: first those used least recently.

        If it does not fit then either, they stay.
        """
        if not self._pool.warm:
            return
        trial = self._ledger.copy()
        for worker in self._pool.workers.values():
            if worker.held is not None and worker.leaving:
                trial.release(worker.held)
        ended: list[WorkerHandle] = []
        for worker in self._pool.warm:
            if trial.fits(need):
                break
            if worker.held is not None:
                trial.release(worker.held)
                ended.append(worker)
        if trial.fits(need):
            for worker in ended:
                self._pool.dismiss(worker)

    def _acquire(self, key: WorkerKey, task_class: TaskClassQueue) -> WorkerHandle | None:
        if task_class.bundle is not None and task_class.bundle not in self._store:
            return None  # without its bundle, a task could import a module of the same name from the host
        try:
            return self._pool.acquire(key, self._environment, self._bundle_path(task_class))
        except StoreFullError as error:
            self.on_no_room(task_class, error)
            return None
        except OSError as error:
            # The system has no descriptors or no memory left. This may change once other workers have ended.
            self.hold()
            self.on_no_worker(task_class, error)
            return None

    def _environment(self, key: WorkerKey) -> dict[str, str]:
        environment = {v: str(key.threads) for v in THREAD_VARIABLES if v not in os.environ}
        # In the environment of the agent, CUDA_VISIBLE_DEVICES may name only some GPUs of the host. This code assumes
        # that the ledger contains exactly these GPUs, in the same order.
        visible = self._visible
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible[d] if d < len(visible) else str(d) for d in key.devices)
        return environment

    def _bundle_path(self, task_class: TaskClassQueue) -> str | None:
        return self._store.path(task_class.bundle) if task_class.bundle is not None else None

    def forget(self, worker: WorkerHandle, task: QueuedTask) -> None:
        """Record that a task is not queued on its worker any more. Release the task's own claim, if there is one."""
        worker.load_us -= task.expected_us
        if task.claim is not None:
            self._ledger.release(task.claim)
            task.claim = None

    def release(self, worker: WorkerHandle) -> None:
        """Release the claim of a worker that has no queued task any more, or that has ended.

        If the worker can run further tasks, it becomes idle.
        """
        if worker.shared:
            assert worker.key is not None
            if self._loops.get(worker.key) is worker:
                del self._loops[worker.key]
            self._pool.release(worker)
        if worker.held is not None and worker.gone:
            self._ledger.release(worker.held)
            worker.held = None
        if worker.task_class is None:
            return
        claim = worker.claim
        if claim is not None and worker.warm and not worker.leaving and not worker.gone:
            # A process that waits uses no processor time, but its warm values may hold all else.
            worker.held = self._ledger.release_part(claim, "cpu")
            self._forget_class(worker)
            return
        if (
            claim is not None
            and not worker.gone
            and (claim.devices or self._has_leftover_memory(worker, worker.task_class))
        ):
            # The worker's process may still hold memory of a GPU, or memory that earlier tasks left behind. Therefore
            # the claim is released only when the process has ended.
            if not worker.leaving:
                self._pool.dismiss(worker)
            return
        if worker.claim is not None:
            self._ledger.release(worker.claim)
        self._forget_class(worker)

    def _forget_class(self, worker: WorkerHandle) -> None:
        """Make a worker idle, which holds no claim for a task any more."""
        assert worker.task_class is not None
        worker.claim = None
        worker.task_class.workers.remove(worker)
        worker.task_class = None
        worker.load_us = 0.0
        self._pool.release(worker)

    def _has_leftover_memory(self, worker: WorkerHandle, task_class: TaskClassQueue) -> bool:
        """Return True if a worker without tasks still uses more than half of the memory limit of its task class.

        The next task could then exceed the limit because of memory that earlier tasks left behind.
        """
        limit = task_class.options.memory_limit
        return limit is not None and worker.pid > 0 and processes.tree_memory(worker.pid, limit // 2) > limit // 2

    def _send_tasks(self, worker: WorkerHandle, limit: int) -> None:
        """Send a worker up to ``limit`` READY tasks of its task class, within the limits of a batch.

        Also send tasks that wait only for results of tasks on this worker.
        """
        task_class = worker.task_class
        assert task_class is not None
        batch: list[QueuedTask] = []
        nbytes = 0
        limit = min(limit, BATCH - len(worker.queued))
        get = self.durations.get
        while len(batch) < limit:
            task = task_class.head
            if task is None:
                break
            est = get(task.function)
            if (batch or worker.queued) and (
                est is None
                or task_class.alone
                or task.needs_own_worker
                or worker.load_us + est > BATCH_US
                or nbytes > _BATCH_BYTES
            ):
                break
            task_class.ready.popleft()
            self._enqueue(worker, task, est)
            batch.append(task)
            nbytes += len(task.call)
            if task.needs_own_worker:
                break
        if not task_class.alone and self._queue.waiting:
            self._add_followers(worker, batch)
        if batch:
            self._send(worker, batch)
            self.on_busy()

    def _enqueue(self, worker: WorkerHandle, task: QueuedTask, est: float | None) -> None:
        task.state = QUEUED
        task.warming = None
        task.worker = worker
        task.number_on_worker = worker.next_number
        task.expected_us = est if est is not None else BATCH_US
        worker.next_number += 1
        worker.load_us += task.expected_us
        worker.queued[task.number_on_worker] = task

    def _add_followers(self, worker: WorkerHandle, batch: list[QueuedTask]) -> None:
        """Queue on a worker the waiting tasks whose missing inputs are all results of tasks on this worker.

        Args:
            worker: The worker.
            batch: The tasks that will be sent to the worker next. This method adds the tasks that it queues.
        """
        waiting = self._queue.waiting
        none: dict[int, QueuedTask] = {}
        sources = [*worker.queued.values()]
        for task in sources:
            if len(worker.queued) >= BATCH or worker.load_us > BATCH_US:
                return
            for key in task.outputs:
                for follower in list(waiting.get(key, none).values()):
                    est = self.durations.get(follower.function)
                    if est is None or not self._may_follow(follower, worker):
                        continue
                    if len(worker.queued) >= BATCH or worker.load_us + est > BATCH_US:
                        return
                    self._enqueue(worker, follower, est)
                    batch.append(follower)
                    sources.append(follower)

    def _may_follow(self, task: QueuedTask, worker: WorkerHandle) -> bool:
        if (
            task.state != WAITING
            or task.task_class is not worker.task_class
            or task.needs_own_worker
            or task.input_gone
            or (task.checkpoint and task.checkpoint not in self._store)
        ):
            return False
        producing = self._queue.producing
        for key in task.inputs:
            if key not in self._store:
                producer = producing.get(key)
                if producer is None or producer.worker is not worker:
                    return False
        return True

    def _send(self, worker: WorkerHandle, batch: Sequence[QueuedTask]) -> None:
        functions: list[int] = []
        for task in batch:
            if task.function not in worker.functions:
                worker.functions.add(task.function)
                functions.append(task.function)
        blobs = [self._functions[fn] for fn in functions]
        keys, data = self._inputs(batch)
        distrusted: Sequence[int] = ()
        if self.distrusted:
            distrusted = list(self.distrusted.intersection(key for task in batch for key in _taken(task)))
        message = messages.Batch(
            batch[0].number_on_worker,
            [t.outputs for t in batch],
            [t.function for t in batch],
            [len(t.call) for t in batch],
            [t.inputs for t in batch],
            [t.id for t in batch],
            [t.attempt for t in batch],
            [t.variant for t in batch],
            [t.checkpoint for t in batch] if any(t.checkpoint for t in batch) else None,
            functions,
            [len(b) for b in blobs],
            keys,
            [len(d) for d in data],
            distrusted,
            self._types if distrusted else (),
        )
        self._pool.send(worker, message, [*blobs, *data, *(t.call for t in batch)])

    def distrust(self, keys: Iterable[int], types: Sequence[Any]) -> None:
        """Have workers read objects with the restricted reader.

        This is necessary if the objects have passed through a host from which only data is accepted (``trust="data"``).

        Args:
            keys: Keys of the objects.
            types: See `messages.Distrust`.
        """
        self.distrusted.update(keys)
        self._types = types

    def _inputs(self, batch: Sequence[QueuedTask]) -> tuple[list[int], list[Buffer]]:
        """Return the keys and the bytes of the small inputs that the agent sends with a batch.

        The worker reads all other inputs from the store's files, or has made them itself.
        """
        keys: dict[int, Buffer] = {}
        nbytes = 0
        for task in batch:
            for key in _taken(task):
                if key in keys or key not in self._store:
                    continue
                data = self._store.small(key)
                if data is None:
                    continue
                nbytes += len(data)
                if nbytes <= _SENT_BYTES or not self._becomes_file(key):
                    keys[key] = data
        return list(keys), list(keys.values())

    def _becomes_file(self, key: int) -> bool:
        try:
            return self._store.path(key) is not None
        except StoreFullError:
            return False

    # ---- many coroutines in one worker ---------------------------------------------------------------------

    def _fill_shared(self, task_class: TaskClassQueue) -> None:
        key = WorkerKey(task_class.bundle, (), task_class.threads, True, task_class.options)
        batches: dict[WorkerHandle, list[QueuedTask]] = {}
        task = task_class.head
        while task is not None and self._hold_until <= now():
            worker = self._loops.get(key)
            if (
                worker is not None
                and not worker.leaving
                and not task.needs_own_worker
                and len(worker.queued) >= MAX_CONCURRENT
            ):
                break
            claim = self._ledger.claim(task_class.need)
            if claim is None:
                self._make_room(task_class.need)
                break
            if worker is None or worker.leaving or task.needs_own_worker:
                worker = self._acquire_loop(key, task_class, task)
                if worker is None:
                    self._ledger.release(claim)
                    break
                if not task.needs_own_worker:
                    self._loops[key] = worker
            task_class.ready.popleft()
            self._enqueue(worker, task, 0.0)
            task.claim, task.started_ns = claim, now_ns()
            batches.setdefault(worker, []).append(task)
            task = task_class.head
        for worker, batch in batches.items():
            for at in range(0, len(batch), BATCH):
                self._send(worker, batch[at : at + BATCH])
            self.on_busy()

    def _acquire_loop(self, key: WorkerKey, task_class: TaskClassQueue, task: QueuedTask) -> WorkerHandle | None:
        """Return a worker with a shared loop that has no tasks: a warm one, if there is one for this key."""
        for worker in reversed(self._pool.warm):
            if worker.key == key and not task.needs_own_worker:
                self._pool.reuse(worker)
                return worker
        return self._acquire(key, task_class)

    def cancel_coroutines(self, worker: WorkerHandle, tasks: Sequence[QueuedTask]) -> None:
        """Have a worker cancel coroutines of its shared loop."""
        self._pool.send(worker, messages.CancelCoroutines([t.number_on_worker for t in tasks]))


def _taken(task: QueuedTask) -> Sequence[int]:
    """Return the keys of the objects that a worker may read for a task."""
    return [*task.inputs, task.checkpoint] if task.checkpoint else task.inputs
