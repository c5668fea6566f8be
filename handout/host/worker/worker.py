"""The process that runs user code: one task at a time, in the order that the agent sent them.

It trusts nothing to the agent's answer while it works: it takes a batch, announces each task on the shared page,
runs it, and tells the outcomes together. It is a subreaper, so a look at its children proves that a task left
nothing behind. It never decides what to run; see the agent for that.
"""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import fcntl
import inspect
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from itertools import repeat
from types import TracebackType
from typing import Any, Callable, NoReturn

from handout.host.current import Current, publish
from handout.host.system import cgroups, processes, shared_page
from handout.host.system.clock import now_ns
from handout.host.worker import importer
from handout.host.worker.objects import INLINE, DiskFullError, MissingInputError, OversizedResultError, WorkerObjects
from handout.host.worker.report import WorkerReport
from handout.host.worker.stdio import Streams
from handout.protocol import frames
from handout.serialization import calls, diagnosis, exceptions, pickling

#: A function that took longer than this, or is new, starts only after what is pending has been sent.
_SHORT_US = 200
_MAX_MESSAGE = 10_000
_HIGH_FD = 512
_MAX_TEXT = 64 << 10
#: An exception larger than this does not travel: its type, message and traceback do. No message is over the limit.
_MAX_EXCEPTION = frames.MAX_PAYLOAD // 4
#: Small results of one task that ride along, in bytes together; the others become files.
_MAX_INLINE = 4 << 20
_REAP_S = 2.0

#: The task whose coroutine writes, where many share a loop.
writing: contextvars.ContextVar[int] = contextvars.ContextVar("handout.writing", default=0)

#: (number, function, call, inputs, outputs, objects sent along, id, attempt, variant)
Order = tuple[int, int, frames.Buffer, Any, list[int], dict[int, frames.Buffer], str, int, int]


def preload() -> None:
    """Import what every worker needs; for the supervisor, before it forks."""
    pickling.preload()


