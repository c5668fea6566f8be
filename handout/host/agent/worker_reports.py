"""Handles what workers report about their tasks: results, failures, and tasks that they have not run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Callable

from handout.host.agent.dispatcher import Dispatcher
from handout.host.agent.object_store import ObjectStore, StoreFullError
from handout.host.agent.result_sender import ResultSender
from handout.host.agent.task_exits import REASONS, TaskExits
from handout.host.agent.task_queue import QueuedTask, TaskQueue
from handout.host.agent.worker_handle import WorkerHandle
from handout.host.system.clock import now, now_ns
from handout.protocol import codec, frames, messages
from handout.protocol.messages import INLINE
from handout.protocol.reported_facts import check_progress, from_json

__all__ = ["WorkerReports"]

#: A worker returns a task if it could not read an input of the task. The task is then queued again. However, it fails
#: if it has been returned more often than this and the store has all of its inputs.
_MAX_MISSES = 3
#: Tasks fail if files of source bundles have vanished more often than this within `_LOSS_WINDOW_S` seconds.
_MAX_BUNDLE_LOSSES = 3
_LOSS_WINDOW_S = 60.0


class WorkerReports:
    """Handles the messages of workers.

    Args:
        exits: Ends tasks, or gives them back.
        sender: Reports results to the controller.
        queue: The tasks.
        store: Keeps the objects of results.
        dispatcher: Starts further tasks when tasks have ended.
    """

    def __init__(
        self, exits: TaskExits, sender: ResultSender, queue: TaskQueue, store: ObjectStore, dispatcher: Dispatcher
    ) -> None:
        self._exits = exits
        self._sender = sender
        self._queue = queue
        self._store = store
        self._dispatcher = dispatcher
        #: Called with the keys of objects and source bundles whose files another program has removed or damaged.
        self.on_vanished: Callable[[Sequence[int]], None] = lambda keys: None
        #: Called with each report of a task about itself.
        self.on_progress: Callable[[QueuedTask, messages.ProgressReport], None] = lambda task, message: None
        #: Called with each checkpoint of a task, its payload and the suffix of its file.
        self.on_checkpoint: Callable[[QueuedTask, messages.Checkpoint, memoryview, str], None] = (
            lambda task, message, payload, suffix: None
        )
        #: Called when a worker has begun to make a warm value.
        self.on_warming: Callable[[], None] = lambda: None
        #: Called when a worker has made a warm value, with its identity and the microseconds that it took.
        self.on_warmed: Callable[[WorkerHandle, str, int], None] = lambda worker, value, us: None
        #: The times of the last minute at which the file of a source bundle had vanished.
        self._losses: list[float] = []
        self._handlers: messages.FromWorker = {
            "batch_report": self._take_batch,
            "progress_report": self._take_progress,
            "checkpoint": self._take_checkpoint,
            "warming_began": self._note_warming,
            "warming_ended": self._note_warmed,
            "task_raised": self._note_raised,
            "task_failure": self._take_failure,
        }

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
        self._exits.put_back(worker, [worker.queued.pop(number, None) for number in report.skipped])
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
                self._exits.fail(task, "timeout")
                continue
            durations.add(task.function, us)
            if not self._keep(worker, task, sizes, inline, folders, data):
                continue
            if len(data) > INLINE:
                inline, data = _without_large(inline, data)
            self._exits.on_end(task, True)
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
                    self._exits.fail(task, "host", message="the file of a result has vanished from the store")
                    return False
                continue
            # A worker sends a large object only if it could not write the object into the store itself.
            if task.keep or key in waiting or inlined > INLINE:
                try:
                    self._store.put(key, data[position : position + inlined])
                except StoreFullError as error:
                    self._exits.fail(
                        task, "disk", message=str(error), path=error.path, need=error.need, free=error.free
                    )
                    return False
            position += inlined
        return True

    def _take_progress(self, worker: WorkerHandle, message: messages.ProgressReport, _: memoryview) -> None:
        # A report that the controller does not take would end the link to it, and with that all tasks of this host.
        check_progress(message.progress)
        from_json(message.facts)
        task = worker.queued.get(message.number)
        if task is not None:
            self.on_progress(task, message)

    def _take_checkpoint(self, worker: WorkerHandle, message: messages.Checkpoint, payload: memoryview) -> None:
        task = worker.queued.get(message.number)
        if task is not None:  # otherwise a thread of the task has outlived it; `clean_up_after` removes the file
            self.on_checkpoint(task, message, payload, worker.suffix)

    def _note_warming(self, worker: WorkerHandle, message: messages.WarmingBegan, _: memoryview) -> None:
        task = worker.queued.get(message.number)
        if task is not None:
            task.warming, task.warming_since_ns = message, now_ns()
            self.on_warming()

    def _note_warmed(self, worker: WorkerHandle, message: messages.WarmingEnded, _: memoryview) -> None:
        worker.must_leave = message.leaves
        task = worker.queued.get(message.number)
        if task is None or task.warming is None or not message.value:
            return
        elapsed_ns = now_ns() - task.warming_since_ns
        task.warming = None
        if worker.shared:
            task.started_ns += elapsed_ns
        worker.warm_inputs.update(message.inputs)
        worker.has_lasting_value |= not message.inputs
        if message.value not in worker.warm:
            self.on_warmed(worker, message.value, elapsed_ns // 1000)

    def _note_raised(self, worker: WorkerHandle, message: messages.TaskRaised, _: memoryview) -> None:
        worker.raised = message

    def _take_failure(self, worker: WorkerHandle, failure: messages.TaskFailure, payload: memoryview) -> None:
        worker.raised = None
        task = worker.queued.pop(failure.number, None)
        if task is None:
            return
        kind = failure.kind
        if kind == "input" and (task.input_gone or self._vanished(task)):
            # Another program may have shortened the file of an input, so that the worker could not load the input.
            self._take_back_lacking(worker, [task])
            return
        self._dispatcher.forget(worker, task)
        if kind == "bundle" and task.end_reason in (None, "recalled"):
            self._take_back_without_bundle(task, failure.message)
            return
        if task.end_reason in REASONS and kind in ("cancelled", "raised", "bundle"):
            kind = task.end_reason
        facts = failure._asdict()
        for name in ("number", "elapsed_us", "kind"):
            del facts[name]
        self._exits.fail(task, kind, [payload] if len(payload) else [], elapsed_s=failure.elapsed_us / 1e6, **facts)

    def _take_back_without_bundle(self, task: QueuedTask, message: str) -> None:
        """Give a task back, because the file of its source bundle has vanished. The controller sends the bundle again.

        If files of bundles vanish again and again within a minute, tasks fail instead.
        """
        bundle = task.task_class.bundle
        assert bundle is not None
        if bundle in self._store:  # otherwise another worker has noticed it already
            since = now() - _LOSS_WINDOW_S
            self._losses = [*(loss for loss in self._losses if loss > since), now()]
            self.on_vanished([bundle])
        if len(self._losses) > _MAX_BUNDLE_LOSSES:
            self._exits.fail(task, "input", message=message)
        else:
            self._exits.give_back(task)

    def _take_back_lacking(self, worker: WorkerHandle, tasks: Iterable[QueuedTask | None]) -> None:
        """Take back tasks that a worker did not run because an input was not on the host.

        This happens if the producer of the input has failed, if the store has dropped the input, or if another program
        has removed or damaged the file of the input.
        """
        for task in tasks:
            if task is None:
                continue
            vanished = self._vanished(task)
            if vanished:
                self.on_vanished(vanished)
            task.input_misses += 1
            if task.input_misses > _MAX_MISSES and not task.missing and not task.input_gone:
                self._dispatcher.forget(worker, task)
                self._exits.fail(task, "input", message="an input could not be read from the store")
            else:
                self._exits.put_back(worker, [task])

    def _vanished(self, task: QueuedTask) -> list[int]:
        """Return the keys of those inputs of a task whose files another program has removed, shortened or damaged."""
        return [key for key in task.inputs if key in self._store and not self._store.is_whole(key)]


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
