"""Checks running tasks from time to time, and ends tasks that exceed their timeout or their memory limit.

The monitor also reports to the controller which tasks have been running for a while. If a task takes longer than
`_RECALL_NS`, the monitor recalls the tasks that are queued behind it on the same worker. However, a worker with a
shared loop runs all of its tasks at the same time, as coroutines in one event loop, so there is nothing to recall.
"""

from __future__ import annotations

import asyncio

from handout.host.agent.result_sender import ResultSender
from handout.host.agent.task_ender import TaskEnder
from handout.host.agent.task_queue import QueuedTask
from handout.host.agent.worker_handle import WorkerHandle
from handout.host.agent.worker_pool import LEAVE_S, WorkerPool
from handout.host.system import processes, shared_page
from handout.host.system.clock import now_ns
from handout.protocol.messages import WarmingBegan

#: Seconds between two checks while any worker without a shared loop has more than one task, has a task that was not
#: reported to the controller as running yet, or is being killed.
_FAST_S = 0.02
#: Seconds between two checks while there is no such worker, but there are tasks with a timeout or a memory limit, or
#: tasks of a shared loop that were not reported as running yet.
_SLOW_S = 0.1
#: The monitor assumes that the memory of a task grows by at most this many bytes per second. The next measurement comes
#: before the task can reach its limit at this rate.
_GROWTH = 2 << 30
#: At least this many seconds pass between two measurements of the memory of one task.
_LEAST_S = 0.01
#: The largest share of its time that the agent may spend on measuring the memory of one task.
_MEASURE_SHARE = 0.05
#: Once a task has run for this many nanoseconds, the monitor recalls the tasks that are queued behind it, so that they
#: can start on another worker.
_RECALL_NS = 20_000_000
#: Once a task has run for this many nanoseconds, the monitor reports to the controller that the task runs.
_REPORT_NS = 50_000_000


class LimitsMonitor:
    """Checks the running tasks with a timer. The timer runs only while a task needs a check.

    Args:
        pool: The workers.
        ender: Ends tasks that exceed a limit.
        sender: Reports to the controller which tasks run.
    """

    def __init__(self, pool: WorkerPool, ender: TaskEnder, sender: ResultSender) -> None:
        self._pool = pool
        self._ender = ender
        self._sender = sender
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Check tasks soon, because the dispatcher has sent tasks to a worker."""
        self._check_in(_FAST_S)

    def _check_in(self, delay_s: float) -> None:
        """Check tasks after ``delay_s`` seconds, unless a check is due before that."""
        when = self._loop.time() + delay_s
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._check)

    def _check(self) -> None:
        """Check the tasks of every worker once, and decide when to check them again."""
        self._timer = None
        now = now_ns()
        unreported: list[QueuedTask] = []
        limited = fast = False
        for worker in list(self._pool.workers.values()):
            if not worker.queued:
                continue
            if worker.shared:
                limited |= self._check_coroutines(worker, now, unreported)
                continue
            task = worker.running
            if task is None or worker.killed:
                self._check_leaving(worker, now)
                fast = True
                continue
            worker.leaving_since_ns = None
            elapsed = now - worker.page[shared_page.STARTED]
            if len(worker.queued) > 1:
                fast = True
                if elapsed > _RECALL_NS and worker.slow_task != task.number_on_worker:
                    self._recall_queued(worker, task)
            if not task.start_reported:
                fast = True
                if elapsed > _REPORT_NS:
                    unreported.append(task)
            if task.warming is not None:
                self._check_warming(worker, task, task.warming, now)
                limited = True
                elapsed = 0
            limited |= self._check_limits(worker, task, elapsed)
        if unreported:
            self._sender.started([task.attempt_id for task in unreported])
            for task in unreported:
                task.start_reported = True
        if fast:
            self._check_in(_FAST_S)
        elif limited:
            self._check_in(_SLOW_S)

    def _recall_queued(self, worker: WorkerHandle, task: QueuedTask) -> None:
        """Recall the tasks that are queued behind a slow task.

        Also have the worker report the tasks that ended before the slow one. Otherwise their report would wait until
        the slow task has ended.
        """
        worker.slow_task = task.number_on_worker
        self._ender.recall_from(worker, task.number_on_worker + 1)
        if next(iter(worker.queued)) < task.number_on_worker:
            self._pool.signal(worker, shared_page.FLUSH_SIGNAL)

    def _check_coroutines(self, worker: WorkerHandle, now: int, unreported: list[QueuedTask]) -> bool:
        """Check all tasks of a shared loop. Return True if one of them must be checked again."""
        again = False
        for task in list(worker.queued.values()):
            elapsed = now - task.started_ns
            if not task.start_reported and elapsed > _REPORT_NS:
                unreported.append(task)
            timeout_s = task.task_class.timeout_s
            if task.warming is not None:
                self._check_warming(worker, task, task.warming, now)
            elif timeout_s is not None and elapsed > timeout_s * 1e9:
                self._ender.end_running(worker, task, "timeout")
            again |= timeout_s is not None or task.warming is not None or not task.start_reported
        return again

    def _check_leaving(self, worker: WorkerHandle, now: int) -> None:
        """End a worker if a task waits too long until the worker has left context managers of dropped warm values."""
        if worker.killed or worker.page[shared_page.ANNOUNCED] >= worker.leaves_before:
            worker.leaving_since_ns = None
        elif worker.leaving_since_ns is None:
            worker.leaving_since_ns = now
        elif now - worker.leaving_since_ns > LEAVE_S * 1e9:
            self._ender.end_waiting(worker)

    def _check_warming(self, worker: WorkerHandle, task: QueuedTask, warming: WarmingBegan, now: int) -> None:
        """End a task if making a warm value for it takes too long."""
        if now - task.warming_since_ns > warming.timeout_s * 1e9:
            self._ender.end_running(worker, task, "timeout")

    def _check_limits(self, worker: WorkerHandle, task: QueuedTask, elapsed: int) -> bool:
        """End a task if it exceeds its timeout or memory limit. Return True if the task has such a limit."""
        task_class = task.task_class
        if task_class.timeout_s is not None and elapsed > task_class.timeout_s * 1e9:
            self._ender.end_running(worker, task, "timeout")
        elif task_class.options.memory_limit is not None:
            self._check_memory(worker, task, task_class.options.memory_limit)
        return task_class.timeout_s is not None or task_class.options.memory_limit is not None

    def _check_memory(self, worker: WorkerHandle, task: QueuedTask, limit: int) -> None:
        """Measure the memory of a task, unless it is too early for that.

        End the task if it exceeds its limit. Otherwise plan the next measurement.
        """
        began = self._loop.time()
        if not worker.pid or began + _LEAST_S / 2 < task.measure_at:
            return
        used = processes.tree_memory(worker.pid, limit)
        task.peak_memory = max(task.peak_memory, used)
        # The task is also ended if the kernel has killed a process at the memory limit. The killed process may be one
        # that the task had started, and the task might otherwise wait for that process for ever.
        if used > limit or worker.killed_at_limit:
            self._ender.end_running(worker, task, "memory")
            return
        ended = self._loop.time()
        delay_s = max(min((limit - used) / _GROWTH, _SLOW_S), _LEAST_S, (ended - began) / _MEASURE_SHARE)
        task.measure_at = ended + delay_s
        self._check_in(delay_s)