class Worker:
    """The loop of the process; see the module."""

    def __init__(self, link: socket.socket, page: memoryview) -> None:
        self.link = link
        self.page = page
        self.report = WorkerReport(link)
        self.queue: deque[Order] = deque()
        self._decoder = frames.Decoder()
        #: Where tasks start, and with which signals blocked, whatever those before them did.
        self._folder = _open_high(".")
        self._signals = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._blobs: dict[int, bytes] = {}
        self._functions: dict[int, Callable[..., Any]] = {}
        self._last_us: dict[int, int] = {}
        self._pid = os.getpid()
        #: This is a copy that user code made.
        self.forked = False
        self._retiring = False
        #: Bytes that each object of a result may have.
        self._max_result = sys.maxsize
        #: Its control group, where its tasks have a limit of memory.
        self._limited: cgroups.MemoryGroup | None = None
        self._in_user_code = False
        self._cancelled = False
        self._orphans = _can_wait_id()
        #: Many coroutines at once, in one loop; those of them that are to be cancelled.
        self.shared = False
        self.cancelled: set[int] = set()
        #: Inputs that must be read as data: a host of which no more is taken had them in hand.
        self._suspects: set[int] = set()

    # ---- messages ------------------------------------------------------------------------------------------

    def read(self, flags: int = 0) -> None:
        """Wait for messages and take them in; ends the process where the agent has closed."""
        data = self.link.recv(256 << 10, flags)
        if not data:
            os._exit(0)
        for frame in self._decoder.feed(data):
            if type(frame) is frames.Message:
                self._take_in(frame)

    def _take_in(self, message: frames.Message) -> None:
        fields = message.fields
        if fields["m"] == "run":
            self._enqueue(fields, memoryview(message.payload))
        elif fields["m"] == "setup":
            self._set_up(fields)
        elif fields["m"] == "cancel":
            self.cancelled.update(fields["s"])

    def _set_up(self, fields: dict[str, Any]) -> None:
        for name, value in fields["env"].items():
            os.environ[name] = value
        self.host = fields["host"]
        self.shared = bool(fields.get("shared"))
        self._max_result = fields.get("max_result_bytes") or sys.maxsize
        if fields.get("group"):
            try:
                self._limited = cgroups.MemoryGroup(fields["group"], fields["memory_limit"])
            except OSError:
                # The agent looks at its memory in any case.
                pass
        self.scratch = fields["scratch"]
        self.objects = WorkerObjects(fields["folders"], fields["suffix"])
        owner = writing.get if self.shared else lambda: self.page[shared_page.ANNOUNCED]
        self.streams = Streams(bytes.fromhex(fields["nonce"]), owner)
        self._code = fields.get("code")

    def _enqueue(self, fields: dict[str, Any], payload: memoryview) -> None:
        position = 0
        for number, size in zip(fields.get("fns", ()), fields.get("fn_len", ())):
            self._blobs[number] = bytes(payload[position : position + size])
            position += size
        sent: dict[int, frames.Buffer] = {}
        for key, size in zip(fields.get("keys", ()), fields.get("key_len", ())):
            sent[key] = payload[position : position + size]
            position += size
        if "suspects" in fields:
            from handout.serialization.untrusted import reader

            self._suspects.update(fields["suspects"])
            reader.allow(fields["types"])
        columns = [_column(fields[name]) for name in ("fn", "len", "in", "out", "id", "attempt", "variant")]
        first: int = fields["s"]
        numbers = range(first, first + fields["n"])
        for number, fn, size, inputs, out, id_, attempt, variant in zip(numbers, *columns):
            end = position + size
            self.queue.append((number, fn, payload[position:end], inputs, out, sent, id_, attempt, variant))
            position = end

    # ---- running -------------------------------------------------------------------------------------------

    def serve(self) -> NoReturn:
        """Run tasks until the agent closes the link."""
        page, report, queue = self.page, self.report, self.queue
        while True:
            if not queue:
                page[shared_page.IDLE] = 1
                report.flush()
                if self._retiring:
                    self.retire()
                self.read()
                page[shared_page.IDLE] = 0
                continue
            if report.pending and (report.full or self._last_us.get(queue[0][1], _SHORT_US) >= _SHORT_US):
                report.flush()
            self._run(queue.popleft())

    def _run(self, order: Order) -> None:
        number = order[0]
        page = self.page
        started = now_ns()
        page[shared_page.STARTED] = started
        page[shared_page.ANNOUNCED] = number
        # Announced first, then looked: see page.
        if page[shared_page.RECALLED_FROM] <= number <= page[shared_page.RECALLED_TO] or self._retiring:
            self.report.skipped(number)
            return
        current = self.current(order)
        publish(current)
        if self._limited is not None:
            self._limited.make_room()
        try:
            # So are loading the arguments (inline functions, what classes do) and writing the result.
            self._in_user_code = True
            fn, args, kwargs, paths = self.prepare(order)
            value = fn(*args, **kwargs)
            if inspect.iscoroutine(value):
                value = self._await(value)
            columns = self.encode(value, paths, order[4])
            self._in_user_code = False
        except MissingInputError:
            self._in_user_code = False
            self.report.missing(number)
            return
        except BaseException as error:
            self._in_user_code = False
            self._guard()
            outcome = self.failure(error, self._cancelled)
            self._tidy(current)
            # It may be the process that is in a bad way, not the task: out of descriptors, memory, room.
            if isinstance(error, (OSError, MemoryError, pickling.LoadError)):
                self._retiring = True
            if self._was_starved():
                self._report_starved(number, started)
                return
            fields = {"s": number, "us": (now_ns() - started) // 1000, **outcome[0]}
            self.report.failed(fields, outcome[1])
            return
        self._guard()
        # The next task does not find the memory of this one taken.
        del value, args, kwargs
        self._tidy(current)
        if self._was_starved():
            self.objects.forget(order[4])
            self._report_starved(number, started)
            return
        us = (now_ns() - started) // 1000
        self._last_us[order[1]] = us
        self.report.done(number, us, *columns)

    def _was_starved(self) -> bool:
        """Whether the kernel killed something that this worker's task had started, at its limit of memory."""
        return self._limited is not None and self._limited.killed_at_limit

    def _report_starved(self, number: int, started: int) -> None:
        """Whatever a task made of it that the kernel killed what it had started: it took too much. It was the last."""
        self._retiring = True
        us = (now_ns() - started) // 1000
        self.report.failed({"s": number, "us": us, "kind": "memory", "maxrss": processes.peak_memory()}, [])

    def flush_held(self, *_: Any) -> None:
        """Handle the agent's signal: a task runs for long, and results of those before it are still here."""
        if self._in_user_code and not self.forked:
            try:
                self.report.flush()
            except OSError:
                pass

    def _guard(self) -> None:
        """A task may have forked and come back twice: the copy ends here."""
        if self.forked:
            os._exit(0)

    def current(self, order: Order) -> Current:
        """What a task may ask about itself."""
        return Current(order[6], self.host, order[7], order[8], f"{self.scratch}/{self._pid}-{order[0]}")

    def prepare(self, order: Order) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]:
        """The function, its arguments, and the paths of what is wanted of its result.

        Raises:
            MissingInputError: An input is not here.
            LoadError: The bytes could not become values.
        """
        inputs, sent = order[3], order[5]
        fn = self._functions.get(order[1])
        if fn is None:
            fn = self._load_function(order[1])
        try:
            args, kwargs, paths = calls.load_call(order[2], lambda index: self._load_input(inputs[index], sent))
        except pickling.LoadError as error:
            if isinstance(error.__cause__, MissingInputError):
                raise error.__cause__ from None
            raise
        return fn, args, kwargs, paths

    def _load_input(self, key: int, sent: dict[int, frames.Buffer]) -> Any:
        data = self.objects.get(key, sent)
        if self._limited is not None and len(data) > INLINE:
            self._limited.make_room(len(data))
        if key in self._suspects:
            from handout.serialization.untrusted import reader  # few workers ever need it

            return reader.loads(data)
        return pickling.loads(data)

    def _load_function(self, number: int) -> Callable[..., Any]:
        if self._code is not None:
            # Here and not at the setup: what goes wrong is this task's failure.
            importer.install(self._code)
            self._code = None
        try:
            fn: Callable[..., Any] = pickling.loads(self._blobs[number])
        except pickling.LoadError:
            raise
        except Exception as error:
            raise pickling.LoadError(
                f"the function could not be loaded: {type(error).__name__}: {exceptions.message(error)}"
            ) from error
        self._functions[number] = fn
        return fn

    def _await(self, coroutine: Any) -> Any:
        """Run a coroutine in a loop of its own; SIGTERM cancels it."""

        async def main() -> Any:
            loop = asyncio.get_running_loop()
            task = asyncio.ensure_future(coroutine)

            def cancel() -> None:
                self._cancelled = self._retiring = True
                task.cancel()

            loop.add_signal_handler(signal.SIGTERM, cancel)
            try:
                return await task
            finally:
                loop.remove_signal_handler(signal.SIGTERM)

        return asyncio.run(main())

    # ---- outcomes ------------------------------------------------------------------------------------------

    def encode(self, value: Any, paths: Sequence[calls.Path], out: list[int]) -> tuple[Any, Any, Any, list[Any]]:
        """The objects of a result, as the report's columns."""
        try:
            return self._encode(value, paths, out)
        except BaseException:
            # Nobody hears of those that could be written.
            self.objects.forget(out)
            raise

    def _encode(self, value: Any, paths: Sequence[calls.Path], out: list[int]) -> tuple[Any, Any, Any, list[Any]]:
        sizes: list[int] = []
        inline: list[int] = []
        where: list[int] = []
        payload: list[frames.Buffer] = []
        room = _MAX_INLINE
        for index, key in enumerate(out):
            if key == -1:
                sizes.append(-1)
                inline.append(-1)
                where.append(0)
                continue
            part = value if index == 0 else calls.apply_path(value, paths[index - 1])
            segments = diagnosis.dumps_or_diagnose(part, "result")
            size = len(segments[0]) if len(segments) == 1 else sum(memoryview(s).nbytes for s in segments)
            if size > self._max_result:
                raise OversizedResultError(size, self._max_result)
            sizes.append(size)
            if size <= INLINE and size <= room:
                room -= size
                data = segments[0] if len(segments) == 1 else b"".join(segments)
                payload.append(data)
                self.objects.remember(key, data)
                inline.append(size)
                where.append(0)
            else:
                inline.append(-1)
                if self._limited is not None:
                    self._limited.make_room(size)
                where.append(self.objects.write(key, segments, bool(self.page[shared_page.SPILL])))
        return sizes, inline, where, payload

    def failure(self, error: BaseException, cancelled: bool) -> tuple[dict[str, Any], list[frames.Buffer]]:
        """What is said of a failure, and the exception's bytes."""
        kind = "raised"
        extra: dict[str, Any] = {}
        blob = None
        if isinstance(error, diagnosis.CannotPickleError):
            kind, extra = "unserializable", {"path": error.path, "culprit": error.type}
        elif isinstance(error, pickling.LoadError):
            kind = "input"
        elif isinstance(error, DiskFullError):
            kind, extra = "disk", {"path": error.path, "need": error.need, "free": error.free}
        elif isinstance(error, OversizedResultError):
            kind, extra = "too_large", {"size": error.size, "limit": error.limit}
        elif isinstance(error, SystemExit):
            code = error.code
            kind, extra = "exited", {"exit": code if code is None or isinstance(code, int) else str(code)}
        elif isinstance(error, asyncio.CancelledError) and cancelled:
            kind = "cancelled"
        # The first frames are this file's.
        trace = error.__traceback__
        while trace is not None and _is_own_frame(trace):
            trace = trace.tb_next
        error = error.with_traceback(trace)
        if kind in ("raised", "input"):
            blob, text = exceptions.dump_exception(error)
            if blob is not None and len(blob) > _MAX_EXCEPTION:
                blob = None
        elif kind in ("unserializable", "too_large") and _is_ours(error.__cause__ or error):
            text = ""  # the message says all
        else:
            text = exceptions.traceback_text(error)
        fields: dict[str, Any] = {
            "kind": kind,
            "type": exceptions.type_name(error),
            "message": exceptions.message(error)[:_MAX_MESSAGE],
            "text": text[-_MAX_TEXT:],
            "maxrss": processes.peak_memory(),
            **extra,
        }
        return fields, [blob] if blob is not None else []

    def _tidy(self, current: Current) -> None:
        """End what a task left: output, processes, files."""
        self.streams.flush()
        current.clean()
        self.end_children()
        try:
            if self._folder >= 0:
                os.fchdir(self._folder)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._signals)
        except OSError:
            # It closed what was not its own.
            self._retiring = True

    def end_children(self) -> None:
        """Kill what a task left running. A worker that had to does not trust itself any further."""
        if self._orphans:
            try:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
        until = time.monotonic() + _REAP_S
        while True:
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            self._retiring = True
            processes.kill_trees(processes.children(self._pid))
            if time.monotonic() > until:
                return
            time.sleep(0.002)

    @property
    def retiring(self) -> bool:
        """Whether it ends as soon as it can."""
        return self._retiring

    def retire(self) -> NoReturn:
        """Say goodbye and end."""
        self.report.flush(bye=True)
        os._exit(0)


