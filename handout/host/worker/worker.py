"""The worker: the process that runs user code, one task at a time, in the order in which the agent sent the tasks.

A worker receives a batch of tasks from the agent. The worker announces each task on the shared page, which is a page of
memory that the agent reads too (see `shared_page`). Then it runs the task, and goes on with the next task without
waiting for the agent. It reports the results of several tasks together. The worker skips tasks that the agent has taken
back, and all further tasks once the worker must end. A worker is a subreaper, so it becomes the parent of processes
that a task leaves behind, and kills these processes.

In a shared loop, the tasks are coroutines that run at the same time. `async_worker` runs them.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import socket
import sys
import time
import types
from collections import deque
from typing import Any, NoReturn

from handout.host.system import cgroups, processes, shared_page
from handout.host.system.clock import now_ns
from handout.host.task_context import Current, end, publish
from handout.host.worker.agent_socket import AgentSocket
from handout.host.worker.batch import WorkerTask, read_batch
from handout.host.worker.call_loader import CallLoader
from handout.host.worker.deferred_checks import DeferredChecks
from handout.host.worker.failure_report import FailureReport, report_failure
from handout.host.worker.import_watch import ImportWatch
from handout.host.worker.lent_state import LentState
from handout.host.worker.objects import SHORT, MissingInputError, StoreAccessError, WorkerObjects
from handout.host.worker.report import EncodedResult, WorkerReport
from handout.host.worker.result_encoder import ResultEncoder
from handout.host.worker.stdio import Streams
from handout.host.worker.task_channel import WorkerChannel
from handout.host.worker.warm_maker import WarmMaker
from handout.protocol import codec, frames, messages
from handout.serialization import pickling

#: If the last task of a function took this many microseconds or more, or if the worker has not run the function yet,
#: the worker sends the gathered report before it starts the function's next task. Otherwise the results in the report
#: would wait for that task.
_SHORT_US = 200
#: Seconds that the worker waits for the end of the processes that it killed.
_REAP_S = 2.0
#: Seconds that the worker waits until the agent kills it, after a task has closed the socket to the agent.
_KILLED_S = 10.0
#: A handler that a task has set for a signal may raise an error while the worker cleans up. The worker begins to clean
#: up at most this often. After the first time, the timers of the task are stopped.
_CLEAN_UP_TRIES = 3

#: In a shared loop, the number of the task whose coroutine runs now. What is printed now belongs to that task.
writing_task: contextvars.ContextVar[int] = contextvars.ContextVar("handout.writing_task", default=0)


#: Reads the number of an error, even if its class has an attribute of this name.
_ERRNO: Any = OSError.__dict__["errno"]


class AgentGoneError(ConnectionError):
    """The agent has closed its end of the worker's socket, or has ended."""


