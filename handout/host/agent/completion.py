"""Decides how each task on this host ends: by itself, by cancellation or recall, or because its worker ends.

Every task leaves the `TaskQueue` in exactly one of three ways: `_take_results` sends the task's result, `_fail` sends
its failure, or `_give_back` returns the task to the controller.

A task's producers are the tasks that make its inputs. Most workers run one task at a time; further tasks are queued on
the worker meanwhile. Other workers have a shared loop: an event loop in which they run many coroutines at the same
time. When a worker starts a task, it announces the task's number on its shared page, a page of memory that it shares
with the agent. The agent can recall tasks from a worker, so that the worker does not start them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import traceback
from collections.abc import Collection, Iterable, Sequence
from itertools import repeat
from typing import Any, Callable

from handout.host.agent.dispatcher import Dispatcher
from handout.host.agent.object_store import DISK, ObjectStore, StoreFullError
from handout.host.agent.result_sender import ResultSender
from handout.host.agent.task_queue import ENDED, QUEUED, READY, QueuedTask, TaskClassQueue, TaskQueue
from handout.host.agent.worker_pool import WorkerHandle, WorkerPool
from handout.host.system import cgroups, shared_page
from handout.host.system.clock import now_ns
from handout.host.system.oom_kills import OomKills, kills_in
from handout.host.worker.objects import why_refused
from handout.protocol import codec, frames, messages
from handout.protocol.messages import INLINE
from handout.protocol.resource_ledger import PARTS

#: If a task exceeds a limit, the agent has the worker print the task's stack. It looks for the stack after this many
#: seconds, and begins to kill the worker once the stack has come. This does not apply to a shared loop.
_SAMPLE_S = 0.05
#: The agent looks for the stack at most this often, because a task may have closed its standard error. On a busy host,
#: it can take far longer than one look until the worker is scheduled.
_MAX_LOOKS = 20
#: A worker returns a task if it could not read an input of the task. The task is then queued again. However, it fails
#: if it has been returned more often than this and the store has all of its inputs.
_MAX_MISSES = 3
#: If the system refuses to fork a worker, the tasks that were queued on this worker return to the queue. However, they
#: fail if more forks than this have been refused in a row and the host has no worker left.
_MAX_SPAWN_FAILURES = 50
#: Seconds that the agent waits for the end of a worker after SIGKILL. Then the agent takes the worker's tasks back.
_UNKILLABLE_S = 5.0
#: The messages of failures that come from the agent itself, by the kind of the failure.
_REASONS = {
    "cancelled": "the task was cancelled",
    "timeout": "the task ran longer than its timeout allows, so the agent ended it",
    "memory": "the task used more memory than its cost says, so the agent ended it",
    "host": "the agent gave the task up, because the lease had ended",
}


class Completion:
    """Handles the reports of workers, and decides how each task ends.

    Args:
        sender: Reports to the controller how tasks ended.
        queue: The tasks.
        store: Keeps the objects of results.
        dispatcher: Starts further tasks when tasks have ended.
        pool: The workers.
        oom_kills: Tells whether the kernel has killed a process for lack of memory.
    """

    def __init__(
        self,
        sender: ResultSender,
        queue: TaskQueue,
        store: ObjectStore,
        dispatcher: Dispatcher,
        pool: WorkerPool,
        oom_kills: OomKills,
    ) -> None:
        self._sender = sender
        self._queue = queue
        self._store = store
        self._dispatcher = dispatcher
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        dispatcher.on_no_room = self.fail_ready
        dispatcher.on_no_worker = self._fail_without_worker
        #: Called with the keys of objects whose files another program has removed or damaged.
        self.on_vanished: Callable[[Sequence[int]], None] = lambda keys: None
        self.oom_kills = oom_kills
        #: A task that has exceeded its timeout is asked to end: its coroutine is cancelled, or its worker gets SIGTERM.
        #: If the task has not ended this many seconds later, the worker gets SIGKILL.
        self.kill_after_s = 5.0
        self._spawn_failures = 0
        self._handlers: messages.FromWorker = {
            "batch_report": self._take_batch,
            "task_failure": self._take_failure,
        }

    # ---- how a task leaves the queue -----------------------------------------------------------------------

    def _give_back(self, task: QueuedTask) -> None:
        """Give a task that has not started back to the controller. Do nothing if it has left the queue already."""
        if task.state == ENDED:
            return
        self._queue.end(task)
        self._sender.recalled(task.attempt_id)

    def give_back_without_bundle(self) -> None:
        """Give back the tasks whose source bundle is not in the store.

        The earlier controller was still sending these bundles when another controller took over.
        """
        for task in list(self._queue.tasks.values()):
            bundle = task.task_class.bundle
            if bundle is not None and bundle not in self._store:
                self._give_back(task)

    def _fail(self, task: QueuedTask, kind: str, payload: Sequence[frames.Buffer] = (), **facts: Any) -> None:
        """End a task with a failure. Tasks that wait for the task's result go back to the controller.

        Args:
            task: The task.
            kind: The kind of the failure, as in `Failed`.
            payload: The pickled exception, if there is one.
            facts: Other fields of `Failed`.
        """
        if task.state == ENDED:
            # The agent has just given the task back, because an input of the task will not come.
            return
        followers = self._queue.followers(task)
        self._queue.end(task)
        facts["message"] = facts.get("message") or _REASONS.get(kind, "")
        facts.setdefault("elapsed_s", (now_ns() - task.started_ns) / 1e9 if task.started_ns else 0.0)
        if kind == "timeout":
            facts["limit_s"] = task.task_class.timeout_s
        elif kind == "memory":
            facts.update(self._memory_facts(task, facts.get("maxrss") or 0))
        self._sender.failed(messages.Failed(task.attempt_id, kind, **facts), payload)
        for follower in followers:
            self._give_back_without_input(follower)

    def _memory_facts(self, task: QueuedTask, maxrss: int) -> dict[str, int]:
        limit = task.task_class.options.memory_limit or 0
        # If the kernel killed a process at the limit of the worker's control group, the memory reached that limit, even
        # if no measurement of the agent shows this.
        at_least = cgroups.kernel_limit(limit) if task.worker.killed_at_limit else 0
        peak = max(task.peak_memory, at_least)
        return {"limit": limit, "peak": peak, "maxrss": max(maxrss, peak)}

    def _give_back_without_input(self, task: QueuedTask) -> None:
        """Give a task back to the controller, because one of its inputs will not come on this host.

        A task that was already sent to a worker goes back only when the worker returns it.
        """
        if task.state == QUEUED:
            task.input_gone = True
        elif task.state != ENDED:
            self._give_back(task)

    def give_back_takers(self, keys: Collection[int]) -> None:
        """Give back the tasks that take one of these objects and have not started."""
        taken = set(keys)
        for task in list(self._queue.tasks.values()):
            if not taken.isdisjoint(task.inputs):
                self._give_back_without_input(task)

    # ---- reports of workers --------------------------------------------------------------------------------

    def on_message(self, worker: WorkerHandle, frame: frames.Message) -> None:
        """Handle a message from a worker.

        Raises:
            Exception: The message is not valid. `WorkerPool._on_link` lists the types of exceptions that can occur.
        """
        name, message = codec.decode(messages.FROM_WORKER, frame.fields)
        self._handlers[name](worker, message, memoryview(frame.payload))  # type: ignore[literal-required]
        if not worker.queued:
            self._dispatcher.release(worker)
        self._dispatcher.schedule()

    def _take_batch(self, worker: WorkerHandle, report: messages.BatchReport, payload: memoryview) -> None:
        self._take_results(worker, report, payload)
        self._put_back(worker, [worker.queued.pop(number, None) for number in report.skipped])
        self._take_back_lacking(worker, [worker.queued.pop(number, None) for number in report.lacking])
        if report.leaving:
            worker.leaving = worker.reported_leaving = True

    def _take_results(self, worker: WorkerHandle, report: messages.BatchReport, payload: memoryview) -> None:
        position = 0
        durations, queue = self._dispatcher.durations, self._queue
        inline_sizes = report.sizes if report.inline_sizes is None else report.inline_sizes
        all_folders = repeat(()) if report.folders is None else report.folders
        for number, us, sizes, inline, folders in zip(
            report.numbers, report.elapsed_us, report.sizes, inline_sizes, all_folders
        ):
            end = position + sum([size for size in inline if size > 0])
            data, position = payload[position:end], end
            task = worker.queued.pop(number, None)
            if task is None:
                continue
            self._dispatcher.forget(worker, task)
            if task.end_reason == "timeout":
                # The task exceeded its timeout, but returned a result. Either it caught its cancellation, or it ended
                # before the agent could end it.
                self._fail(task, "timeout")
                continue
            durations.add(task.function, us)
            if not self._keep(worker, task, sizes, inline, folders, data):
                continue
            if len(data) > INLINE:
                inline, data = _without_large(inline, data)
            queue.end(task)
            for key in task.outputs:
                if key in queue.waiting:
                    queue.arrived(key)
            self._sender.done(task.attempt_id, us, sizes, inline, data)

    def _keep(
        self,
        worker: WorkerHandle,
        task: QueuedTask,
        sizes: Sequence[int],
        inline: Sequence[int],
        folders: Sequence[int],
        data: memoryview,
    ) -> bool:
        """Put the objects of a task's result into the store.

        Returns:
            True if the store has all objects that it must keep. False if the task has failed, because the store has no
            room for an object, or because the file of an object has vanished.
        """
        position = 0
        waiting = self._queue.waiting
        for index, (key, size, inlined) in enumerate(zip(task.outputs, sizes, inline)):
            if key == -1:
                continue
            if inlined < 0:
                if not self._store.take_file(key, size, folders[index], worker.suffix):
                    self._fail(task, "host", message="the file of a result has vanished from the store")
                    return False
                continue
            # A worker sends a large object only if it could not write the object into the store itself.
            if task.keep or key in waiting or inlined > INLINE:
                try:
                    self._store.put(key, data[position : position + inlined])
                except StoreFullError as error:
                    self._fail(task, "disk", message=str(error), path=error.path, need=error.need, free=error.free)
                    return False
            position += inlined
        return True

    def _take_failure(self, worker: WorkerHandle, failure: messages.TaskFailure, payload: memoryview) -> None:
        task = worker.queued.pop(failure.number, None)
        if task is None:
            return
        self._dispatcher.forget(worker, task)
        kind = failure.kind
        if task.end_reason in _REASONS and kind in ("cancelled", "raised"):
            kind = task.end_reason
        facts = failure._asdict()
        for name in ("number", "elapsed_us", "kind"):
            del facts[name]
        self._fail(task, kind, [payload] if len(payload) else [], elapsed_s=failure.elapsed_us / 1e6, **facts)

    def _put_back(self, worker: WorkerHandle, tasks: Iterable[QueuedTask | None]) -> None:
        """Take back tasks that a worker will not finish.

        What becomes of a task depends on its ``end_reason``. If the reason is "recalled", the task goes back to the
        controller. If there is another reason, the task fails for that reason. If there is none, the task returns to
        the queue, or to the controller if a producer of the task has failed.
        """
        unharmed: list[QueuedTask] = []
        for task in tasks:
            if task is None:
                continue
            self._dispatcher.forget(worker, task)
            if task.end_reason == "recalled":
                self._give_back(task)
            elif task.end_reason is not None:
                self._fail(task, task.end_reason)
            else:
                unharmed.append(task)
        for task in self._queue.put_back(unharmed):
            self._give_back(task)

    def _take_back_lacking(self, worker: WorkerHandle, tasks: Iterable[QueuedTask | None]) -> None:
        """Take back tasks that a worker did not run because an input was not on the host.

        This happens if the producer of the input has failed, if the store has dropped the input, or if another program
        has removed or damaged the file of the input.
        """
        for task in tasks:
            if task is None:
                continue
            vanished = [key for key in task.inputs if key in self._store and not self._store.is_whole(key)]
            if vanished:
                self.on_vanished(vanished)
            task.input_misses += 1
            if task.input_misses > _MAX_MISSES and not task.missing and not task.input_gone:
                self._dispatcher.forget(worker, task)
                self._fail(task, "input", message="an input could not be read from the store")
            else:
                self._put_back(worker, [task])

    def fail_waiting(self, key: int, error: StoreFullError) -> None:
        """Fail the tasks that wait for an object, because the store has no room for the object."""
        self._fail_without_room(list(self._queue.waiting.get(key, {}).values()), error)

    def fail_ready(self, task_class: TaskClassQueue, error: StoreFullError) -> None:
        """Fail the READY tasks of a class, because the store has no room for the file of their source bundle."""
        self._fail_without_room([task for task in task_class.ready if task.state == READY], error)

    def _fail_without_room(self, tasks: Sequence[QueuedTask], error: StoreFullError) -> None:
        facts: dict[str, Any] = {"message": str(error), "path": error.path, "need": error.need, "free": error.free}
        for task in tasks:
            if task.state != ENDED:
                self._fail(task, "disk", **facts, argument=True)

    # ---- cancellation and recall ---------------------------------------------------------------------------

    def cancel(self, attempt_ids: Sequence[int], grace_s: float) -> None:
        """End attempts with a failure of the kind ``cancelled``.

        Args:
            attempt_ids: The attempts. Ids of attempts that the agent does not have are ignored.
            grace_s: A running attempt has this many seconds to end by itself. Then its worker gets SIGKILL.
        """
        for task in self._mark(attempt_ids, "cancelled"):
            self._fail(task, "cancelled")
        self._dispatcher.grace_s = grace_s
        self._dispatcher.schedule()

    def recall(self, attempt_ids: Sequence[int]) -> None:
        """Give attempts that have not started back to the controller. Attempts that have started go on."""
        for task in self._mark(attempt_ids, "recalled"):
            self._give_back(task)
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
        self._put_back(worker, [worker.queued.pop(n) for n in numbers])
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
        self._put_back(worker, tasks)
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
            self._end(worker, [task], self.kill_after_s)
            return
        task.started_ns = worker.page[shared_page.STARTED]
        task.being_ended = worker.leaving = True
        self.recall_from(worker, task.number_on_worker + 1)
        self._pool.signal(worker, shared_page.SAMPLE_SIGNAL)
        # If the task exceeds its memory limit, its worker gets SIGKILL after one look and without SIGTERM, so that the
        # task cannot take even more memory.
        looks, grace_s = (1, 0.0) if kind == "memory" else (_MAX_LOOKS, self.kill_after_s)
        self._loop.call_later(_SAMPLE_S, self._kill_once_sampled, worker, task.attempt_id, looks, grace_s)

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
                self._give_back(task)
        for worker in self._pool.workers.values():
            if worker.queued:
                running = worker.running
                if running is not None and not worker.shared:
                    running.started_ns = worker.page[shared_page.STARTED]
                self.recall_from(worker, 0)
                self._kill(worker, 0.0)

    def on_worker_gone(self, worker: WorkerHandle, report: messages.WorkerGone) -> None:
        """Handle the end of a worker.

        If a task caused the end, that task fails. `_put_back` decides what becomes of the worker's other tasks.
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
            self._put_back(worker, [task])
        self._dispatcher.release(worker)
        self._dispatcher.schedule()

    def _count_spawn_failure(self, worker: WorkerHandle, queued: list[QueuedTask], error: str) -> list[QueuedTask]:
        """Have further workers wait. After too many failures, fail the tasks of this worker.

        Returns:
            The tasks that are still queued, which `_put_back` takes back.
        """
        self._dispatcher.hold()
        self._spawn_failures += 1
        if self._spawn_failures <= _MAX_SPAWN_FAILURES or self._pool.workers:
            return queued
        for task in queued:
            if task.end_reason != "recalled":
                self._dispatcher.forget(worker, task)
                self._fail(task, task.end_reason or "host", message=f"the host cannot start a worker: {error}")
        return [task for task in queued if task.end_reason == "recalled"]

    def _fail_without_worker(self, task_class: TaskClassQueue, error: OSError) -> None:
        """After too many failures to start a worker, fail the tasks of a class.

        They do not fail as long as there is a worker, because its end may make room for another.
        """
        self._spawn_failures += 1
        if self._spawn_failures == 1:
            traceback.print_exc()
        if self._spawn_failures <= _MAX_SPAWN_FAILURES or self._pool.workers:
            return
        message = f"the host cannot start a worker: {why_refused(self._store.folders[DISK], error)}"
        for task in [task for task in task_class.ready if task.state == READY]:
            if task.state != ENDED:
                self._fail(task, "host", message=message)

    def _fail_culprit(self, worker: WorkerHandle, culprit: QueuedTask, report: messages.WorkerGone) -> None:
        if not worker.shared:
            culprit.started_ns = worker.page[shared_page.STARTED]
        if worker.killed_at_limit:
            self.oom_kills.reset()
            self._fail(culprit, "memory", maxrss=report.rss)
        else:
            declared = culprit.task_class.need.get("memory", 0) // PARTS
            self._fail(culprit, "died", declared=declared, **self._cause_of_death(worker, report))

    def _find_culprit(self, worker: WorkerHandle, queued: Sequence[QueuedTask]) -> QueuedTask | None:
        """Return the task that made its worker end.

        Returns:
            The task. None if the worker had a shared loop, and either none of its tasks or several of them had started,
            so that the agent cannot tell which task it was. If several had started, each of these gets a worker of its
            own when it starts again.
        """
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
        return facts

    def _was_killed_for_memory(self, worker: WorkerHandle) -> bool | None:
        """Return True if the kernel killed a worker for lack of memory, False if not, None if the agent cannot know."""
        if worker.group is None or not kills_in(worker.group):
            return self.oom_kills.claim()
        self.oom_kills.reset()
        return True


def _without_large(inline: Sequence[int], data: memoryview) -> tuple[Sequence[int], memoryview]:
    """Leave out the objects of a result that are too large to travel in the report of the attempt.

    Args:
        inline: For each object, its size in ``data``, or -1 if ``data`` does not contain the object.
        data: The objects.
    """
    if max(inline) <= INLINE:
        return inline, data
    pieces = codec.parts(data, [max(size, 0) for size in inline])
    kept = [piece for piece, size in zip(pieces, inline) if 0 <= size <= INLINE]
    return [size if size <= INLINE else -1 for size in inline], memoryview(b"".join(kept))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
