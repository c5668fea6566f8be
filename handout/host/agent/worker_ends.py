"""Handles workers that end or cannot be started: finds the task that is to blame, and the cause."""

from __future__ import annotations

import os
import resource
import signal
import traceback
from collections.abc import Sequence
from typing import Any

from handout.host.agent.dispatcher import Dispatcher
from handout.host.agent.object_store import DISK, ObjectStore
from handout.host.agent.task_exits import TaskExits
from handout.host.agent.task_queue import ENDED, READY, QueuedTask, TaskClassQueue
from handout.host.agent.worker_handle import WorkerHandle
from handout.host.agent.worker_pool import WorkerPool
from handout.host.system import shared_page
from handout.host.system.oom_kills import OomKills, kills_in
from handout.host.worker.objects import why_refused
from handout.protocol import messages
from handout.protocol.resource_ledger import PARTS

__all__ = ["MAX_SPAWN_FAILURES", "WorkerEnds"]

#: If the system refuses to fork a worker, the tasks that were queued on this worker return to the queue. However, they
#: fail if more forks than this have been refused in a row and the host has no worker left.
MAX_SPAWN_FAILURES = 50


class WorkerEnds:
    """Decides what becomes of the tasks of a worker that has ended or could not start.

    Args:
        exits: Ends tasks, or gives them back.
        store: Its folder is named in the error of a host that cannot start a worker.
        dispatcher: Starts tasks. It calls this object if it cannot start a worker for tasks.
        pool: The workers.
        oom_kills: Tells whether the kernel has killed a process for lack of memory.
    """

    def __init__(
        self, exits: TaskExits, store: ObjectStore, dispatcher: Dispatcher, pool: WorkerPool, oom_kills: OomKills
    ) -> None:
        self._exits = exits
        self._store = store
        self._dispatcher = dispatcher
        self._pool = pool
        self._oom_kills = oom_kills
        #: How many workers in a row could not be started.
        self._spawn_failures = 0
        dispatcher.on_no_worker = self._fail_without_worker

    def on_worker_gone(self, worker: WorkerHandle, report: messages.WorkerGone) -> None:
        """Handle the end of a worker.

        If a task caused the end, that task fails. `TaskExits.put_back` decides what becomes of the other tasks.
        """
        queued = list(worker.queued.values())
        if report.error:
            queued = self._count_spawn_failure(worker, queued, report.error)
        else:
            self._spawn_failures = 0
        if report.lapsed:
            # The supervisor killed the worker, because the lease had ended. If the lease was renewed shortly
            # afterwards, the agent may not have noticed the end of the lease.
            worker.killed = True
            for task in queued:
                task.end_reason = task.end_reason or "host"
        culprit: QueuedTask | None = None
        if queued and not worker.killed and not worker.reported_leaving and not report.error:
            culprit = self._find_culprit(worker, queued)
        worker.queued.clear()
        if culprit is not None and culprit.end_reason is None:
            queued.remove(culprit)
            self._dispatcher.forget(worker, culprit)
            self._fail_culprit(worker, culprit, report)
        for task in queued:
            task.being_ended = False
            self._exits.put_back(worker, [task])
        self._dispatcher.release(worker)
        self._dispatcher.schedule()

    def _count_spawn_failure(self, worker: WorkerHandle, queued: list[QueuedTask], error: str) -> list[QueuedTask]:
        """Have further workers wait. After too many failures, fail the tasks of this worker.

        Returns:
            The tasks that are still queued, which `TaskExits.put_back` takes back.
        """
        self._dispatcher.hold()
        self._spawn_failures += 1
        if self._spawn_failures <= MAX_SPAWN_FAILURES or self._pool.workers:
            return queued
        for task in queued:
            if task.end_reason != "recalled":
                self._dispatcher.forget(worker, task)
                self._exits.fail(task, task.end_reason or "host", message=f"the host cannot start a worker: {error}")
        return [task for task in queued if task.end_reason == "recalled"]

    def _fail_without_worker(self, task_class: TaskClassQueue, error: OSError) -> None:
        """After too many failures to start a worker, fail the tasks of a class.

        They do not fail as long as there is a worker, because its end may make room for another.
        """
        self._spawn_failures += 1
        if self._spawn_failures == 1:
            traceback.print_exc()
        if self._spawn_failures <= MAX_SPAWN_FAILURES or self._pool.workers:
            return
        message = f"the host cannot start a worker: {why_refused(self._store.folders[DISK], error)}"
        for task in [task for task in task_class.ready if task.state == READY]:
            if task.state != ENDED:
                self._exits.fail(task, "host", message=message)

    def _fail_culprit(self, worker: WorkerHandle, culprit: QueuedTask, report: messages.WorkerGone) -> None:
        if not worker.shared:
            culprit.started_ns = worker.page[shared_page.STARTED]
        if worker.killed_at_limit:
            self._oom_kills.reset()
            self._exits.fail(culprit, "memory", maxrss=report.rss)
        elif worker.raised is not None and worker.raised.number == culprit.number_on_worker:
            facts = self._cause_of_death(worker, report)
            said = f"<no text: {facts['message']}, in a method of the exception>".replace(" while the task ran", "")
            self._exits.fail(culprit, "raised", type=worker.raised.type, message=said, maxrss=report.rss)
        else:
            declared = culprit.task_class.need.get("memory", 0) // PARTS
            self._exits.fail(culprit, "died", declared=declared, **self._cause_of_death(worker, report))

    def _find_culprit(self, worker: WorkerHandle, queued: Sequence[QueuedTask]) -> QueuedTask | None:
        """Return the task that made its worker end.

        Returns:
            The task. None if the worker had a shared loop, and either none of its tasks or several of them had started,
            so that the agent cannot tell which task it was. If several had started, each of these gets a worker of its
            own when it starts again.
        """
        if worker.raised is not None and worker.raised.number in worker.queued:
            return worker.queued[worker.raised.number]
        announced = worker.page[shared_page.ANNOUNCED]
        if not worker.shared:
            return worker.queued.get(announced, queued[0])
        suspects = [task for task in queued if task.number_on_worker <= announced]
        if len(suspects) == 1:
            return suspects[0]
        for task in suspects:
            task.needs_own_worker = True
        return None

    def _cause_of_death(self, worker: WorkerHandle, report: messages.WorkerGone) -> dict[str, Any]:
        """Return the fields of `Failed` that say how a worker died."""
        status = report.status
        facts: dict[str, Any] = {"maxrss": report.rss}
        if worker.link_misused:
            facts["cut"] = True
            facts["message"] = "the task closed descriptors that are not its own, or replaced the worker's process"
            return facts
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            facts["signal"] = number
            facts["message"] = f"the worker was killed by signal {number} ({_signal_name(number)})"
        else:
            facts["exit"] = os.WEXITSTATUS(status)
            facts["message"] = f"the worker exited with status {facts['exit']} while the task ran"
        if facts.get("signal") == signal.SIGKILL:
            facts["oom"] = self._was_killed_for_memory(worker)
            if facts["oom"]:
                facts["message"] += ", which the kernel sent for lack of memory"
        if facts.get("signal") in (signal.SIGKILL, signal.SIGXCPU) and not facts.get("oom"):
            facts["limit_s"] = _processor_limit_s()
        return facts

    def _was_killed_for_memory(self, worker: WorkerHandle) -> bool | None:
        """Return True if the kernel killed a worker for lack of memory, False if not, None if the agent cannot know."""
        if worker.group is None or not kills_in(worker.group):
            return self._oom_kills.claim()
        self._oom_kills.reset()
        return True


def _processor_limit_s() -> float | None:
    """Return the processor time after which the kernel kills a process of this login, or None if there is no limit.

    A worker inherits the limit, which `ulimit -t` sets. The agent cannot know of a limit that a task has set itself.
    """
    limit = resource.getrlimit(resource.RLIMIT_CPU)[1]
    return float(limit) if limit != resource.RLIM_INFINITY else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
