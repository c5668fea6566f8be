"""The attempts that the agent has and that have not ended. Some wait for inputs; the others may start, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

from handout.protocol.frames import Buffer
from handout.protocol.messages import NewTaskClass

WAITING, READY, QUEUED, ENDED = range(4)
_NONE: Mapping[int, QueuedTask] = {}


class TaskClassQueue:
    """A task class on this host, with a queue of its tasks that may start.

    The attributes up to ``bundle`` are those of `NewTaskClass`.
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
        #: Tasks that may start, in order of arrival. `head` removes a task that is not READY any more when it is first.
        self.ready: deque[QueuedTask] = deque()
        #: Workers that hold a claim for this task class.
        self.workers: list[Any] = []
        #: When the first task began to wait for room, in seconds of the monotonic clock. None if it does not wait.
        self.blocked_since: float | None = None

    @property
    def head(self) -> QueuedTask | None:
        """The task that starts next, or None."""
        ready = self.ready
        while ready and ready[0].state != READY:
            ready.popleft()
        return ready[0] if ready else None


class QueuedTask:
    """One attempt of a task on this host.

    The attributes up to ``variant`` are the columns of `Tasks`.
    """

    __slots__ = (
        "attempt",
        "attempt_id",
        "being_ended",
        "call",
        "claim",
        "end_reason",
        "expected_us",
        "function",
        "id",
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
        "producer_failed",
        "start_reported",
        "started_ns",
        "state",
        "task_class",
        "variant",
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
        #: How many of the objects that the task needs (inputs and source bundle) are not in the store.
        self.missing = 0
        self.state = WAITING
        self.order = 0
        #: The worker that the task is queued on, or None.
        self.worker: Any = None
        #: The number that this worker knows the task by.
        self.number_on_worker = 0
        #: Microseconds that the task is expected to take.
        self.expected_us = 0.0
        #: Why the agent ends the task: a kind of failure of `Failed`, or "recalled"; None if the agent does not end it.
        self.end_reason: str | None = None
        #: True while the agent is ending the task, which has started.
        self.being_ended = False
        #: True if the producer of one of the inputs has failed on this host. The agent gives the task back to the
        #: controller as soon as the worker returns the task.
        self.producer_failed = False
        #: True if the task ran beside others on a worker that died. It then gets a worker of its own, so that a second
        #: death shows which task caused it.
        self.needs_own_worker = False
        #: How often a worker returned the task because it could not read an input.
        self.input_misses = 0
        #: The largest memory use that the agent has measured, in bytes.
        self.peak_memory = 0
        #: When the agent measures the memory next, in seconds of the loop's clock.
        self.measure_at = 0.0
        #: True once the controller has been told that the task runs.
        self.start_reported = False
        #: When the task started, in nanoseconds of the monotonic clock; 0 if the agent does not know. For a
        #: coroutine, the agent sets this when it sends the task to a worker; for any other task, when it ends the task.
        self.started_ns = 0
        #: The ledger's claim of a coroutine. None for any other task, because its worker holds the claim.
        self.claim: Any = None


def _required(task: QueuedTask) -> Sequence[int]:
    """Return the keys of the objects that must be in the store before a task starts: inputs and source bundle."""
    return task.inputs if task.task_class.bundle is None else [*task.inputs, task.task_class.bundle]


class TaskQueue:
    """All attempts on this host that have not ended.

    Args:
        has: Returns True if the store has the object of a key.
    """

    def __init__(self, has: Callable[[int], bool]) -> None:
        self._has = has
        self.tasks: dict[int, QueuedTask] = {}
        self.classes: dict[int, TaskClassQueue] = {}
        #: By key of an object that is not in the store: the tasks that need it, by attempt id.
        self.waiting: dict[int, dict[int, QueuedTask]] = {}
        #: By key of an object: the task on this host that makes it.
        self.producing: dict[int, QueuedTask] = {}
        #: Task classes that may have tasks to start, by number.
        self._active: dict[int, TaskClassQueue] = {}
        self._order = 0

    def add(self, task: QueuedTask) -> None:
        """Add a task."""
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
        """Let a task start when the ledger has room."""
        task.state = READY
        task.task_class.ready.append(task)
        self._active[task.task_class.number] = task.task_class

    def arrived(self, key: int) -> bool:
        """Record that an object is in the store; return True if a task may start because of it."""
        woken = False
        for task in self.waiting.pop(key, _NONE).values():
            task.missing -= 1
            if not task.missing and task.state == WAITING:
                self.make_ready(task)
                woken = True
        return woken

    def put_back(self, tasks: Iterable[QueuedTask]) -> list[QueuedTask]:
        """Take back tasks that a worker did not start.

        A task that has all inputs goes to the front of its queue. A task that lacks inputs waits for them again.

        Returns:
            The tasks that cannot start on this host, because the producer of an input has failed here.
        """
        refused: list[QueuedTask] = []
        for task in sorted(tasks, key=lambda t: t.order, reverse=True):
            task.worker = None
            if task.producer_failed:
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
        """Return the tasks that wait here for the result of a task, directly or through other tasks."""
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
        """Return (arrival number of the head, task class) of each task class that has a head, sorted."""
        found: list[tuple[int, TaskClassQueue]] = []
        for task_class in list(self._active.values()):
            head = task_class.head
            if head is not None:
                found.append((head.order, task_class))
            else:
                del self._active[task_class.number]
        if len(found) > 1:
            found.sort(key=lambda pair: pair[0])
        return found