def _open_high(path: str) -> int:
    """A descriptor of a folder, out of the way of the small numbers that user code may guess; -1: there is none."""
    try:
        low = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
    except OSError:
        return os.dup(low)
    finally:
        os.close(low)


def _is_ours(error: BaseException) -> bool:
    """Whether an exception was raised by this package's own code, or by what that called in C."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or _is_own_frame(trace)


def _is_own_frame(trace: TracebackType) -> bool:
    """Return True if a frame runs code that travelled with the worker, not the user's."""
    package = trace.tb_frame.f_globals.get("__package__")
    return isinstance(package, str) and package.startswith(("handout.host", "handout.serialization"))


def _can_wait_id() -> bool:
    return hasattr(os, "waitid")


def _column(value: Any) -> Any:
    return value if isinstance(value, list) else repeat(value)


def run(link_fd: int, page_fd: int) -> NoReturn:
    """Be a worker on these descriptors."""
    link = socket.socket(fileno=link_fd)
    page = shared_page.attach(page_fd)
    os.close(page_fd)
    faulthandler.enable(file=2, all_threads=True)
    faulthandler.register(shared_page.SAMPLE_SIGNAL, file=2, all_threads=True, chain=False)
    worker = Worker(link, page)

    def leave_the_link() -> None:
        # A task's own forks must not hold, or speak on, what is the worker's.
        if not worker.forked:
            worker.forked = True
            try:
                os.close(link_fd)
            except OSError:
                pass

    os.register_at_fork(after_in_child=leave_the_link)
    signal.signal(shared_page.FLUSH_SIGNAL, worker.flush_held)
    sys.argv = [""]
    try:
        worker.read()
        if worker.shared:
            from handout.host.worker.async_worker import Loop

            asyncio.run(Loop(worker).serve())
        worker.serve()
    except (ConnectionError, BrokenPipeError):
        os._exit(0)
