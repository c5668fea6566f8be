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
import errno
import inspect
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from itertools import count, repeat
from types import TracebackType
from typing import Any, Callable, NamedTuple, NoReturn

from handout.host.system import cgroups, processes, shared_page
from handout.host.system.clock import now_ns
from handout.host.task_context import Current, publish, remove_scratch
from handout.host.worker import importer, main_module
from handout.host.worker.import_watch import ImportWatch
from handout.host.worker.lent_state import LentState
from handout.host.worker.objects import (
    DiskFullError,
    MissingInputError,
    OversizedResultError,
    StoreAccessError,
    WorkerObjects,
    free_bytes,
    why_refused,
)
from handout.host.worker.report import EncodedResult, WorkerReport
from handout.host.worker.result_encoder import ResultEncoder
from handout.host.worker.stdio import Streams
from handout.protocol import codec, frames, messages
from handout.protocol.messages import INLINE
from handout.serialization import calls, diagnosis, exceptions, pickling

#: If the last task of a function took this many microseconds or more, or if the worker has not run the function yet,
#: the worker sends the gathered report before it starts the function's next task. Otherwise the results in the report
#: would wait for that task.
_SHORT_US = 200
#: The largest pickled exception that a worker sends, in bytes. Of a larger exception, the worker sends only the type,
#: the message and the traceback.
_MAX_EXCEPTION = frames.MAX_PAYLOAD // 4
#: Seconds that the worker waits for the end of the processes that it killed.
_REAP_S = 2.0
#: Seconds that the worker waits until the agent kills it, after a task has closed the socket to the agent.
_KILLED_S = 10.0
#: A handler that a task has set for a signal may raise an error while the worker cleans up. The worker begins to clean
#: up at most this often. After the first time, the timers of the task are stopped.
_CLEAN_UP_TRIES = 3

#: In a shared loop, the number of the task whose coroutine runs now. What is printed now belongs to that task.
writing_task: contextvars.ContextVar[int] = contextvars.ContextVar("handout.writing_task", default=0)


class WorkerTask(NamedTuple):
    """A task of a batch; see `Batch`."""

    number: int
    fn: int
    call: frames.Buffer
    inputs: Sequence[int]
    outputs: Sequence[int]
    #: Small inputs that came with the batch, by key.
    sent: dict[int, frames.Buffer]
    name: str
    attempt: int
    variant: int


class FailureReport(NamedTuple):
    """The report of a failed task, and its payload."""

    failure: messages.TaskFailure
    payload: list[frames.Buffer]


