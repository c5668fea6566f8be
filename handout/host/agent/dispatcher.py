"""Which task starts when, and on which worker: the authority over what this host's ledger grants.

First come, first served, except that what does not fit is passed by what does. Tasks of functions known to be
short are sent to a worker in batches, and tasks that wait only for results of tasks queued on a worker follow
them there: asking back for each would take longer than running it.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

from handout.host.agent.object_store import ObjectStore, StoreFullError
from handout.host.agent.task_queue import QUEUED, WAITING, QueuedTask, TaskClassQueue, TaskQueue
from handout.host.agent.worker_pool import THREAD_VARIABLES, WorkerHandle, WorkerKey, WorkerPool
from handout.host.system import processes
from handout.host.system.clock import now, now_ns
from handout.protocol import frames
from handout.protocol.ledger import Ledger

#: Tasks queued on one worker at most, and the time that they are expected to take together.
BATCH = 128
BATCH_US = 2000.0
_BATCH_BYTES = 1 << 20
#: Small objects beyond this go to a worker as files, not in the message.
_SENT_BYTES = 8 << 20
#: A worker is sent more once it has less than this left.
_LOW = 64
#: Coroutines in one loop at most.
MAX_CONCURRENT = 1000
#: What has found no room for this long lets nothing pass any more.
_RESERVE_S = 30.0
_SPAWN_RETRY_S = 0.2


class Durations:
    """How long functions take, from how long they took."""

    def __init__(self) -> None:
        self._us: dict[int, float] = {}

    def get(self, fn: int) -> float | None:
        """Microseconds to expect, None for a function that has not ended yet."""
        return self._us.get(fn)

    def add(self, fn: int, us: int) -> None:
        """A task of the function took that long. A first run is often slow: imports; so it comes down fast."""
        old = self._us.get(fn)
        if old is None:
            self._us[fn] = us
        else:
            self._us[fn] = old + (us - old) * (0.5 if us < old else 0.25)


class Dispatcher:
    """Matches tasks with room and workers.

    Args:
        backlog: The tasks.
        ledger: What this host has.
        store: Where inputs are.
        crew: The workers.
        functions: Bytes of functions, by number.
    """

    def __init__(
        self, backlog: TaskQueue, ledger: Ledger, store: ObjectStore, crew: WorkerPool, functions: Mapping[int, bytes]
    ) -> None:
        self._backlog = backlog
        self._ledger = ledger
        self._store = store
        self._crew = crew
        self._functions = functions
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self.durations = Durations()
        #: Nothing starts while the lease has ended.
        self.paused = False
        #: Called when a worker was given something to do.
        self.on_busy: Callable[[], None] = lambda: None
        #: Processes at most, whatever the ledger grants to tasks that need nothing.
        self.max_workers = 64 + 2 * (os.cpu_count() or 1)
        #: How long what is cancelled may take to end by itself.
        self.grace_s = 5.0
        #: Not before this is a worker forked again: the system refused.
        self._hold_until = 0.0
        #: The worker whose loop takes the next coroutine, by key.
        self._loops: dict[WorkerKey, WorkerHandle] = {}
        #: Objects that must be read as data, and the names of classes that count as such.
        self.suspects: set[int] = set()
        self._data_types: list[Any] = []
        self._visible = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]

    def schedule(self) -> None:
        """Look for work once what has come in by now is taken in."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def hold(self) -> None:
        """The system refuses new processes: wait a little."""
        self._hold_until = now() + _SPAWN_RETRY_S
        self._loop.call_later(_SPAWN_RETRY_S, self.schedule)

    def _pump(self) -> None:
        self._scheduled = False
        if self.paused:
            return
        blocked = False
        for _, cls in self._backlog.heads():
            if cls.shared_loop:
                self._fill_shared(cls)
            else:
                self._fill(cls, blocked)
            if not cls.head:
                cls.blocked_since = None
                continue
            blocked = True
            at = now()
            if cls.blocked_since is None:
                cls.blocked_since = at
            elif at - cls.blocked_since > _RESERVE_S:
                break

    # ---- one task at a time --------------------------------------------------------------------------------

    def _fill(self, cls: TaskClassQueue, blocked: bool) -> None:
        """Start what can be started of one class.

        Args:
            cls: The class.
            blocked: Something that came earlier waits for room: what is taken up is given back in its favour.
        """
        head = cls.head
        while head is not None:
            hand = self._engage(cls)
            if hand is None:
                break
            share = max(4, len(cls.ready) // max(1, len(cls.hands)))
            self._push(hand, share)
            head = cls.head
        if head is None or blocked or cls.solo:
            return
        for hand in cls.hands:
            if hand.leaving or hand.stuck in hand.queued:
                continue
            if len(hand.queued) <= _LOW and hand.load_us < BATCH_US / 2:
                self._push(hand, BATCH)

    def _engage(self, cls: TaskClassQueue) -> WorkerHandle | None:
        """A worker with a claim for a class, where there is room for one more."""
        if len(self._crew.hands) >= self.max_workers and not self._crew.has_idle:
            return None
        if self._hold_until > now():
            return None
        claim = self._ledger.claim(cls.need)
        if claim is None:
            return None
        key = WorkerKey(cls.code, claim.devices, cls.threads, False, cls.memory_limit, cls.max_result_bytes)
        hand = self._acquire(key, cls)
        if hand is None:
            self._ledger.release(claim)
            return None
        hand.claim, hand.cls = claim, cls
        cls.hands.append(hand)
        return hand

    def _acquire(self, key: WorkerKey, cls: TaskClassQueue) -> WorkerHandle | None:
        try:
            return self._crew.acquire(key, self._environment, self._code_path(cls))
        except OSError:
            # Too many open files, or no memory: what ends makes room.
            traceback.print_exc()
            self.hold()
            return None

    def _environment(self, key: WorkerKey) -> dict[str, str]:
        environment = {v: str(key.threads) for v in THREAD_VARIABLES if v not in os.environ}
        # Where the host itself shows only some devices, ours are counted among those.
        visible = self._visible
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible[d] if d < len(visible) else str(d) for d in key.devices)
        return environment

    def _code_path(self, cls: TaskClassQueue) -> str | None:
        return self._store.path(cls.code) if cls.code is not None else None

    def forget(self, hand: WorkerHandle, task: QueuedTask) -> None:
        """A task is not queued on its worker any more."""
        hand.load_us -= task.est_us
        if task.claim is not None:
            self._ledger.release(task.claim)
            task.claim = None

    def release(self, hand: WorkerHandle) -> None:
        """A worker has nothing queued any more, or is gone: what it holds is free again."""
        if hand.shared:
            assert hand.key is not None
            if self._loops.get(hand.key) is hand:
                del self._loops[hand.key]
            self._crew.release(hand)
        if hand.cls is None:
            return
        if hand.claim is not None and not hand.gone and (hand.claim.devices or self._is_bloated(hand, hand.cls)):
            # The device, or the memory, is free once the process has ended.
            if not hand.leaving:
                self._crew.dismiss(hand)
            return
        if hand.claim is not None:
            self._ledger.release(hand.claim)
            hand.claim = None
        hand.cls.hands.remove(hand)
        hand.cls = None
        hand.load_us = 0.0
        self._crew.release(hand)

    def _is_bloated(self, hand: WorkerHandle, cls: TaskClassQueue) -> bool:
        """Whether a worker's tasks left so much behind that the next one could fall over its limit for them."""
        limit = cls.memory_limit
        return limit is not None and hand.pid > 0 and processes.tree_memory(hand.pid, limit // 2) > limit // 2

    def _push(self, hand: WorkerHandle, limit: int) -> None:
        """Send a worker what it has room for."""
        cls = hand.cls
        assert cls is not None
        batch: list[QueuedTask] = []
        nbytes = 0
        limit = min(limit, BATCH - len(hand.queued))
        get = self.durations.get
        while len(batch) < limit:
            task = cls.head
            if task is None:
                break
            est = get(task.fn)
            if (batch or hand.queued) and (
                est is None or cls.solo or task.solo or hand.load_us + est > BATCH_US or nbytes > _BATCH_BYTES
            ):
                break
            cls.ready.popleft()
            self._queue(hand, task, est)
            batch.append(task)
            nbytes += len(task.blob)
            if task.solo:
                break
        if not cls.solo and self._backlog.waiting:
            self._add_followers(hand, batch)
        if batch:
            self._send(hand, batch)
            self.on_busy()

    def _queue(self, hand: WorkerHandle, task: QueuedTask, est: float | None) -> None:
        task.state = QUEUED
        task.hand = hand
        task.seq = hand.next_number
        task.est_us = est if est is not None else BATCH_US
        hand.next_number += 1
        hand.load_us += task.est_us
        hand.queued[task.seq] = task

    def _add_followers(self, hand: WorkerHandle, batch: list[QueuedTask]) -> None:
        """Queue tasks behind those whose results they wait for, if all of these are made on this worker."""
        waiting = self._backlog.waiting
        nobody: dict[int, QueuedTask] = {}
        sources = [*hand.queued.values()]
        for task in sources:
            if len(hand.queued) >= BATCH or hand.load_us > BATCH_US:
                return
            for key in task.out:
                for follower in list(waiting.get(key, nobody).values()):
                    est = self.durations.get(follower.fn)
                    if est is None or not self._may_follow(follower, hand):
                        continue
                    if len(hand.queued) >= BATCH or hand.load_us + est > BATCH_US:
                        return
                    self._queue(hand, follower, est)
                    batch.append(follower)
                    sources.append(follower)

    def _may_follow(self, task: QueuedTask, hand: WorkerHandle) -> bool:
        if task.state != WAITING or task.cls is not hand.cls or task.solo or task.doomed:
            return False
        producing = self._backlog.producing
        for key in task.inputs:
            if key not in self._store:
                producer = producing.get(key)
                if producer is None or producer.hand is not hand:
                    return False
        return True

    def _send(self, hand: WorkerHandle, batch: Sequence[QueuedTask]) -> None:
        functions: list[int] = []
        for task in batch:
            if task.fn not in hand.functions:
                hand.functions.add(task.fn)
                functions.append(task.fn)
        blobs = [self._functions[fn] for fn in functions]
        keys, data = self._inputs(batch)
        fields: dict[str, Any] = {"m": "run", "s": batch[0].seq, "n": len(batch)}
        if functions:
            fields["fns"], fields["fn_len"] = functions, [len(b) for b in blobs]
        if keys:
            fields["keys"], fields["key_len"] = keys, [len(d) for d in data]
        if self.suspects:
            suspects = self.suspects.intersection(key for task in batch for key in task.inputs)
            if suspects:
                fields["suspects"], fields["types"] = list(suspects), self._data_types
        fields["fn"] = _column([t.fn for t in batch])
        fields["len"] = _column([len(t.blob) for t in batch])
        inputs = [t.inputs for t in batch]
        fields["in"] = inputs if any(inputs) else 0
        fields["out"] = [t.out for t in batch]
        fields["id"] = _column([t.id for t in batch])
        fields["attempt"] = _column([t.attempt for t in batch])
        fields["variant"] = _column([t.variant for t in batch])
        self._crew.send(hand, frames.encode_message(0, fields, [*blobs, *data, *(t.blob for t in batch)]))

    def distrust(self, keys: Iterable[int], types: list[Any]) -> None:
        """Objects that had been on a host of which only data is taken come now."""
        self.suspects.update(keys)
        self._data_types = types

    def _inputs(self, batch: Sequence[QueuedTask]) -> tuple[list[int], list[frames.Buffer]]:
        """Small objects that go along with the tasks."""
        keys: dict[int, frames.Buffer] = {}
        nbytes = 0
        for task in batch:
            for key in task.inputs:
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

    def _fill_shared(self, cls: TaskClassQueue) -> None:
        key = WorkerKey(cls.code, (), cls.threads, True, None, cls.max_result_bytes)
        batches: dict[WorkerHandle, list[QueuedTask]] = {}
        task = cls.head
        while task is not None and self._hold_until <= now():
            hand = self._loops.get(key)
            if hand is not None and not hand.leaving and not task.solo and len(hand.queued) >= MAX_CONCURRENT:
                break
            claim = self._ledger.claim(cls.need)
            if claim is None:
                break
            if hand is None or hand.leaving or task.solo:
                hand = self._acquire(key, cls)
                if hand is None:
                    self._ledger.release(claim)
                    break
                if not task.solo:
                    self._loops[key] = hand
            cls.ready.popleft()
            self._queue(hand, task, 0.0)
            task.claim, task.started = claim, now_ns()
            batches.setdefault(hand, []).append(task)
            task = cls.head
        for hand, batch in batches.items():
            for at in range(0, len(batch), BATCH):
                self._send(hand, batch[at : at + BATCH])
            self.on_busy()

    def cancel_coroutines(self, hand: WorkerHandle, tasks: Sequence[QueuedTask]) -> None:
        """Have a shared loop cancel some of its tasks."""
        self._crew.send(hand, frames.encode_message(0, {"m": "cancel", "s": [t.seq for t in tasks]}))


def _column(values: list[Any]) -> Any:
    """A column, or its one value where all are the same."""
    first = values[0]
    return first if values.count(first) == len(values) else values
