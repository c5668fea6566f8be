"""Keeps the agent's handles of the workers on this host, and asks the supervisor to fork and kill workers.

A worker runs only tasks of one `WorkerKey`. The worker gets this key before it imports anything for a task. The pool
also keeps blank workers ready, which have no key yet. A worker without tasks is idle.

Agent and worker exchange messages over a socket, the worker's link. They also share a page of memory, on which the
worker announces the number of each task that it starts; see `shared_page`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import tempfile
import traceback
from collections import deque
from collections.abc import Sequence, Set
from contextlib import ExitStack
from typing import Callable, Protocol

from handout.host.agent.output_capture import Pipe, new_nonce
from handout.host.agent.worker_handle import WorkerHandle, WorkerKey
from handout.host.system import cgroups, processes, shared_page
from handout.host.system.cgroups import ControlGroups
from handout.host.system.sockets import enlarge_buffers
from handout.protocol import codec, frames, messages
from handout.protocol.messages import AnyMessage

#: Environment variables by which numerical libraries limit their threads.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_RECEIVE = 256 << 10
#: The ``errno`` values of those errors of `send` that may be temporary. For example, the system may have memory again
#: later.
_NOT_NOW = {errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS}
_PAUSE_S = 0.05
#: Seconds that a worker has to leave the context managers of its warm values when it ends.
LEAVE_S = 3.0


class PoolListener(Protocol):
    """The methods that the pool calls to report events."""

    def on_report(self, worker: WorkerHandle, frame: frames.Message) -> None:
        """Called when a worker has sent a message."""

    def on_output(self, worker: WorkerHandle, fd: int, number: int, data: bytes) -> None:
        """Called when a task has printed.

        Args:
            worker: The worker of the task.
            fd: 1 for standard output, 2 for standard error.
            number: The number of the task on this worker, or 0 if the pool does not know which task printed.
            data: The bytes that the task printed.
        """

    def on_gone(self, worker: WorkerHandle, report: messages.WorkerGone) -> None:
        """Called when a worker and all processes that it left behind have ended, or when it could not be forked.

        Before this call, the pool has passed on the last messages of the worker and all that it has printed.
        """

    def on_lapse(self) -> None:
        """Called when the supervisor has seen the lease end."""

    def on_orphaned(self) -> None:
        """Called when the supervisor has ended."""


class WorkerPool:
    """Manages all workers of this host.

    Args:
        supervisor: Socket to the supervisor.
        listener: The object whose methods the pool calls to report events.
        set_up: A `SetUp` message with the values that all workers have in common. The pool sets the other fields.
        folder: The agent's private folder. It contains the shared pages if the system cannot make files without names.
        groups: The agent's control groups. The pool adds a group for each worker with a memory limit.
    """

    def __init__(
        self,
        supervisor: socket.socket,
        listener: PoolListener,
        set_up: messages.SetUp,
        folder: str,
        groups: ControlGroups,
    ) -> None:
        self._supervisor = supervisor
        self._listener = listener
        self._set_up = set_up
        self._folder = folder
        self._groups = groups
        self._loop = asyncio.get_running_loop()
        self.workers: dict[int, WorkerHandle] = {}
        self._idle: dict[WorkerKey | None, list[WorkerHandle]] = {}
        self._idle_count = 0
        #: The idle workers that have warm values. The one that was used least recently comes first.
        self.warm: list[WorkerHandle] = []
        #: Set when a worker has ended.
        self._ended = asyncio.Event()
        self._next = 1
        self._held = b""
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._retry_timer: asyncio.TimerHandle | None = None
        #: When a worker becomes idle, and more than this many workers are now idle, the pool ends one of the idle
        #: workers whose key was used least recently. The pool ends no worker if all idle workers have the same key.
        self.max_idle = max(4, 2 * (os.cpu_count() or 1))
        #: True if new workers must write large results to disk. `Agent` tells this to the workers that exist already.
        self.spill = False
        #: True while a program watches a run; see `watch`.
        self._watched = False
        self._handlers: messages.FromSupervisor = {
            "forked": self._on_forked,
            "worker_gone": self._on_worker_gone,
            "lease_lapsed": lambda _, message: listener.on_lapse(),
        }
        supervisor.setblocking(False)
        self._loop.add_reader(supervisor.fileno(), self._on_supervisor)

    # ---- the supervisor ------------------------------------------------------------------------------------

    def _send_line(self, message: AnyMessage, fds: Sequence[int] = ()) -> None:
        self._unsent.append((codec.encode_line(message), list(fds)))
        self._flush()

    def _flush(self) -> None:
        while self._unsent:
            line, fds = self._unsent[0]
            try:
                sent = socket.send_fds(self._supervisor, [line], fds) if fds else self._supervisor.send(line)
            except BlockingIOError:
                self._loop.add_writer(self._supervisor.fileno(), self._flush)
                return
            except OSError as error:
                if error.errno in _NOT_NOW:
                    # The system does not report when there is room again, so the pool tries again after a pause. The
                    # message must not get lost, because the agent may wait for the worker that this message asks for.
                    self._loop.remove_writer(self._supervisor.fileno())
                    self._retry_timer = self._retry_timer or self._loop.call_later(_PAUSE_S, self._flush_again)
                    return
                # The supervisor has ended. `_on_supervisor` handles this, so the message is dropped here.
                sent = len(line)
            for fd in fds:
                os.close(fd)
            if sent < len(line):
                self._unsent[0] = (line[sent:], [])
            else:
                self._unsent.popleft()
        self._loop.remove_writer(self._supervisor.fileno())

    def _flush_again(self) -> None:
        self._retry_timer = None
        self._flush()

    def _on_supervisor(self) -> None:
        try:
            data = self._supervisor.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._supervisor.fileno())
            self._listener.on_orphaned()
            return
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            name, message = codec.decode_line(messages.FROM_SUPERVISOR, line)
            self._handlers[name](None, message)  # type: ignore[literal-required]

    def _on_forked(self, _: None, message: messages.Forked) -> None:
        worker = self.workers.get(message.worker)
        if worker is not None:
            worker.pid = message.pid

    def _on_worker_gone(self, _: None, message: messages.WorkerGone) -> None:
        worker = self.workers.get(message.worker)
        if worker is not None:
            self._end(worker, message)

    def shut_down(self, fd: int) -> None:
        """Have the supervisor end all processes of this agent on the host.

        Args:
            fd: Descriptor of the connection to the controller, or -1. The supervisor holds the connection open until it
                has ended the processes.
        """
        fds = [fd] if fd >= 0 else []
        self._send_line(messages.ShutDown(len(fds)), fds)

    # ---- getting and ending workers ------------------------------------------------------------------------

    @property
    def has_idle(self) -> bool:
        """True if a worker is idle."""
        return self._idle_count > 0

    def prepare(self, count: int) -> None:
        """Fork ``count`` blank workers, so that tasks need not wait for forks.

        If the system refuses a worker, fork no more.
        """
        for _ in range(count):
            try:
                worker = self._spawn()
            except OSError:
                return  # `acquire` tries again when a task needs a worker, and its caller tells the failure
            self._make_idle(worker)

    def acquire(
        self, key: WorkerKey, environment: Callable[[WorkerKey], dict[str, str]], bundle_path: str | None
    ) -> WorkerHandle:
        """Take a worker with a given key into use, and return it.

        If an idle worker has the key, the pool takes it. Otherwise the pool takes a blank worker, or forks a new one if
        there is none, and sets it up with the key.

        Args:
            key: The key.
            environment: Returns the environment variables for a worker with a given key.
            bundle_path: File of the source bundle, or None.

        Raises:
            OSError: The system has no descriptors or no memory left for a new worker.
        """
        for wanted in (key, None):
            idle = self._idle.get(wanted)
            if idle:
                worker = idle[-1]
                self._make_busy(worker)
                break
        else:
            worker = self._spawn()
        if worker.key is None:
            worker.key = key
            memory_limit = key.options.memory_limit
            if memory_limit is not None:
                worker.group = self._groups.add_memory_group(f"w{worker.number}", memory_limit)
            message = self._set_up._replace(
                env=environment(key),
                nonce=worker.nonce.hex(),
                suffix=worker.suffix,
                bundle_path=bundle_path,
                modules_folder="" if key.bundle is None else self._modules_folder(key.bundle),
                shared_loop=key.shared_loop,
                options=key.options,
                group=worker.group,
            )
            self.send(worker, message)
        return worker

    def forget_functions(self, numbers: Set[int]) -> None:
        """Have workers drop functions that no task needs any more."""
        for worker in self.workers.values():
            known = worker.functions & numbers
            if known:
                worker.functions -= known
                self.send(worker, messages.ForgetFunctions(list(known)))

    def forget_bundles(self, keys: Set[int]) -> None:
        """Dismiss the idle workers of source bundles that no task needs any more, and remove the unpacked bundles.

        A worker that has not imported yet knows only the path of the bundle, and the bundle may get another path if the
        controller sends it again.
        """
        idle = [worker for workers in [*self._idle.values(), self.warm] for worker in workers]
        for worker in idle:
            if worker.key is not None and worker.key.bundle in keys:
                self._make_busy(worker)
                self.dismiss(worker)
        for key in keys:
            self._remove_modules(self._modules_folder(key))

    def _modules_folder(self, bundle: int) -> str:
        """Return the folder into which workers unpack a source bundle."""
        return f"{self._folder}/modules/{bundle}"

    def _remove_modules(self, folder: str) -> None:
        if not os.path.isdir(folder):
            return  # no worker has unpacked the bundle
        try:
            # The folder gets another name first, because the controller may send the bundle again, and a worker may
            # unpack it, before all files are removed.
            removed = tempfile.mkdtemp(prefix="removed-", dir=os.path.dirname(folder))
            os.rename(folder, removed)
        except OSError:
            return  # the disk is full; the supervisor removes the folder when the agent ends
        self._loop.run_in_executor(None, shutil.rmtree, removed, True)

    def watch(self, watched: bool) -> None:
        """Tell all workers, and those that will be forked, if a program watches a run."""
        self._watched = watched
        for worker in self.workers.values():
            worker.page[shared_page.WATCHED] = int(watched)

    def release(self, worker: WorkerHandle) -> None:
        """Make a worker idle, because it has no tasks any more. Do nothing if the worker is ending or idle already."""
        if worker.leaving or worker.gone or worker.idle:
            return
        if worker.warm:
            worker.idle = True
            self.warm.append(worker)
        else:
            self._make_idle(worker)

    def _make_idle(self, worker: WorkerHandle) -> None:
        worker.idle = True
        self._idle.setdefault(worker.key, []).append(worker)
        self._idle_count += 1
        if self._idle_count > self.max_idle:
            # The keys of the dictionary are in the order of their last use, so the first key was used least recently.
            for key, idle in self._idle.items():
                if key != worker.key:
                    oldest = idle[0]
                    self._make_busy(oldest)
                    self.dismiss(oldest)
                    break
        if len(self._idle) > 1:
            self._idle[worker.key] = self._idle.pop(worker.key)

    def _make_busy(self, worker: WorkerHandle) -> None:
        """Remove a worker from the idle workers."""
        worker.idle = False
        if worker in self.warm:
            self.warm.remove(worker)
            return
        self._idle_count -= 1
        idle = self._idle[worker.key]
        idle.remove(worker)
        if not idle:
            # Otherwise the dictionary would keep every key that a worker ever had.
            del self._idle[worker.key]

    def has_warm(self, value: str) -> bool:
        """Return True if a worker has a warm value."""
        return any(value in worker.warm for worker in self.workers.values())

    def forget_warm(self, keys: Set[int]) -> None:
        """Have workers drop the warm values that were made from deleted objects.

        An idle worker that has no other values is dismissed.

        Args:
            keys: Keys of the deleted objects.
        """
        for worker in list(self.workers.values()):
            deleted = worker.warm_inputs & keys
            if not deleted:
                continue
            worker.warm_inputs -= deleted
            if worker.idle and not (worker.has_lasting_value or worker.warm_inputs):
                self.dismiss(worker)
            else:
                if worker.must_leave:
                    worker.leaves_before = worker.next_number
                self.send(worker, messages.ForgetWarm(list(deleted)))

    def reuse(self, worker: WorkerHandle) -> None:
        """Take an idle worker with warm values into use."""
        self._make_busy(worker)

    def dismiss(self, worker: WorkerHandle) -> None:
        """Ask a worker to end by itself. Kill it if it has not ended after 1 s.

        A worker that leaves context managers has `LEAVE_S` seconds.
        """
        if worker.idle:
            self._make_busy(worker)
        worker.leaving = True
        try:
            worker.link.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._loop.call_later(LEAVE_S if worker.must_leave else 1.0, self.kill, worker, 0.0)

    async def leave_warm(self) -> None:
        """Dismiss the idle workers that have something to leave, and wait for their end, at most for `LEAVE_S`."""
        leaving = [worker for worker in self.warm if worker.must_leave]
        for worker in leaving:
            self.dismiss(worker)
        self._loop.call_later(LEAVE_S, self._ended.set)
        until = self._loop.time() + LEAVE_S
        while self._loop.time() < until and not all(worker.gone for worker in leaving):
            self._ended.clear()
            await self._ended.wait()

    def kill(self, worker: WorkerHandle, grace_s: float) -> None:
        """End a worker and all processes that it started.

        Args:
            worker: The worker.
            grace_s: Seconds between SIGTERM and SIGKILL. 0: SIGKILL at once, without SIGTERM.
        """
        if not worker.gone:
            worker.leaving = True
            self._send_line(messages.Kill(worker.number, grace_s))

    def signal(self, worker: WorkerHandle, number: int) -> None:
        """Send a signal to a worker's process, but not to the processes that it started."""
        if not worker.gone:
            self._send_line(messages.SendSignal(worker.number, number))

    def _spawn(self) -> WorkerHandle:
        number = self._next
        self._next += 1
        with ExitStack() as undo:  # closes all descriptors again if the system refuses one of them
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            undo.callback(theirs.close)
            ours.setblocking(False)
            enlarge_buffers(ours)
            enlarge_buffers(theirs)
            page_fd, page = shared_page.create(self._folder)
            undo.callback(os.close, page_fd)
            undo.callback(shared_page.detach, page)
            page[shared_page.SPILL] = int(self.spill)
            page[shared_page.WATCHED] = int(self._watched)
            worker = WorkerHandle(number, ours, page, new_nonce())
            writing_ends = []
            for fd in (1, 2):
                reading, writing = os.pipe()
                undo.callback(os.close, writing)
                writing_ends.append(writing)
                pipe = Pipe(reading, worker.nonce, lambda: 0 if worker.shared else page[shared_page.ANNOUNCED])
                undo.callback(pipe.close)
                worker.pipes.append((fd, pipe))
            undo.pop_all()
        for fd, pipe in worker.pipes:
            self._loop.add_reader(pipe.fd, self._on_pipe, worker, fd, pipe)
        self.workers[number] = worker
        self._loop.add_reader(ours.fileno(), self._on_link, worker)
        fds = [theirs.detach(), *writing_ends, page_fd]
        self._send_line(messages.Spawn(number, len(fds)), fds)
        return worker

    def _end(self, worker: WorkerHandle, report: messages.WorkerGone) -> None:
        # The last messages and output of the worker may still be in its link and its pipes.
        while not worker.gone and self._on_link(worker):
            pass
        worker.gone = worker.leaving = True
        self.drain(worker)
        for _, pipe in worker.pipes:
            self._loop.remove_reader(pipe.fd)
            pipe.close()
        worker.pipes.clear()
        self._loop.remove_writer(worker.link.fileno())
        self._loop.remove_reader(worker.link.fileno())
        worker.link.close()
        del self.workers[worker.number]
        self._ended.set()
        if worker.idle:
            self._make_busy(worker)
        self._listener.on_gone(worker, report)
        if worker.group is not None:
            cgroups.remove_empty(worker.group)
        # A timer, such as the one that gives up a worker that cannot be killed, may keep the handle for seconds.
        shared_page.detach(worker.page)

    # ---- messages and output -------------------------------------------------------------------------------

    def send(self, worker: WorkerHandle, message: AnyMessage, payload: Sequence[frames.Buffer] = ()) -> None:
        """Send a message to a worker."""
        data = b"".join(frames.encode_message(0, codec.encode(message), payload))
        if worker.unsent:
            worker.unsent.append(memoryview(data))
            return
        try:
            sent = worker.link.send(data)
        except OSError as error:
            if not isinstance(error, BlockingIOError) and error.errno not in _NOT_NOW:
                # The worker is ending. The supervisor will report this with `WorkerGone`.
                return
            sent = 0
        if sent < len(data):
            worker.unsent.append(memoryview(data)[sent:])
            self._loop.add_writer(worker.link.fileno(), self._on_writable, worker)

    def _on_writable(self, worker: WorkerHandle) -> None:
        while worker.unsent:
            try:
                sent = worker.link.send(worker.unsent[0])
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NOT_NOW:
                    # As in `_flush`: otherwise the worker would never get the tasks of this message.
                    self._loop.remove_writer(worker.link.fileno())
                    self._loop.call_later(_PAUSE_S, self._await_room, worker)
                    return
                worker.unsent.clear()
                break
            if sent < len(worker.unsent[0]):
                worker.unsent[0] = worker.unsent[0][sent:]
                return
            worker.unsent.popleft()
        self._loop.remove_writer(worker.link.fileno())

    def _await_room(self, worker: WorkerHandle) -> None:
        if not worker.gone:
            self._loop.add_writer(worker.link.fileno(), self._on_writable, worker)

    def _on_link(self, worker: WorkerHandle) -> bool:
        """Read from a worker's link and handle the messages. Return False if there is nothing left to read."""
        try:
            data = worker.link.recv(_RECEIVE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(worker.link.fileno())
            if not worker.leaving:
                # If the worker's process still runs, a task has closed the link.
                worker.link_misused = processes.is_running(worker.pid)
                self.kill(worker, 0.0)
            return False
        try:
            for frame in [f for f in worker.decoder.feed(data) if type(f) is frames.Message]:
                self.drain(worker)
                self._listener.on_report(worker, frame)
        except (frames.ProtocolError, KeyError, TypeError, ValueError, IndexError):
            # A task has written to the worker's link, so the agent cannot trust any further message on the link.
            traceback.print_exc()
            self._loop.remove_reader(worker.link.fileno())
            worker.link_misused = True
            self.kill(worker, 0.0)
            return False
        return True

    def drain(self, worker: WorkerHandle) -> None:
        """Read and handle what a worker has printed so far."""
        for fd, pipe in worker.pipes:
            for _ in range(64):
                if not self._on_pipe(worker, fd, pipe):
                    break

    def _on_pipe(self, worker: WorkerHandle, fd: int, pipe: Pipe) -> bool:
        pieces = pipe.read()
        if pieces is None:
            self._loop.remove_reader(pipe.fd)
            return False
        for number, data in pieces:
            self._listener.on_output(worker, fd, number, data)
        return bool(pieces)
