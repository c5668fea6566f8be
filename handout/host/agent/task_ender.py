"""Ends tasks that have been sent to workers: cancels them, recalls them, and kills workers if there is no other way.

Most workers run one task at a time; further tasks are queued on the worker meanwhile. Other workers have a shared loop:
an event loop in which they run many coroutines at the same time. When a worker starts a task, it announces the task's
number on its shared page, a page of memory that it shares with the agent. The agent can recall tasks from a worker, so
that the worker does not start them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from handout.host.agent.dispatcher import Dispatcher
from handout.host.agent.result_sender import ResultSender
from handout.host.agent.task_exits import TaskExits
from handout.host.agent.task_queue import ENDED, QUEUED, QueuedTask, TaskQueue
from handout.host.agent.worker_handle import WorkerHandle
from handout.host.agent.worker_pool import WorkerPool
from handout.host.system import shared_page

__all__ = ["TaskEnder"]

#: If a task exceeds a limit, the agent has the worker print the task's stack. It looks for the stack after this many
#: seconds, and begins to kill the worker once the stack has come. This does not apply to a shared loop.
_SAMPLE_S = 0.05
#: The agent looks for the stack at most this often, because a task may have closed its standard error. On a busy host,
#: it can take far longer than one look until the worker is scheduled.
_MAX_LOOKS = 20
#: Seconds that the agent waits for the end of a worker after SIGKILL. Then the agent takes the worker's tasks back.
_UNKILLABLE_S = 5.0


class TaskEnder:
    """Ends tasks on workers.

    Args:
        exits: Ends tasks that no worker runs, or gives them back.
        sender: Knows whether the stack of a task has been sent.
        queue: The tasks.
        dispatcher: Starts further tasks when tasks have ended.
        pool: The workers.
        kill_after_s: A task that has exceeded its timeout is asked to end: its coroutine is cancelled, or its worker
            gets SIGTERM. If the task has not ended this many seconds later, the worker gets SIGKILL.
    """

    def __init__(
        self,
        exits: TaskExits,
        sender: ResultSender,
        queue: TaskQueue,
        dispatcher: Dispatcher,
        pool: WorkerPool,
        kill_after_s: float,
    ) -> None:
        self._exits = exits
        self._sender = sender
        self._queue = queue
        self._dispatcher = dispatcher
        self._pool = pool
        self._kill_after_s = kill_after_s
        self._loop = asyncio.get_running_loop()

    def cancel(self, attempt_ids: Sequence[int], grace_s: float) -> None:
        """End attempts with a failure of the kind ``cancelled``.

        Args:
            attempt_ids: The attempts. Ids of attempts that the agent does not have are ignored.
            grace_s: A running attempt has this many seconds to end by itself. Then its worker gets SIGKILL.
        """
        for task in self._mark(attempt_ids, "cancelled"):
            self._exits.fail(task, "cancelled")
        self._dispatcher.grace_s = grace_s
        self._dispatcher.schedule()

    def exceed_memory(self, attempt_ids: Sequence[int]) -> None:
        """End running attempts as if they had exceeded their memory limits."""
        for attempt_id in attempt_ids:
            task = self._queue.tasks.get(attempt_id)
            if task is None or task.state != QUEUED or task.worker.running is not task:
                continue
            limit = task.task_class.options.memory_limit
            if limit is not None:
                task.peak_memory = max(task.peak_memory, limit + 1)
                self.end_running(task.worker, task, "memory")

    def recall(self, attempt_ids: Sequence[int]) -> None:
        """Give attempts that have not started back to the controller. Attempts that have started go on."""
        for task in self._mark(attempt_ids, "recalled"):
            self._exits.give_back(task)
        self._dispatcher.schedule()

    def _mark(self, attempt_ids: Sequence[int], end_reason: str) -> list[QueuedTask]:
        """Set the ``end_reason`` of attempts that are queued on workers, and recall these attempts from the workers.

        Returns:
            The attempts that are not queued on a worker.
        """
        here: list[QueuedTask] = []
        first: dict[WorkerHandle, int] = {}
        for attempt_id in attempt_ids:
            task = self._queue.tasks.get(attempt_id)
            if task is None:
                continue
            if task.state != QUEUED:
                here.append(task)
            elif task.end_reason is None or end_reason == "cancelled":
                task.end_reason = end_reason
                first[task.worker] = min(task.number_on_worker, first.get(task.worker, task.number_on_worker))
        for worker, number in first.items():
            self.recall_from(worker, number)
        return here

    def recall_from(self, worker: WorkerHandle, first: int) -> None:
        """Recall from a worker the tasks with the number ``first`` and higher numbers. `shared_page` explains how."""
        if worker.recalled_from is None:
            self._loop.call_later(shared_page.SETTLE_S, self._finish_recall, worker)
            worker.recalled_from = first
        if worker.page[shared_page.ANNOUNCED] < worker.page[shared_page.RECALLED_TO]:
            # The worker has not passed all tasks of an earlier recall yet. Those tasks must not start either.
            first = min(first, worker.page[shared_page.RECALLED_FROM])
        worker.recalled_from = min(first, worker.recalled_from)
        worker.page[shared_page.RECALLED_TO] = worker.next_number - 1
        worker.page[shared_page.RECALLED_FROM] = worker.recalled_from

    def _finish_recall(self, worker: WorkerHandle) -> None:
        """Take back the recalled tasks that the worker has not announced, and end cancelled tasks that have started.

        From now on, the worker cannot start a recalled task that it has not announced; `shared_page` explains why.
        """
        first, worker.recalled_from = worker.recalled_from, None
        if worker.gone or first is None:
            return
        announced, last = worker.page[shared_page.ANNOUNCED], worker.page[shared_page.RECALLED_TO]
        numbers = [n for n in worker.queued if first <= n <= last and n > announced]
        self._exits.put_back(worker, [worker.queued.pop(n) for n in numbers])
        cancelled = [t for t in worker.queued.values() if t.end_reason == "cancelled" and not t.being_ended]
        for task in worker.queued.values():
            if task.end_reason == "recalled":
                task.end_reason = None
        if cancelled:
            self._end(worker, cancelled, self._dispatcher.grace_s)
        if not worker.queued:
            self._dispatcher.release(worker)
        self._dispatcher.schedule()

    def _end(self, worker: WorkerHandle, tasks: Sequence[QueuedTask], grace_s: float) -> None:
        """End tasks that a worker runs. Cancel them if the worker has a shared loop; otherwise kill the worker."""
        for task in tasks:
            task.being_ended = True
            if not worker.shared:
                task.started_ns = worker.page[shared_page.STARTED]
        if worker.shared:
            self._dispatcher.cancel_coroutines(worker, tasks)
            self._loop.call_later(grace_s, self._end_stubborn, worker, list(tasks))
        elif not worker.killed:
            # The tasks that are queued behind the running task are recalled, so that they start on another worker.
            self.recall_from(worker, worker.page[shared_page.ANNOUNCED] + 1)
            self._kill(worker, grace_s)

    def _end_stubborn(self, worker: WorkerHandle, tasks: Sequence[QueuedTask]) -> None:
        """Kill a worker if it still runs one of the given coroutines, which were cancelled a while ago.

        The other tasks of the worker then start again on another worker.
        """
        if any(worker.queued.get(task.number_on_worker) is task for task in tasks) and not worker.gone:
            self._kill(worker, 0.0)

    def _kill(self, worker: WorkerHandle, grace_s: float) -> None:
        worker.killed = True
        self._pool.kill(worker, grace_s)
        self._loop.call_later(grace_s + _UNKILLABLE_S, self._give_up, worker)

    def _give_up(self, worker: WorkerHandle) -> None:
        """Take back the tasks of a worker if it has not ended after SIGKILL.

        The worker keeps its claim on the ledger, because its process may still use the claimed amounts.
        """
        tasks, worker.queued = list(worker.queued.values()), {}
        self._exits.put_back(worker, tasks)
        self._dispatcher.schedule()

    def end_running(self, worker: WorkerHandle, task: QueuedTask, kind: str) -> None:
        """End a task that exceeds a limit.

        Args:
            worker: The worker that runs the task. The agent kills the worker; in a shared loop, it first cancels the
                task, and kills the worker only if the task does not end.
            task: The task.
            kind: The kind of the task's failure, as in `Failed`.
        """
        if task.end_reason is not None and task.end_reason != "recalled":
            return
        task.end_reason = kind
        if worker.shared:
            self._end(worker, [task], self._kill_after_s)
            return
        task.started_ns = worker.page[shared_page.STARTED]
        task.being_ended = worker.leaving = True
        self.recall_from(worker, task.number_on_worker + 1)
        self._pool.signal(worker, shared_page.SAMPLE_SIGNAL)
        # If the task exceeds its memory limit, its worker gets SIGKILL after one look and without SIGTERM, so that the
        # task cannot take even more memory.
        looks, grace_s = (1, 0.0) if kind == "memory" else (_MAX_LOOKS, self._kill_after_s)
        self._loop.call_later(_SAMPLE_S, self._kill_once_sampled, worker, task.attempt_id, looks, grace_s)

    def end_waiting(self, worker: WorkerHandle) -> None:
        """Kill a worker that has begun none of its tasks. The tasks start again on other workers."""
        self._kill(worker, 0.0)

    def _kill_once_sampled(self, worker: WorkerHandle, attempt_id: int, looks: int, grace_s: float) -> None:
        """Kill a worker if the stack of its task has come or no looks are left. Otherwise look again later."""
        if looks > 1 and not self._sender.has_stack(attempt_id):
            self._loop.call_later(_SAMPLE_S, self._kill_once_sampled, worker, attempt_id, looks - 1, grace_s)
        else:
            self._kill(worker, grace_s)

    def lapse(self) -> None:
        """End all tasks, because the lease has ended.

        Tasks that were sent to a worker fail, and their workers are killed. All other tasks go back to the controller.
        """
        for task in list(self._queue.tasks.values()):
            if task.state == QUEUED:
                task.end_reason = task.end_reason or "host"
            elif task.state != ENDED:
                self._exits.give_back(task)
        for worker in self._pool.workers.values():
            if worker.queued:
                running = worker.running
                if running is not None and not worker.shared:
                    running.started_ns = worker.page[shared_page.STARTED]
                self.recall_from(worker, 0)
                self._kill(worker, 0.0)