class Worker:
    """Runs tasks one after another. In a shared loop, `SharedLoop` runs the tasks, and uses methods of this class.

    Args:
        link: Socket to the agent.
        page: The page of memory that this worker shares with the agent; see `shared_page`.
    """

    def __init__(self, link: socket.socket, page: memoryview) -> None:
        self.link = link
        self.page = page
        self.report = WorkerReport(link)
        self.queue: deque[WorkerTask] = deque()
        self._decoder = frames.Decoder()
        self._blobs: dict[int, bytes] = {}
        self._functions: dict[int, Callable[..., Any]] = {}
        self._last_us: dict[int, int] = {}
        #: The functions whose latest checked task has changed nothing in the worker's process.
        self._harmless: set[int] = set()
        #: The tasks since the last check, of harmless functions. See `_check_unchecked`.
        self._unchecked: list[WorkerTask] = []
        self._pid = os.getpid()
        #: True in a process that a task forked from the worker.
        self.forked = False
        #: True if the worker starts no more tasks and ends as soon as it can.
        self.leaving = False
        #: The control group that limits the memory of this worker. None if there is no limit, or no such group.
        self._limited: cgroups.MemoryGroup | None = None
        self._in_user_code = False
        #: True if SIGTERM has cancelled the coroutine that `_await` runs.
        self._cancelled = False
        #: True if tasks are coroutines that run at the same time, in one event loop.
        self.shared_loop = False
        #: Numbers of the tasks of a shared loop that are being cancelled.
        self.cancelled: set[int] = set()
        #: Keys of the inputs that the worker must read with `untrusted.reader`, which accepts only data.
        self._distrusted: set[int] = set()

    # ---- messages ------------------------------------------------------------------------------------------

    def read(self, flags: int = 0) -> None:
        """Wait for messages and handle them. If the agent has closed its end of the socket, end this process."""
        data = self.link.recv(256 << 10, flags)
        if not data:
            os._exit(0)
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
        self._bundle_path, self._modules_folder = message.bundle_path, message.modules_folder

    def _enqueue(self, batch: messages.Batch, payload: memoryview) -> None:
        pieces = codec.parts(payload, [*batch.new_function_sizes, *batch.object_sizes, *batch.call_sizes])
        for number in batch.new_functions:
            self._blobs[number] = bytes(next(pieces))
        sent: dict[int, frames.Buffer] = {key: next(pieces) for key in batch.objects}
        if batch.distrusted:
            from handout.serialization.untrusted import reader  # few workers need this module

            self._distrusted.update(batch.distrusted)
            reader.allow(batch.types)
        self.queue.extend(
            map(
                WorkerTask._make,
                zip(
                    count(batch.first_number),
                    batch.functions,
                    pieces,
                    batch.inputs,
                    batch.outputs,
                    repeat(sent),
                    batch.names,
                    batch.attempt_numbers,
                    batch.variants,
                ),
            )
        )

    def _forget_functions(self, message: messages.ForgetFunctions, payload: memoryview) -> None:
        for number in message.numbers:
            for table in (self._blobs, self._functions, self._last_us):
                table.pop(number, None)
            self._harmless.discard(number)

    def _cancel_coroutines(self, message: messages.CancelCoroutines, payload: memoryview) -> None:
        self.cancelled.update(message.numbers)

    # ---- running -------------------------------------------------------------------------------------------

    def serve(self) -> NoReturn:
        """Run tasks until the agent closes its end of the socket."""
        page, report, queue = self.page, self.report, self.queue
        while True:
            if not queue:
                page[shared_page.IDLE] = 1
                self._check_unchecked()
                report.flush()
                if not self.lent.restore_idle():
                    self.leaving = True
                if self.leaving:
                    self.leave()
                self.read()
                page[shared_page.IDLE] = 0
                continue
            if report.pending and (report.full or self._last_us.get(queue[0].fn, _SHORT_US) >= _SHORT_US):
                self._check_unchecked()
                report.flush()
            self._run(queue.popleft())

    def _run(self, task: WorkerTask) -> None:
        number = task.number
        page = self.page
        started = now_ns()
        page[shared_page.STARTED] = started
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
            failed = self._failed(number, error)
        self._in_user_code = False
        self._exit_if_forked()
        elapsed_us = (now_ns() - started) // 1000
        # A short task of a harmless function is checked together with the tasks that follow it.
        checked = (
            result is None or elapsed_us >= _SHORT_US or task.fn not in self._harmless or self._limited is not None
        )
        changes = self.lent.changes
        self._settle(current, checked)
        if self.lent.changes > changes:
            self._harmless.discard(task.fn)
            if self._unchecked:
                # Which of these tasks has made the change is not known, so this task may have run in a changed process.
                self.objects.forget(task.outputs)
                self.report.add_skipped(number)
                self._withdraw_unchecked()
                return
        elif checked:
            self._harmless.add(task.fn)
        if checked:
            self._unchecked.clear()
        else:
            self._unchecked.append(task)
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

    def _check_unchecked(self) -> None:
        """Put back what the tasks since the last check have changed. If there is anything, most of them run again.

        To check everything takes longer than a short task. So the worker checks each task of a function until one of
        them has changed nothing. From then on, it checks several short tasks together, before it reports them. If one
        of them has changed something after all, the tasks behind it may have had wrong results. The first of the tasks
        ran in a process that was as it must be, so its result counts. The worker returns the other tasks to the agent.
        Tasks that must not run twice come one at a time, so each of them is checked.
        """
        if not self._unchecked:
            return
        changes = self.lent.changes
        self._take_back()
        if self.lent.changes > changes:
            self._withdraw_unchecked()
        self._unchecked.clear()

    def _withdraw_unchecked(self) -> None:
        """Let the tasks since the last check run again, but not the first of them."""
        self._harmless.difference_update(task.fn for task in self._unchecked)
        suspects = self._unchecked[1:]
        for task in suspects:
            self.objects.forget(task.outputs)
        self.report.withdraw(len(suspects))
        self._unchecked.clear()

    def _perform(self, task: WorkerTask) -> EncodedResult:
        """Run a task.

        User code runs in all steps. Loading the function imports the user's modules, loading the arguments calls inline
        functions (see `calls.Inline`), and pickling the result calls `__reduce__`.
        """
        fn = self.load_function(task.fn)
        args, kwargs, paths = self.load_arguments(task)
        value = fn(*args, **kwargs)
        if inspect.iscoroutine(value):
            value = self._await(value)
        return self.results.encode(value, paths, task.outputs)

    def _failed(self, number: int, error: BaseException) -> FailureReport:
        """Return the report of a task that raised an exception."""
        # After such an error, further tasks may fail here as well, for example because this process has no descriptors,
        # no memory or no disk space left. So the worker ends.
        if issubclass(type(error), (OSError, MemoryError, pickling.LoadError, StoreAccessError)):
            self.leaving = True
        return self.failure(number, error, self._cancelled)

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
            if self.lent.is_unchanged:
                self._unchecked.clear()
            else:
                # The running task or a task before it has changed something. The running task may also need its change.
                # So the first task counts, and those behind it run again. The running task is not the first one.
                first = self._unchecked[:1]
                self._withdraw_unchecked()
                self._unchecked += first
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
        return Current(task.name, self.host, task.attempt, task.variant, scratch)

    def load_function(self, number: int) -> Callable[..., Any]:
        """Return the function with the given number. The first call with this number unpickles the function.

        Raises:
            LoadError: This host cannot unpickle the function.
        """
        fn = self._functions.get(number)
        if fn is None:
            fn = self._functions[number] = self._unpickle_function(number)
        main_module.lend(fn, self.scratch)
        return fn

    def load_arguments(self, task: WorkerTask) -> tuple[tuple[Any, ...], dict[str, Any], Sequence[calls.Path]]:
        """Return a task's positional and keyword arguments, and the paths of elements to take from its result.

        Raises:
            MissingInputError: An input is not on this host.
            LoadError: This host cannot unpickle the arguments.
        """
        inputs, sent = task.inputs, task.sent
        try:
            return calls.load_call(task.call, lambda index: self._load_input(inputs[index], sent))
        except pickling.LoadError as error:
            if isinstance(error.__cause__, (MissingInputError, StoreAccessError)):
                raise error.__cause__ from None
            raise

    def _load_input(self, key: int, sent: dict[int, frames.Buffer]) -> Any:
        try:
            data = self.objects.get(key, sent)
        except OSError as error:
            raise StoreAccessError(f"the worker cannot read input {key:x} from the store: {error}") from None
        if self._limited is not None and len(data) > INLINE:
            self._limited.make_room(len(data))
        if key in self._distrusted:
            from handout.serialization.untrusted import reader  # few workers need this module

            return reader.loads(data)
        return pickling.loads(data)

    def _unpickle_function(self, number: int) -> Callable[..., Any]:
        try:
            if self._bundle_path is not None:
                # `_set_up` does not do this, because an error there would not become the failure of a task.
                with self.lent.keep_changes():
                    self._install(self._bundle_path)
                self._bundle_path = None
            fn: Callable[..., Any] = pickling.loads(self._blobs[number])
            return fn
        except (pickling.LoadError, DiskFullError):
            raise
        except Exception as error:
            raise pickling.LoadError(
                f"the function could not be loaded: {type(error).__name__}: {exceptions.message(error)}"
            ) from error

    def _install(self, bundle_path: str) -> None:
        """Make the modules of the source bundle importable.

        Raises:
            DiskFullError: There is no room for the unpacked bundle.
        """
        folder = self._modules_folder
        try:
            importer.install(bundle_path, folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            parent, size, what = os.path.dirname(folder), os.path.getsize(bundle_path), "the user's modules and files"
            raise DiskFullError(parent, size, free_bytes(parent), why_refused(parent, error), what) from error

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

        return asyncio.run(main())

    # ---- failures --------------------------------------------------------------------------------------------

    def failure(self, number: int, error: BaseException, cancelled: bool) -> FailureReport:
        """Return the report of a failure, and its payload: the pickled exception, or nothing if none is sent.

        The report has the duration 0. The caller must set the right one.

        Args:
            number: The task's number.
            error: The exception that was raised by the function, or while its arguments were loaded, or while its
                result was encoded.
            cancelled: True if the agent cancelled the task.
        """
        kind, facts = _kind_of(error, cancelled)
        # The first frames of the traceback are left out, because they show the worker's own code.
        trace = exceptions.traceback_of(error)
        while trace is not None and _is_own_frame(trace):
            trace = trace.tb_next
        BaseException.with_traceback(error, trace)
        # The agent has no use for the bytes of an exception of another kind, for which the controller has an error.
        told = exceptions.describe(error, _MAX_EXCEPTION if kind in ("raised", "input") else 0)
        if told.is_overdue:
            self.leaving = True  # a thread of the user's code is left in this process
        text = told.text if kind != "host" else ""  # the traceback would only show Handout's own code
        if kind in ("unserializable", "too_large"):
            cause = exceptions.cause_of(error)
            if _is_raised_by_handout(error if cause is None else cause):
                text = ""  # the traceback would only show Handout's own code
        text = importer.controller_paths(text)
        failure = messages.TaskFailure(number, 0, kind, told.type, told.message, text, processes.peak_memory(), **facts)
        return FailureReport(failure, [told.pickled] if told.pickled is not None else [])

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
                see `_check_unchecked`.
        """
        self.streams.flush_replaced()
        self._take_back(checked)
        self.lent.set_imported_variables()
        self.streams.restore()
        remove_scratch(current)
        self.kill_children()

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
            self.leaving = True
            try:
                processes.kill_trees(processes.children(self._pid))
            except OSError:
                return  # a task has changed the root folder, so /proc is gone; the supervisor kills what is left
            if time.monotonic() > deadline:
                return
            time.sleep(0.002)

    def leave(self) -> NoReturn:
        """Send the last report and end."""
        self.report.flush(leaving=True)
        os._exit(0)


def _kind_of(error: Any, cancelled: bool) -> tuple[str, dict[str, Any]]:
    """Return the kind of a failure, and the fields of `TaskFailure` that failures of this kind set in addition."""
    kind = type(error)  # not `isinstance`, which asks the exception for its ``__class__``
    if issubclass(kind, diagnosis.CannotPickleError):
        return "unserializable", {"path": error.path, "culprit": error.type}
    if issubclass(kind, pickling.LoadError):
        return "input", {}
    if issubclass(kind, DiskFullError):
        return "disk", {"path": error.path, "need": error.need, "free": error.free}
    if issubclass(kind, StoreAccessError):
        return "host", {}
    if issubclass(kind, OversizedResultError):
        return "too_large", {"size": error.size, "limit": error.limit}
    if issubclass(kind, SystemExit):
        return "exited", {"exit": _status(error)}
    if issubclass(kind, asyncio.CancelledError) and cancelled:
        return "cancelled", {}
    return "raised", {}


def _status(error: BaseException) -> int | str | None:
    """Return the status that a `SystemExit` carries: a number that a message may hold, or a text."""
    code = _CODE.__get__(error)
    if code is None:
        return None
    if issubclass(type(code), int):
        status = int.__index__(code)  # an exact integer, also for a subclass with methods of its own
        # A larger integer is no exit status, and the controller would refuse a message that contains it.
        return status if abs(status) < 1 << 63 else exceptions.message(status)
    return exceptions.message(code)


_CODE: Any = SystemExit.__dict__["code"]


def _is_raised_by_handout(error: BaseException) -> bool:
    """Return True if Handout's own code raised an exception, or if C code that Handout called raised it."""
    trace = exceptions.traceback_of(error)
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or _is_own_frame(trace)


def _is_own_frame(trace: TracebackType) -> bool:
    """Return True if a frame runs Handout's own code."""
    package = trace.tb_frame.f_globals.get("__package__")
    return isinstance(package, str) and package.startswith(("handout.host", "handout.serialization"))


_HANDLERS: messages.ToWorker = {
    "set_up": Worker._set_up,
    "batch": Worker._enqueue,
    "cancel_coroutines": Worker._cancel_coroutines,
    "forget_functions": Worker._forget_functions,
}