class Worker:
    """Runs tasks one after another. In a shared loop, `SharedLoop` runs the tasks, and uses methods of this class.

    Args:
        link: Socket to the agent.
        page: The page of memory that this worker shares with the agent; see `shared_page`.
    """

    def __init__(self, link: socket.socket, page: memoryview) -> None:
        self.link = link
        self.page = page
        self._to_agent = AgentSocket(link)
        self.report = WorkerReport(self._to_agent)
        self.queue: deque[WorkerTask] = deque()
        self._decoder = frames.Decoder()
        #: How long the last task of each function took, in microseconds.
        self._last_us: dict[int, int] = {}
        self._pid = os.getpid()
        #: True in a process that a task forked from the worker.
        self.forked = False
        #: True if the worker starts no more tasks and ends as soon as it can.
        self.leaving = False
        #: The control group that limits the memory of this worker. None if there is no limit, or no such group.
        self._limited: cgroups.MemoryGroup | None = None
        self._in_user_code = False
        #: When the running task began, in nanoseconds of the monotonic clock. The time for its warm values is added. A
        #: task may overwrite the number on the page.
        self._started_ns = 0
        #: For the tasks of a shared loop: how many nanoseconds it took to make their warm values.
        self.warming_ns: dict[int, int] = {}
        #: True if SIGTERM has cancelled the coroutine that `_await` runs.
        self._cancelled = False
        #: True if tasks are coroutines that run at the same time, in one event loop.
        self.shared_loop = False
        #: In a shared loop: objects that were deleted. Warm values that were made from them must go.
        self.unused_warm: set[int] = set()
        #: Numbers of the tasks of a shared loop that are being cancelled.
        self.cancelled: set[int] = set()

    # ---- messages ------------------------------------------------------------------------------------------

    def read(self, flags: int = 0) -> None:
        """Wait for messages and handle them.

        Raises:
            AgentGoneError: The agent has closed its end of the socket, so this process must end.
        """
        data = self.link.recv(256 << 10, flags)
        if not data:
            raise AgentGoneError
        for frame in self._decoder.feed(data):
            if type(frame) is frames.Message:
                self._handle(frame)

    def _handle(self, frame: frames.Message) -> None:
        name, message = codec.decode(messages.TO_WORKER, frame.fields)
        _HANDLERS[name](self, message, memoryview(frame.payload))  # type: ignore[literal-required]

    def _set_up(self, message: messages.SetUp, payload: memoryview) -> None:
        os.environ.update(message.env)
        self.host = message.host
        self.shared_loop = message.shared_loop
        options = message.options
        if message.group is not None and options.memory_limit is not None:
            try:
                self._limited = cgroups.MemoryGroup(message.group, options.memory_limit)
            except OSError:
                pass  # the agent measures the worker's memory even without a group
        self.scratch = message.scratch
        self.objects = WorkerObjects(message.folders, message.suffix)
        #: What the worker lends to a task and takes back after the task.
        self.lent = LentState(self.link.fileno())
        self.results = ResultEncoder(
            self.objects,
            self.page,
            self.lent,
            # In a shared loop, another task may still need what it has changed.
            self._take_back if not self.shared_loop else lambda: None,
            options.max_result_bytes or sys.maxsize,
            self._limited,
        )
        with self.lent.keep_changes():
            sys.meta_path.insert(0, ImportWatch(self.lent))
        nonce = bytes.fromhex(message.nonce)
        if self.shared_loop:
            self.streams = Streams(nonce, writing_task.get, self.lent.descriptors.output)
        else:
            self.streams = Streams(nonce, lambda: self.page[shared_page.ANNOUNCED])
        self.loader = CallLoader(message, self.objects, self.lent, self._limited)
        self.warm = WarmMaker(self.loader, self.lent, self._to_agent.send, self._note_warming)
        self._channel = WorkerChannel(
            self._to_agent, self.page, self.objects, self.loader, self.lent, self._limited, lambda: self.forked
        )
        self._checks = DeferredChecks(self.lent, self.objects, self.report, self._take_back)

    def _enqueue(self, message: messages.Batch, payload: memoryview) -> None:
        batch = read_batch(message, payload)
        self.loader.learn(message, batch.functions)
        self.queue.extend(batch.tasks)

    def _forget_functions(self, message: messages.ForgetFunctions, payload: memoryview) -> None:
        self.loader.forget(message.numbers)
        self._checks.forget(message.numbers)
        for number in message.numbers:
            self._last_us.pop(number, None)

    def _forget_warm(self, message: messages.ForgetWarm, payload: memoryview) -> None:
        if self.shared_loop:
            self.unused_warm.update(message.keys)
        else:
            self.warm.forget(set(message.keys))

    def _cancel_coroutines(self, message: messages.CancelCoroutines, payload: memoryview) -> None:
        self.cancelled.update(message.numbers)

    # ---- running -------------------------------------------------------------------------------------------

    def serve(self) -> NoReturn:
        """Run tasks until the agent closes its end of the socket."""
        try:
            self._serve()
        except AgentGoneError:
            self.warm.leave()
            os._exit(0)

    def _serve(self) -> NoReturn:
        page, report, queue = self.page, self.report, self.queue
        while True:
            if not queue:
                page[shared_page.IDLE] = 1
                self._checks.check()
                report.flush()
                if not self.lent.restore_idle():
                    self.leaving = True
                if self.leaving:
                    self.leave()
                self.read()
                page[shared_page.IDLE] = 0
                continue
            if report.pending and (report.full or self._last_us.get(queue[0].fn, _SHORT_US) >= _SHORT_US):
                self._checks.check()
                report.flush()
            self._run(queue.popleft())

    def _run(self, task: WorkerTask) -> None:
        number = task.number
        page = self.page
        self._started_ns = page[shared_page.STARTED] = now_ns()
        page[shared_page.ANNOUNCED] = number
        # Only after the announcement may the worker check whether the agent has taken the task back; see `shared_page`.
        if page[shared_page.RECALLED_FROM] <= number <= page[shared_page.RECALLED_TO] or self.leaving:
            self.report.add_skipped(number)
            return
        current = self.new_current(task)
        publish(current)
        if self._limited is not None:
            self._limited.make_room()
        result: EncodedResult | None = None
        failed: FailureReport | None = None
        try:
            self._in_user_code = True
            # In a copy of the context, the task cannot change the context variables of later tasks.
            result = contextvars.copy_context().run(self._perform, task)
            self._in_user_code = False
        except MissingInputError:
            pass  # inline functions may have run before the missing input was read
        except BaseException as error:
            self._in_user_code = False
            self._exit_if_forked()
            if self._may_recur(error):
                self.leaving = True
            failed = self.failure(number, error, self._cancelled)
        self._in_user_code = False
        self._exit_if_forked()
        elapsed_us = (now_ns() - self._started_ns) // 1000
        may_wait = result is not None and elapsed_us < _SHORT_US and self._limited is None
        checked = not (may_wait and self._checks.may_wait(task))
        changes = self.lent.changes
        self._settle(current, checked)
        if not self._checks.note(task, checked, self.lent.changes > changes):
            return
        if result is None and failed is None:
            self.report.add_lacking(number)
        elif self._was_killed_at_limit():
            self.objects.forget(task.outputs)
            self._report_over_memory(number, elapsed_us)
        elif failed is not None:
            self.report.send_failure(failed.failure._replace(elapsed_us=elapsed_us), failed.payload)
        else:
            assert result is not None
            self._last_us[task.fn] = elapsed_us
            self.report.add_result(number, elapsed_us, result)

    def _may_recur(self, error: BaseException) -> bool:
        """Return True if further tasks may fail in this process as well, so that it ends.

        For example, the process has no descriptors, no memory or no disk space left. If it has warm values, it does not
        end for other errors of the system.
        """
        kind = type(error)
        if self.warm.has_values and issubclass(kind, OSError):
            return _ERRNO.__get__(error) in SHORT
        return issubclass(kind, (OSError, MemoryError, pickling.LoadError, StoreAccessError))

    def _perform(self, task: WorkerTask) -> EncodedResult:
        """Run a task.

        User code runs in all steps. Loading the function imports the user's modules, loading the arguments calls inline
        functions (see `calls.Inline`), and pickling the result calls `__reduce__`.
        """
        fn = self.loader.function(task.fn)
        args, kwargs, paths = self.warm.arguments(task)
        value = fn(*args, **kwargs)
        if type(value) is types.CoroutineType:
            value = self._await(value)
        return self.results.encode(value, paths, task.outputs)

    def _note_warming(self, number: int, ns: int) -> None:
        """Note that a warm value was made for a task, which is no part of the task's time.

        Args:
            number: The number of the task.
            ns: How many nanoseconds it took.
        """
        if self.shared_loop:
            self.warming_ns[number] = self.warming_ns.get(number, 0) + ns
        else:
            self._started_ns += ns
            self.page[shared_page.STARTED] = self._started_ns

    def _was_killed_at_limit(self) -> bool:
        """Return True if the kernel killed a process of the task because the worker's group was at its memory limit."""
        return self._limited is not None and self._limited.killed_at_limit

    def _report_over_memory(self, number: int, elapsed_us: int) -> None:
        """Report that a task exceeded its memory limit, and run no more tasks.

        The kernel has killed a process that the task had started. The task fails even if it still returned a result.
        """
        self.leaving = True
        failure = messages.TaskFailure(number, elapsed_us, "memory", maxrss=processes.peak_memory())
        self.report.send_failure(failure, [])

    def flush_on_signal(self, *_: Any) -> None:
        """Handle `shared_page.FLUSH_SIGNAL`: send the pending report, because the running task takes long."""
        # If the signal has interrupted the worker's own code, the report is not sent, because the worker may have been
        # changing it.
        if self._in_user_code and not self.forked and self.lent.descriptors.has_link:
            self._checks.check_beside_running_task()
            try:
                self.report.flush()
            except OSError:
                pass

    def _exit_if_forked(self) -> None:
        """End this process if a task forked it from the worker, because only the worker itself may report the task."""
        if self.forked:
            os._exit(0)

    def new_current(self, task: WorkerTask) -> Current:
        """Return the object that `handout.current` returns in a task."""
        scratch = f"{self.scratch}/{self._pid}-{task.number}"
        return Current(task.name, self.host, task.attempt, task.variant, scratch, self._channel, task)

    def _await(self, coroutine: Any) -> Any:
        """Run a coroutine in a new event loop, and return its result. SIGTERM cancels the coroutine."""

        async def main() -> Any:
            loop = asyncio.get_running_loop()
            task = asyncio.ensure_future(coroutine)

            def cancel() -> None:
                self._cancelled = self.leaving = True
                task.cancel()

            loop.add_signal_handler(signal.SIGTERM, cancel)
            try:
                return await task
            finally:
                loop.remove_signal_handler(signal.SIGTERM)

        return self.warm.loop.run_task(main()) if self.warm.loop.is_used else asyncio.run(main())

    # ---- after a task --------------------------------------------------------------------------------------

    def failure(self, number: int, error: BaseException, cancelled: bool) -> FailureReport:
        """Return the report of a failure; see `report_failure`.

        If a thread of user code is left, or if the bundle of the user's modules is missing, run no more tasks.
        """
        report = report_failure(number, error, cancelled, self._announce_failure)
        recipe = self.warm.take_failed(number)
        if recipe is not None:
            report = report._replace(failure=report.failure._replace(recipe=recipe))
        if report.leaves_thread or report.failure.kind == "bundle":
            self.leaving = True
        return report

    def _announce_failure(self, message: messages.TaskRaised) -> None:
        if not self.lent.descriptors.has_link:
            return
        try:
            self.report.send_raised(message)
        except OSError:
            pass  # the agent has ended

    def _settle(self, current: Current, checked: bool) -> None:
        """Clean up after a task. If an error interrupts this, begin again, and run no more tasks afterwards."""
        for tries_left in reversed(range(_CLEAN_UP_TRIES)):
            try:
                self._clean_up(current, checked)
                return
            except BaseException:  # a handler that the task has set for a signal may raise anything
                self.leaving = True
                if not tries_left:
                    raise

    def _clean_up(self, current: Current, checked: bool) -> None:
        """Take back what was lent to a task, write what it has printed, remove its scratch folder, kill its processes.

        What the task has printed must be written after standard output was taken back. Otherwise it could be written
        into another file. However, if the task has replaced a stream, the new stream is flushed before, because this
        runs user code.

        Args:
            current: The task.
            checked: True to check all that was lent. False to check only what must be right when the next task begins;
                see `DeferredChecks`.
        """
        self.streams.flush_replaced()
        self._take_back(checked)
        self.lent.set_imported_variables()
        self.streams.restore()
        end(current)
        self.kill_children()
        self.note_threads()

    def _take_back(self, everything: bool = True) -> None:
        """Put back what the task has changed in this process. If this is not possible, run no more tasks."""
        if self.lent.restore() if everything else self.lent.restore_quickly():
            return
        self.leaving = True
        if not self.lent.descriptors.has_link:
            # A report could be written into a file of the task. The agent has seen the end of the socket, and kills
            # this process.
            time.sleep(_KILLED_S)
            os._exit(70)

    def take_back_idle(self) -> None:
        """Put back what no running task needs any more, before the worker waits for tasks."""
        self._take_back()
        if not self.lent.restore_idle():
            self.leaving = True

    def kill_children(self) -> None:
        """Kill the processes that a task has left behind. If there were any, this worker runs no more tasks."""
        deadline = time.monotonic() + _REAP_S
        while True:
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            try:
                left = set(processes.children(self._pid)) - self.warm.children
                if not left:
                    return
                self.leaving = True
                processes.kill_trees(list(left))
            except OSError:
                self.leaving = True
                return  # a task has changed the root folder, so /proc is gone; the supervisor kills what is left
            if time.monotonic() > deadline:
                return
            time.sleep(0.002)

    def note_threads(self) -> None:
        """If a task has left a thread that runs the user's own code, run no more tasks. The thread ends with them."""
        if self.lent.threads.are_left():
            self.leaving = True

    def leave(self) -> NoReturn:
        """Send the last report and end."""
        self.report.flush(leaving=True)
        self.warm.leave()
        os._exit(0)


_HANDLERS: messages.ToWorker = {
    "set_up": Worker._set_up,
    "batch": Worker._enqueue,
    "cancel_coroutines": Worker._cancel_coroutines,
    "forget_functions": Worker._forget_functions,
    "forget_warm": Worker._forget_warm,
}
