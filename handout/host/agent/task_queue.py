"""The tasks that a host has been handed and has not ended: which wait for inputs, which may start, in what order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Callable

from handout.protocol.frames import Buffer

WAITING, READY, QUEUED, ENDED = range(4)
_NOBODY: dict[int, QueuedTask] = {}


class TaskClassQueue:
    """What tasks have in common: what they need, and how they are run."""

    __slots__ = (
        "blocked_since",
        "code",
        "hands",
        "max_result_bytes",
        "memory_limit",
        "need",
        "number",
        "ready",
        "shared_loop",
        "solo",
        "threads",
        "timeout_s",
    )

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.number: int = fields["class"]
        self.need: dict[str, int] = fields["need"]
        self.threads: int = fields.get("threads", 1)
        self.shared_loop: bool = fields.get("shared_loop", False)
        self.timeout_s: float | None = fields.get("timeout_s")
        self.memory_limit: int | None = fields.get("memory_limit")
        self.max_result_bytes: int | None = fields.get("max_result_bytes")
        #: Never queued behind another task.
        self.solo: bool = fields.get("solo", False)
        #: The object that holds the source bundle.
        self.code: int | None = fields.get("code")
        #: Tasks that may start, in order of arrival; those that are not READY any more are passed over.
        self.ready: deque[QueuedTask] = deque()
        #: Workers that hold a claim for this class.
        self.hands: list[Any] = []
        #: Since when its first task has found no room.
        self.blocked_since: float | None = None

    @property
    def head(self) -> QueuedTask | None:
        """The task that is to start next."""
        ready = self.ready
        while ready and ready[0].state != READY:
            ready.popleft()
        return ready[0] if ready else None


class QueuedTask:
    """One attempt of a task on this host."""

    __slots__ = (
        "attempt",
        "blob",
        "claim",
        "cls",
        "doomed",
        "dying",
        "est_us",
        "fate",
        "fn",
        "hand",
        "id",
        "inputs",
        "keep",
        "look_at",
        "misses",
        "missing",
        "order",
        "out",
        "peak",
        "seq",
        "solo",
        "started",
        "state",
        "ticket",
        "told",
        "variant",
    )

    def __init__(
        self,
        ticket: int,
        fn: int,
        cls: TaskClassQueue,
        blob: Buffer,
        inputs: list[int],
        out: list[int],
        keep: int,
        id: str,
        attempt: int,
        variant: int,
    ) -> None:
        self.ticket = ticket
        self.fn = fn
        self.cls = cls
        self.blob = blob
        self.inputs = inputs
        self.out = out
        self.keep = keep
        self.id = id
        self.attempt = attempt
        self.variant = variant
        #: Inputs that are not in the store.
        self.missing = 0
        self.state = WAITING
        self.order = 0
        #: The worker that it is queued on, its number there, and the time that it is expected to take.
        self.hand: Any = None
        self.seq = 0
        self.est_us = 0.0
        #: Why it will not end by itself: the kind of its failure, "returned", or None.
        self.fate: str | None = None
        #: It runs, and has been told to end.
        self.dying = False
        #: What it follows has failed here: it goes back as soon as its worker lets go of it.
        self.doomed = False
        #: It was among several when a worker died: it runs alone.
        self.solo = False
        #: How often a worker lacked inputs that it was sent; the most memory that was seen.
        self.misses = 0
        self.peak = 0
        #: When its memory is looked at again: seconds of the loop's clock.
        self.look_at = 0.0
        #: The controller knows that it runs.
        self.told = False
        #: When it was seen to start, for tasks of a shared loop.
        self.started = 0
        #: What it holds of the ledger, for tasks of a shared loop.
        self.claim: Any = None


def _wants(task: QueuedTask) -> list[int]:
    """What must be here before a task starts: its inputs, and the sources that it is made of."""
    return task.inputs if task.cls.code is None else [*task.inputs, task.cls.code]


class TaskQueue:
    """All tasks here, by what they wait for.

    Args:
        has: Whether the store has an object.
    """

    def __init__(self, has: Callable[[int], bool]) -> None:
        self._has = has
        self.tasks: dict[int, QueuedTask] = {}
        self.classes: dict[int, TaskClassQueue] = {}
        #: Object -> tasks that lack it, by ticket.
        self.waiting: dict[int, dict[int, QueuedTask]] = {}
        #: Object -> the task here that makes it.
        self.producing: dict[int, QueuedTask] = {}
        #: Classes that may have tasks to start.
        self._active: dict[int, TaskClassQueue] = {}
        self._order = 0

    def add(self, task: QueuedTask) -> None:
        """Take a task in."""
        self._order += 1
        task.order = self._order
        self.tasks[task.ticket] = task
        for key in task.out:
            if key != -1:
                self.producing[key] = task
        has = self._has
        for key in _wants(task):
            if not has(key):
                task.missing += 1
                self.waiting.setdefault(key, {})[task.ticket] = task
        if not task.missing:
            self.make_ready(task)

    def make_ready(self, task: QueuedTask) -> None:
        """Let a task start when there is room."""
        task.state = READY
        task.cls.ready.append(task)
        self._active[task.cls.number] = task.cls

    def arrived(self, key: int) -> bool:
        """An object is in the store; True where a task may start because of it."""
        woken = False
        for task in self.waiting.pop(key, _NOBODY).values():
            task.missing -= 1
            if not task.missing and task.state == WAITING:
                self.make_ready(task)
                woken = True
        return woken

    def put_back(self, tasks: Iterable[QueuedTask]) -> list[QueuedTask]:
        """Tasks come back from a worker unstarted: they go first, or wait again.

        Returns: Those that cannot: what they follow has failed here.
        """
        refused: list[QueuedTask] = []
        for task in sorted(tasks, key=lambda t: t.order, reverse=True):
            task.hand = None
            if task.doomed:
                refused.append(task)
            elif task.missing:
                task.state = WAITING
            else:
                task.state = READY
                task.cls.ready.appendleft(task)
                self._active[task.cls.number] = task.cls
        return refused

    def end(self, task: QueuedTask) -> None:
        """A task has ended, whichever way."""
        task.state = ENDED
        self.tasks.pop(task.ticket, None)
        for key in task.out:
            if key != -1 and self.producing.get(key) is task:
                del self.producing[key]
        if task.missing:
            for key in _wants(task):
                waiters = self.waiting.get(key)
                if waiters is not None and waiters.pop(task.ticket, None) is not None and not waiters:
                    del self.waiting[key]

    def followers(self, task: QueuedTask) -> list[QueuedTask]:
        """Tasks that wait here for what this one makes, and those that wait for them in turn."""
        found: list[QueuedTask] = []
        seen = {task.ticket}
        todo = [task]
        while todo:
            for key in todo.pop().out:
                for follower in self.waiting.get(key, _NOBODY).values():
                    if follower.ticket not in seen:
                        seen.add(follower.ticket)
                        found.append(follower)
                        todo.append(follower)
        return found

    def heads(self) -> list[tuple[int, TaskClassQueue]]:
        """Classes that have a task to start, with the order of their first, first come first."""
        found: list[tuple[int, TaskClassQueue]] = []
        for cls in list(self._active.values()):
            head = cls.head
            if head is not None:
                found.append((head.order, cls))
            else:
                del self._active[cls.number]
        if len(found) > 1:
            found.sort(key=lambda pair: pair[0])
        return found
