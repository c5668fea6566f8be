"""Looks at running tasks from time to time, and ends those that exceed their timeout or their memory limit.

It also tells the controller which tasks have been running for a while, and frees tasks that are queued behind a task
that takes longer than expected.
"""

from __future__ import annotations

import asyncio

from handout.host.agent.completion import Completion
from handout.host.agent.result_sender import ResultSender
from handout.host.agent.task_queue import QueuedTask
from handout.host.agent.worker_pool import WorkerHandle, WorkerPool
from handout.host.system import processes, shared_page
from handout.host.system.clock import now_ns

_FAST_S = 0.02
_SLOW_S = 0.1
#: Bytes a second by which a task's memory may grow, as a guess: its memory is measured again before it could exceed the
#: limit at this rate.
_GROWTH = 2 << 30
_LEAST_S = 0.01
#: The part of the agent's time that measuring the memory of process trees may take, at most.
_LOOK_SHARE = 0.05
#: Nanoseconds after which the tasks queued behind a running task start on another worker.
_RESCUE_NS = 20_000_000
#: Nanoseconds after which the controller is told that a task runs.
_REPORT_NS = 50_000_000


class LimitsMonitor:
    """Looks at the running tasks by a timer, which runs only while a task needs it.

    Args:
        pool: The workers.
        completion: Ends tasks that exceed a limit.
        sender: Tells the controller which tasks run.
    """

    def __init__(self, pool: WorkerPool, completion: Completion, sender: ResultSender) -> None:
        self._pool = pool
        self._completion = completion
        self._sender = sender
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look soon, because a task was started."""
        self._look_in(_FAST_S)

    def _look_in(self, delay_s: float) -> None:
        """Look after that time, unless an earlier look is due."""
        when = self._loop.time() + delay_s
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """Look at every worker once, and decide when to look again."""
        self._timer = None
        at = now_ns()
        fresh: list[QueuedTask] = []
        watching = fast = False
        for worker in list(self._pool.workers.values()):
            if not worker.queued:
                continue
            if worker.shared:
                watching |= self._look_at_coroutines(worker, at, fresh)
                continue
            task = worker.running
            if task is None or worker.killed:
                fast = True
                continue
            elapsed = at - worker.page[shared_page.STARTED]
            if len(worker.queued) > 1:
                fast = True
                if elapsed > _RESCUE_NS and worker.slow_task != task.number_on_worker:
                    self._rescue(worker, task)
            if not task.start_reported:
                fast = True
                if elapsed > _REPORT_NS:
                    fresh.append(task)
            watching |= self._check_limits(worker, task, elapsed)
        if fresh:
            self._sender.started([task.attempt_id for task in fresh])
            for task in fresh:
                task.start_reported = True
        if fast:
            self._look_in(_FAST_S)
        elif watching:
            self._look_in(_SLOW_S)

    def _rescue(self, worker: WorkerHandle, task: QueuedTask) -> None:
        """Recall the tasks behind a task that takes longer than expected, and have the results before it sent."""
        worker.slow_task = task.number_on_worker
        self._completion.recall_from(worker, task.number_on_worker + 1)
        if next(iter(worker.queued)) < task.number_on_worker:
            self._pool.signal(worker, shared_page.FLUSH_SIGNAL)

    def _look_at_coroutines(self, worker: WorkerHandle, at: int, fresh: list[QueuedTask]) -> bool:
        """Look at all tasks of a shared loop; return True if they must be looked at again."""
        limited = False
        for task in list(worker.queued.values()):
            elapsed = at - task.started_ns
            if not task.start_reported and elapsed > _REPORT_NS:
                fresh.append(task)
            timeout_s = task.task_class.timeout_s
            if timeout_s is not None and elapsed > timeout_s * 1e9:
                self._completion.end_running(worker, task, "timeout")
            limited |= timeout_s is not None or not task.start_reported
        return limited

    def _check_limits(self, worker: WorkerHandle, task: QueuedTask, elapsed: int) -> bool:
        """End a task that exceeds its time or memory; return True if it must be looked at again."""
        task_class = task.task_class
        if task_class.timeout_s is not None and elapsed > task_class.timeout_s * 1e9:
            self._completion.end_running(worker, task, "timeout")
        elif task_class.options.memory_limit is not None:
            self._check_memory(worker, task, task_class.options.memory_limit)
        return task_class.timeout_s is not None or task_class.options.memory_limit is not None

    def _check_memory(self, worker: WorkerHandle, task: QueuedTask, limit: int) -> None:
        """End a task that exceeds its memory limit, or look again before it can exceed it."""
        began = self._loop.time()
        if not worker.pid or began + _LEAST_S / 2 < task.measure_at:
            return
        used = processes.tree_memory(worker.pid, limit)
        task.peak_memory = max(task.peak_memory, used)
        # The kernel may have killed a process that the task started, for which the task may wait for ever.
        if used > limit or worker.killed_at_limit:
            self._completion.end_running(worker, task, "memory")
            return
        ended = self._loop.time()
        delay_s = max(min((limit - used) / _GROWTH, _SLOW_S), _LEAST_S, (ended - began) / _LOOK_SHARE)
        task.measure_at = ended + delay_s
        self._look_in(delay_s)
