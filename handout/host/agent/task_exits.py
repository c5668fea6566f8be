"""How a task leaves this host: with a result, with a failure, or given back to the controller.

Every task leaves the `TaskQueue` in exactly one of three ways: `WorkerReports` sends the task's result,
`TaskExits.fail` sends its failure, or `TaskExits.give_back` returns the task to the controller.

A task's producers are the tasks that make its inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Callable

from handout.host.agent.dispatcher import Dispatcher
from handout.host.agent.object_store import ObjectStore, StoreFullError
from handout.host.agent.result_sender import ResultSender
from handout.host.agent.task_queue import ENDED, QUEUED, READY, QueuedTask, TaskClassQueue, TaskQueue
from handout.host.agent.worker_handle import WorkerHandle
from handout.host.system import cgroups
from handout.host.system.clock import now_ns
from handout.protocol import frames, messages

__all__ = ["REASONS", "TaskExits"]

#: The messages of failures that come from the agent itself, by the kind of the failure.
REASONS = {
    "cancelled": "the task was cancelled",
    "timeout": "the task ran longer than its timeout allows, so the agent ended it",
    "memory": "the task used more memory than its cost says, so the agent ended it",
    "host": "the agent gave the task up, because the lease had ended",
}
#: The kinds of failures that making a warm value causes, without an exception of its function.
_ENDS_WARMING = ("timeout", "memory", "died")


class TaskExits:
    """Ends tasks, or gives them back to the controller.

    Args:
        sender: Reports to the controller how tasks ended.
        queue: The tasks.
        store: Keeps objects and source bundles.
        dispatcher: Starts tasks. It calls `fail_ready` if there is no room for the source bundle of tasks.
    """

    def __init__(self, sender: ResultSender, queue: TaskQueue, store: ObjectStore, dispatcher: Dispatcher) -> None:
        self._sender = sender
        self._queue = queue
        self._store = store
        self._dispatcher = dispatcher
        #: Called with each task before it leaves the queue, and with True if it has returned a result.
        self.on_end: Callable[[QueuedTask, bool], None] = lambda task, well: None
        dispatcher.on_no_room = self.fail_ready

    def give_back(self, task: QueuedTask) -> None:
        """Give a task that has not started back to the controller. Do nothing if it has left the queue already."""
        if task.state == ENDED:
            return
        self.on_end(task, False)
        self._queue.end(task)
        self._sender.recalled(task.attempt_id)

    def give_back_without_bundle(self) -> None:
        """Give back the tasks whose source bundle is not in the store and that have not been sent to a worker.

        The file of the bundle has vanished. Or an earlier controller was still sending the bundle when another
        controller took over.
        """
        for task in list(self._queue.tasks.values()):
            bundle = task.task_class.bundle
            if bundle is not None and bundle not in self._store and task.state != QUEUED:
                self.give_back(task)

    def fail(self, task: QueuedTask, kind: str, payload: Sequence[frames.Buffer] = (), **facts: Any) -> None:
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
        self.on_end(task, False)
        self._queue.end(task)
        facts["message"] = facts.get("message") or REASONS.get(kind, "")
        facts.setdefault("elapsed_s", (now_ns() - task.started_ns) / 1e9 if task.started_ns else 0.0)
        if kind == "timeout":
            facts["limit_s"] = task.task_class.timeout_s if task.warming is None else task.warming.timeout_s
        elif kind == "memory":
            facts.update(self._memory_facts(task, facts.get("maxrss") or 0))
        if task.warming is not None and kind in _ENDS_WARMING:
            facts["recipe"] = task.warming.recipe
        self._sender.failed(messages.Failed(task.attempt_id, kind, **facts), payload)
        for follower in followers:
            self.give_back_without_input(follower)

    def _memory_facts(self, task: QueuedTask, maxrss: int) -> dict[str, int]:
        limit = task.task_class.options.memory_limit or 0
        # If the kernel killed a process at the limit of the worker's control group, the memory reached that limit, even
        # if no measurement of the agent shows this.
        at_least = cgroups.kernel_limit(limit) if task.worker.killed_at_limit else 0
        peak = max(task.peak_memory, at_least)
        return {"limit": limit, "peak": peak, "maxrss": max(maxrss, peak)}

    def give_back_without_input(self, task: QueuedTask) -> None:
        """Give a task back to the controller, because one of its inputs will not come on this host.

        A task that was already sent to a worker goes back only when the worker returns it.
        """
        if task.state == QUEUED:
            task.input_gone = True
        elif task.state != ENDED:
            self.give_back(task)

    def give_back_takers(self, keys: Collection[int]) -> None:
        """Give back the tasks that take one of these objects and have not started."""
        taken = set(keys)
        for task in list(self._queue.tasks.values()):
            if task.checkpoint in taken or not taken.isdisjoint(task.inputs):
                self.give_back_without_input(task)

    def put_back(self, worker: WorkerHandle, tasks: Iterable[QueuedTask | None]) -> None:
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
                self.give_back(task)
            elif task.end_reason is not None:
                self.fail(task, task.end_reason)
            else:
                unharmed.append(task)
        for task in self._queue.put_back(unharmed):
            self.give_back(task)

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
                self.fail(task, "disk", **facts, argument=True)
