"""Holds the attempts on this host that have not ended, and the order in which they may start.

In this module, a task is one attempt. A task needs its inputs, and the source bundle of its task class and the
checkpoint of an earlier attempt, if there are any. A source bundle is a file with the user's modules. The producer of
an object is the task that makes the object.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

from handout.protocol.frames import Buffer
from handout.protocol.messages import NewTaskClass, WarmingBegan

#: The states of a task. WAITING: an object that the task needs is missing. READY: the task may start when the ledger
#: has room. QUEUED: the agent has sent the task to a worker. ENDED: the task has left the `TaskQueue`.
WAITING, READY, QUEUED, ENDED = range(4)
_NONE: Mapping[int, QueuedTask] = {}


class TaskClassQueue:
    """A task class on this host, with the queue of its READY tasks.

    `NewTaskClass` explains task classes, and the attributes from ``number`` to ``warm``.
    """

    __slots__ = (
        "alone",
        "blocked_since",
        "bundle",
        "need",
        "number",
        "options",
        "ready",
        "shared_loop",
        "threads",
        "timeout_s",
        "warm",
        "workers",
    )

    def __init__(self, message: NewTaskClass) -> None:
        self.number = message.number
        self.need = message.need
        self.threads = message.threads
        self.shared_loop = message.shared_loop
        self.timeout_s = message.timeout_s
        self.options = message.options
        self.alone = message.alone
        self.bundle = message.bundle
        self.warm = frozenset(message.warm)
        #: The tasks that may start, in the order in which they arrived. If a task is not READY any more, it stays here
        #: until it is the first one. Then `head` removes it.
        self.ready: deque[QueuedTask] = deque()
        #: The workers that hold a claim (amounts of the ledger) for tasks of this class.
        self.workers: list[Any] = []
        #: When tasks of this class began to wait for room in the ledger, in seconds of the monotonic clock. The time
        #: begins anew whenever a task of the class starts. None if no task of the class waits for room.
        self.blocked_since: float | None = None

    @property
    def head(self) -> QueuedTask | None:
        """The first READY task, which starts next; None if no task is READY."""
        ready = self.ready
        while ready and ready[0].state != READY:
            ready.popleft()
        return ready[0] if ready else None


class QueuedTask:
    """One attempt of a task on this host.

    The arguments of the constructor come from a row of a `Tasks` message, which explains them.
    """

    __slots__ = (
        "attempt",
        "attempt_id",
        "being_ended",
        "call",
        "checkpoint",
        "claim",
        "end_reason",
        "expected_us",
        "function",
        "id",
        "input_gone",
        "input_misses",
        "inputs",
        "keep",
        "measure_at",
        "missing",
        "needs_own_worker",
        "number_on_worker",
        "order",
        "outputs",
        "peak_memory",
        "start_reported",
        "started_ns",
        "state",
        "task_class",
        "variant",
        "warming",
        "warming_since_ns",
        "worker",
    )

    def __init__(
        self,
        attempt_id: int,
        function: int,
        task_class: TaskClassQueue,
        call: Buffer,
        inputs: Sequence[int],
        outputs: Sequence[int],
        keep: int,
        id: str,
        attempt: int,
        variant: int,
        checkpoint: int = 0,
    ) -> None:
        self.attempt_id = attempt_id
        self.function = function
        self.task_class = task_class
        self.call = call
        self.inputs = inputs
        self.outputs = outputs
        self.keep = keep
        self.id = id
        self.attempt = attempt
        self.variant = variant
        #: Key of the newest checkpoint of the task: one of an earlier attempt, until this attempt makes one itself. 0:
        #: there is none.
        self.checkpoint = checkpoint
        #: How many of the objects that the task needs are not in the store.
        self.missing = 0
        self.state = WAITING
        #: The number of this task in the order in which the tasks arrived.
        self.order = 0
        #: The worker that the task is queued on, or None.
        self.worker: Any = None
        #: The number of the task among all tasks of this worker, counted from 1.
        self.number_on_worker = 0
        #: Microseconds that the task is expected to take.
        self.expected_us = 0.0
        #: Why the agent is ending the task: a kind of failure as in `Failed.kind`, or "recalled". None if the agent is
        #: not ending the task.
        self.end_reason: str | None = None
        #: True while the agent is ending the task although the task has started.
        self.being_ended = False
        #: True if an input will not come while this task is queued on a worker: the producer of the input has failed
        #: on this host, or the input has vanished from the store. When the worker returns this task, the agent gives it
        #: back to the controller.
        self.input_gone = False
        #: True if the task ran beside other tasks in the shared loop of a worker that died. The task then gets a worker
        #: of its own. If this worker dies too, the agent knows that the task is the cause.
        self.needs_own_worker = False
        #: How often a worker returned the task because the worker could not read an input.
        self.input_misses = 0
        #: The largest memory use that the agent has measured, in bytes.
        self.peak_memory = 0
        #: The agent measures the task's memory again at this time, in seconds of the event loop's clock.
        self.measure_at = 0.0
        #: True once the agent has reported to the controller that the task runs.
        self.start_reported = False
        #: When the task started, in nanoseconds of the monotonic clock; 0 if the agent does not know. A coroutine of a
        #: shared loop counts as started when the agent sends it to the worker. For any other task, the agent sets the
        #: time only when it ends the task or when the task's worker has died.
        self.started_ns = 0
        #: The warm value that the worker makes for the task now, or None.
        self.warming: WarmingBegan | None = None
        #: When this began, in nanoseconds of the monotonic clock.
        self.warming_since_ns = 0
        #: The claim under which a coroutine of a shared loop runs. None for all other tasks, because their workers hold
        #: the claims.
        self.claim: Any = None


def _required(task: QueuedTask) -> Sequence[int]:
    """Return the keys of the objects that a task needs before it starts: inputs, source bundle and checkpoint."""
    if task.checkpoint:
        return [*task.inputs, *(key for key in (task.task_class.bundle, task.checkpoint) if key is not None)]
    return task.inputs if task.task_class.bundle is None else [*task.inputs, task.task_class.bundle]


class TaskQueue:
    """Holds all attempts on this host that have not ended.

    Args:
        has: Returns True if the store has the object with a given key.
    """

    def __init__(self, has: Callable[[int], bool]) -> None:
        self._has = has
        self.tasks: dict[int, QueuedTask] = {}
        self.classes: dict[int, TaskClassQueue] = {}
        #: Maps the key of each missing object to a dictionary of the tasks that wait for the object. The keys of this
        #: dictionary are attempt ids.
        self.waiting: dict[int, dict[int, QueuedTask]] = {}
        #: Maps the key of an object to the task on this host that will make the object.
        self.producing: dict[int, QueuedTask] = {}
        #: The task classes that may have READY tasks, by their numbers.
        self._active: dict[int, TaskClassQueue] = {}
        self._order = 0

    def add(self, task: QueuedTask) -> None:
        """Add a task that the controller has handed over."""
        self._order += 1
        task.order = self._order
        self.tasks[task.attempt_id] = task
        for key in task.outputs:
            if key != -1:
                self.producing[key] = task
        has = self._has
        for key in _required(task):
            if not has(key):
                task.missing += 1
                self.waiting.setdefault(key, {})[task.attempt_id] = task
        if not task.missing:
            self.make_ready(task)

    def make_ready(self, task: QueuedTask) -> None:
        """Make a task READY, because no object that it needs is missing any more."""
        task.state = READY
        task.task_class.ready.append(task)
        self._active[task.task_class.number] = task.task_class

    def arrived(self, key: int) -> bool:
        """Record that an object is in the store now. Return True if this makes a task READY."""
        woken = False
        for task in self.waiting.pop(key, _NONE).values():
            task.missing -= 1
            if not task.missing and task.state == WAITING:
                self.make_ready(task)
                woken = True
        return woken

    def put_back(self, tasks: Iterable[QueuedTask]) -> list[QueuedTask]:
        """Take back tasks that a worker will not finish, so that they can start again.

        A task goes to the front of its queue if the store has all objects that the task needs. Otherwise the task waits
        for the missing objects again.

        Returns:
            The tasks that were not taken back, because one of their inputs will not come.
        """
        refused: list[QueuedTask] = []
        for task in sorted(tasks, key=lambda t: t.order, reverse=True):
            task.worker = None
            if task.input_gone:
                refused.append(task)
            elif task.missing:
                task.state = WAITING
            else:
                task.state = READY
                task.task_class.ready.appendleft(task)
                self._active[task.task_class.number] = task.task_class
        return refused

    def end(self, task: QueuedTask) -> None:
        """Remove a task that has ended."""
        task.state = ENDED
        self.tasks.pop(task.attempt_id, None)
        for key in task.outputs:
            if key != -1 and self.producing.get(key) is task:
                del self.producing[key]
        if task.missing:
            for key in _required(task):
                waiters = self.waiting.get(key)
                if waiters is not None and waiters.pop(task.attempt_id, None) is not None and not waiters:
                    del self.waiting[key]

    def followers(self, task: QueuedTask) -> list[QueuedTask]:
        """Return the tasks on this host that wait for the result of a task, directly or through other tasks."""
        found: list[QueuedTask] = []
        seen = {task.attempt_id}
        todo = [task]
        while todo:
            for key in todo.pop().outputs:
                for follower in self.waiting.get(key, _NONE).values():
                    if follower.attempt_id not in seen:
                        seen.add(follower.attempt_id)
                        found.append(follower)
                        todo.append(follower)
        return found

    def heads(self) -> list[tuple[int, TaskClassQueue]]:
        """Return a pair for each task class that has a `head`: the head's ``order``, and the task class.

        The pairs are sorted, so that the task that arrived first comes first.
        """
        found: list[tuple[int, TaskClassQueue]] = []
        for task_class in list(self._active.values()):
            head = task_class.head
            if head is not None:
                found.append((head.order, task_class))
            else:
                task_class.blocked_since = None
                del self._active[task_class.number]
        if len(found) > 1:
            found.sort(key=lambda pair: pair[0])
        return found
