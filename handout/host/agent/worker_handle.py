"""The agent's view of one worker."""

from __future__ import annotations

import socket
from collections import deque
from typing import Any, NamedTuple

from handout.host.agent.output_capture import Pipe
from handout.host.agent.task_queue import QueuedTask, TaskClassQueue
from handout.host.system import cgroups, shared_page
from handout.protocol import frames, messages
from handout.protocol.messages import WorkerOptions
from handout.protocol.resource_ledger import Claim

__all__ = ["WorkerHandle", "WorkerKey"]


class WorkerKey(NamedTuple):
    """The properties that all tasks of one worker have in common. A task with another key needs another worker."""

    #: Key of the source bundle, which contains the user's modules. None if the tasks need no bundle.
    bundle: int | None
    #: Indices of the GPUs that the tasks see.
    devices: tuple[int, ...]
    threads: int
    #: True if the tasks are coroutines that run beside each other, in one event loop.
    shared_loop: bool
    options: WorkerOptions


class WorkerHandle:
    """The agent's view of one worker: the worker's link, shared page, output pipes and queued tasks."""

    def __init__(self, number: int, link: socket.socket, page: memoryview, nonce: bytes) -> None:
        self.number = number
        self.link = link
        self.page = page
        self.nonce = nonce
        self.pid = 0
        self.key: WorkerKey | None = None
        #: Folder of the worker's control group. None if the tasks have no memory limit, or if no group could be made.
        self.group: str | None = None
        self.pipes: list[tuple[int, Pipe]] = []
        self.decoder = frames.Decoder()
        self.unsent: deque[memoryview] = deque()
        #: The claim (amounts of the ledger) that the worker holds for its tasks, or None.
        self.claim: Any = None
        #: The task class that the claim is for, or None.
        self.task_class: TaskClassQueue | None = None
        #: The tasks that the agent has sent to the worker, and whose end the worker has not reported yet. The keys are
        #: the numbers of the tasks on this worker, in ascending order.
        self.queued: dict[int, QueuedTask] = {}
        #: Microseconds that the queued tasks are expected to take together.
        self.load_us = 0.0
        self.next_number = 1
        #: Numbers of the functions that the agent has sent to the worker.
        self.functions: set[int] = set()
        #: True once the worker takes no more tasks.
        self.leaving = False
        #: True if a task closed the worker's link or wrote to the link.
        self.link_misused = False
        #: True while the worker is one of the pool's idle workers.
        self.idle = False
        #: The identities of the warm values that the worker has made. It is kept for them when it is idle.
        self.warm: set[str] = set()
        #: Keys of the objects from which they were made.
        self.warm_inputs: set[int] = set()
        #: True if one of them was made from no object, so that it is of use until the worker ends.
        self.has_lasting_value = False
        #: True if the worker leaves context managers of warm values when it ends.
        self.must_leave = False
        #: The tasks with lower numbers on this worker began, or will begin, before the worker leaves the context
        #: managers of values that it was told to drop. The others wait until it has left them.
        self.leaves_before = 0
        #: Since when the worker leaves them while a task waits, in nanoseconds of the monotonic clock. None if it does
        #: not.
        self.leaving_since_ns: int | None = None
        #: While the worker is idle and warm: a claim of what its warm values may still hold of all that its last task
        #: claimed. Otherwise None.
        self.held: Claim | None = None
        #: While the agent is recalling tasks from this worker, the lowest number of such a task. Otherwise None.
        self.recalled_from: int | None = None
        #: Number of the last task that ran so long that the agent recalled the tasks behind it, or 0 if there was none.
        #: While the task with this number runs, no further task is queued behind it.
        self.slow_task = 0
        #: True once `TaskEnder` has decided to kill the worker. The worker's tasks that have no ``end_reason`` then
        #: start again on another worker.
        self.killed = False
        #: True once the worker has ended. The shared page must not be used then.
        self.gone = False
        #: True if the worker has reported that it ends by itself. Such a worker does not start its queued tasks.
        self.reported_leaving = False
        #: The task whose exception the worker describes now.
        self.raised: messages.TaskRaised | None = None

    @property
    def shared(self) -> bool:
        """True if the worker's tasks are coroutines that run beside each other, in one event loop."""
        return self.key is not None and self.key.shared_loop

    @property
    def killed_at_limit(self) -> bool:
        """True if the kernel killed a process at the memory limit of the worker's control group."""
        return self.group is not None and cgroups.killed_at_limit(self.group)

    @property
    def suffix(self) -> str:
        """The end of the name of each file that the worker writes into the store."""
        return f".w{self.number}"

    @property
    def running(self) -> QueuedTask | None:
        """The task that runs according to the shared page, or None.

        This task may have ended already, if the report of its end is still on the way.
        """
        if self.page[shared_page.IDLE]:
            return None
        return self.queued.get(self.page[shared_page.ANNOUNCED])
