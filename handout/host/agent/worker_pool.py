"""The workers of a host, from the agent's side, and the line to the supervisor that forks and ends them.

A worker is warm for one key, which is fixed before its first import. Blank ones are kept ready.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple, Protocol

from handout.host.agent.output_capture import Pipe, new_nonce
from handout.host.agent.task_queue import QueuedTask, TaskClassQueue
from handout.host.system import cgroups, processes, shared_page
from handout.host.system.cgroups import ControlGroups
from handout.host.system.sockets import enlarge_buffers
from handout.protocol import frames

#: Environment variables that say how many threads libraries start.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_RECEIVE = 256 << 10
#: What the system says that lacks room for a message or its descriptors now, and may have it later.
_NOT_NOW = {errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS}
_PAUSE_S = 0.05


class WorkerKey(NamedTuple):
    """What a worker is warm for."""

    code: int | None
    devices: tuple[int, ...]
    threads: int
    shared: bool
    #: Bytes that each of its tasks may take, where that is enforced.
    memory_limit: int | None = None
    #: Bytes that each object of a result may have.
    max_result_bytes: int | None = None


class PoolListener(Protocol):
    """Who hears of workers."""

    def on_report(self, hand: WorkerHandle, message: frames.Message) -> None:
        """A worker sent a message."""

    def on_output(self, hand: WorkerHandle, fd: int, number: int, data: bytes) -> None:
        """A task of a worker printed."""

    def on_gone(self, hand: WorkerHandle, report: Mapping[str, Any]) -> None:
        """A worker is gone, and all that it left; what it had to say has been said."""

    def on_lapse(self) -> None:
        """The supervisor saw the lease end."""

    def on_orphaned(self) -> None:
        """The supervisor is gone."""


class WorkerHandle:
    """One worker: its link, its page, its output, and the tasks that are queued on it."""

    def __init__(self, number: int, link: socket.socket, page: memoryview, nonce: bytes) -> None:
        self.number = number
        self.link = link
        self.page = page
        self.nonce = nonce
        self.pid = 0
        self.key: WorkerKey | None = None
        #: Its control group, where its tasks have a limit of memory.
        self.group: str | None = None
        self.pipes: list[tuple[int, Pipe]] = []
        self.decoder = frames.Decoder()
        self.unsent: deque[memoryview] = deque()
        #: What it holds of the ledger, and for which class.
        self.claim: Any = None
        self.cls: TaskClassQueue | None = None
        #: Tasks sent and not reported, by number, in order; the time that they are expected to take.
        self.queued: dict[int, QueuedTask] = {}
        self.load_us = 0.0
        self.next_number = 1
        self.functions: set[int] = set()
        #: It takes no more tasks.
        self.leaving = False
        #: Its link was closed, or spoken on, by what ran in it.
        self.cut = False
        #: It is among those that wait for something to do.
        self.idle = False
        #: Tasks from this number on are being revoked.
        self.revoked_from: int | None = None
        #: Number of a task that takes longer than was thought: nothing is queued behind it.
        self.stuck = 0
        #: It was told to die: tasks without a fate of their own go back unharmed.
        self.killed = False
        self.gone = False
        #: It said goodbye: what is still queued on it was never looked at.
        self.leaving_well = False

    @property
    def shared(self) -> bool:
        """Whether it runs many coroutines at once."""
        return self.key is not None and self.key.shared

    @property
    def killed_at_limit(self) -> bool:
        """Whether the kernel killed something of it at its limit of memory: its last task, or what that had started."""
        return self.group is not None and cgroups.killed_at_limit(self.group)

    @property
    def suffix(self) -> str:
        """Ends the names of files that it writes."""
        return f".w{self.number}"

    @property
    def running(self) -> QueuedTask | None:
        """The task that it runs, as far as can be seen: the report of its end may be on the way."""
        if self.page[shared_page.IDLE]:
            return None
        return self.queued.get(self.page[shared_page.ANNOUNCED])


class WorkerPool:
    """All workers of this host.

    Args:
        supervisor: Socket to the supervisor.
        listener: Hears what happens.
        setup: What every worker is told: ``host``, ``folders``, ``scratch``.
        folder: Where pages live on systems without anonymous files.
        groups: Control groups, for workers with a limit of memory.
    """

    def __init__(
        self,
        supervisor: socket.socket,
        listener: PoolListener,
        setup: dict[str, Any],
        folder: str,
        groups: ControlGroups,
    ) -> None:
        self._supervisor = supervisor
        self._listener = listener
        self._setup = setup
        self._folder = folder
        self._groups = groups
        self._loop = asyncio.get_running_loop()
        self.hands: dict[int, WorkerHandle] = {}
        self._idle: dict[WorkerKey | None, list[WorkerHandle]] = {}
        self._idle_count = 0
        self._next = 1
        self._held = b""
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._try_again: asyncio.TimerHandle | None = None
        #: Idle workers kept; more of them than this end.
        self.keep = max(4, 2 * (os.cpu_count() or 1))
        self.spill = False
        supervisor.setblocking(False)
        self._loop.add_reader(supervisor.fileno(), self._on_supervisor)

    # ---- the supervisor ------------------------------------------------------------------------------------

    def _tell(self, op: str, fds: Sequence[int] = (), **fields: Any) -> None:
        line = json.dumps({"op": op, "fds": len(fds), **fields}).encode() + b"\n"
        self._unsent.append((line, list(fds)))
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
                    # Nothing says when there is room; and nobody would report the end of a worker that never was.
                    self._loop.remove_writer(self._supervisor.fileno())
                    self._try_again = self._try_again or self._loop.call_later(_PAUSE_S, self._flush_again)
                    return
                # Its end is noticed by the reader.
                sent = len(line)
            for fd in fds:
                os.close(fd)
            if sent < len(line):
                self._unsent[0] = (line[sent:], [])
            else:
                self._unsent.popleft()
        self._loop.remove_writer(self._supervisor.fileno())

    def _flush_again(self) -> None:
        self._try_again = None
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
            message = json.loads(line)
            if message["op"] == "lapsed":
                self._listener.on_lapse()
                continue
            hand = self.hands.get(message["id"])
            if hand is None:
                continue
            if message["op"] == "started":
                hand.pid = message["pid"]
            elif message["op"] == "gone":
                self._end(hand, message)

    def hand_over(self, fd: int) -> None:
        """Give the supervisor a descriptor to hold until it ends, and tell it to."""
        self._tell("stop", [fd] if fd >= 0 else [])

    # ---- coming and going ----------------------------------------------------------------------------------

    @property
    def has_idle(self) -> bool:
        """Whether a worker is there that does nothing."""
        return self._idle_count > 0

    def prepare(self, count: int) -> None:
        """Have blank workers ready."""
        for _ in range(count):
            self._make_idle(self._spawn())

    def acquire(
        self, key: WorkerKey, environment: Callable[[WorkerKey], dict[str, str]], code: str | None
    ) -> WorkerHandle:
        """An idle worker that is warm for a key, or a blank one, or a new one."""
        for wanted in (key, None):
            idle = self._idle.get(wanted)
            if idle:
                hand = idle.pop()
                hand.idle = False
                self._idle_count -= 1
                break
        else:
            hand = self._spawn()
        if hand.key is None:
            hand.key = key
            if key.memory_limit is not None:
                hand.group = self._groups.add_memory_group(f"w{hand.number}", key.memory_limit)
            fields = {
                "m": "setup",
                **self._setup,
                "env": environment(key),
                "nonce": hand.nonce.hex(),
                "suffix": hand.suffix,
                "code": code,
                "shared": key.shared,
                "max_result_bytes": key.max_result_bytes,
                "memory_limit": key.memory_limit,
                "group": hand.group,
            }
            self.send(hand, frames.encode_message(0, fields))
        return hand

    def release(self, hand: WorkerHandle) -> None:
        """A worker has nothing to do any more."""
        if not hand.leaving and not hand.gone and not hand.idle:
            self._make_idle(hand)

    def _make_idle(self, hand: WorkerHandle) -> None:
        hand.idle = True
        self._idle.setdefault(hand.key, []).append(hand)
        self._idle_count += 1
        if self._idle_count > self.keep:
            # The key that was used longest ago stands first.
            for key, idle in self._idle.items():
                if idle and key != hand.key:
                    self._idle_count -= 1
                    oldest = idle.pop(0)
                    oldest.idle = False
                    self.dismiss(oldest)
                    break
        if hand.key in self._idle and len(self._idle) > 1:
            self._idle[hand.key] = self._idle.pop(hand.key)

    def dismiss(self, hand: WorkerHandle) -> None:
        """Let a worker end by itself, and see to it that it does."""
        hand.leaving = True
        try:
            hand.link.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._loop.call_later(1.0, self.kill, hand, 0.0)

    def kill(self, hand: WorkerHandle, grace_s: float) -> None:
        """End a worker and everything below it: SIGTERM, and SIGKILL after the grace."""
        if not hand.gone:
            hand.leaving = True
            self._tell("kill", id=hand.number, grace_s=grace_s)

    def signal(self, hand: WorkerHandle, number: int) -> None:
        """Send a signal to the worker's process alone."""
        if not hand.gone:
            self._tell("signal", id=hand.number, number=number)

    def _spawn(self) -> WorkerHandle:
        number = self._next
        self._next += 1
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        enlarge_buffers(ours)
        enlarge_buffers(theirs)
        page_fd, page = shared_page.create(self._folder)
        page[shared_page.SPILL] = int(self.spill)
        hand = WorkerHandle(number, ours, page, new_nonce())
        ends = [theirs.detach()]
        for fd in (1, 2):
            reading, writing = os.pipe()
            ends.append(writing)
            pipe = Pipe(reading, hand.nonce, lambda: 0 if hand.shared else page[shared_page.ANNOUNCED])
            hand.pipes.append((fd, pipe))
            self._loop.add_reader(reading, self._on_pipe, hand, fd, pipe)
        self.hands[number] = hand
        self._loop.add_reader(ours.fileno(), self._on_link, hand)
        self._tell("spawn", [*ends, page_fd], id=number)
        return hand

    def _end(self, hand: WorkerHandle, report: Mapping[str, Any]) -> None:
        # What it sent before it ended is still in the link and in the pipes.
        while not hand.gone and self._on_link(hand):
            pass
        hand.gone = hand.leaving = True
        self.drain(hand)
        for _, pipe in hand.pipes:
            self._loop.remove_reader(pipe.fd)
            pipe.close()
        hand.pipes.clear()
        self._loop.remove_writer(hand.link.fileno())
        self._loop.remove_reader(hand.link.fileno())
        hand.link.close()
        del self.hands[hand.number]
        if hand.idle:
            hand.idle = False
            self._idle[hand.key].remove(hand)
            self._idle_count -= 1
        self._listener.on_gone(hand, report)
        if hand.group is not None:
            cgroups.remove_empty(hand.group)

    # ---- talking -------------------------------------------------------------------------------------------

    def send(self, hand: WorkerHandle, segments: Sequence[frames.Buffer]) -> None:
        """Send a frame to a worker."""
        data = b"".join(segments)
        if hand.unsent:
            hand.unsent.append(memoryview(data))
            return
        try:
            sent = hand.link.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            # It is ending; the supervisor will say so.
            return
        if sent < len(data):
            hand.unsent.append(memoryview(data)[sent:])
            self._loop.add_writer(hand.link.fileno(), self._on_writable, hand)

    def _on_writable(self, hand: WorkerHandle) -> None:
        while hand.unsent:
            try:
                sent = hand.link.send(hand.unsent[0])
            except BlockingIOError:
                return
            except OSError:
                hand.unsent.clear()
                break
            if sent < len(hand.unsent[0]):
                hand.unsent[0] = hand.unsent[0][sent:]
                return
            hand.unsent.popleft()
        self._loop.remove_writer(hand.link.fileno())

    def _on_link(self, hand: WorkerHandle) -> bool:
        """Read what a worker sent; False where there is nothing more."""
        try:
            data = hand.link.recv(_RECEIVE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(hand.link.fileno())
            if not hand.leaving:
                # Where it lives on, user code closed it.
                hand.cut = processes.is_running(hand.pid)
                self.kill(hand, 0.0)
            return False
        try:
            messages = [m for m in hand.decoder.feed(data) if type(m) is frames.Message]
            for message in messages:
                self.drain(hand)
                self._listener.on_report(hand, message)
        except (frames.ProtocolError, KeyError, TypeError, ValueError, IndexError):
            # Something in there wrote to a descriptor that is not its own: no word of it counts any more.
            traceback.print_exc()
            self._loop.remove_reader(hand.link.fileno())
            hand.cut = True
            self.kill(hand, 0.0)
            return False
        return True

    def drain(self, hand: WorkerHandle) -> None:
        """Take in what a worker has printed so far."""
        for fd, pipe in hand.pipes:
            for _ in range(64):
                if not self._on_pipe(hand, fd, pipe):
                    break

    def _on_pipe(self, hand: WorkerHandle, fd: int, pipe: Pipe) -> bool:
        pieces = pipe.read()
        if pieces is None:
            self._loop.remove_reader(pipe.fd)
            return False
        for number, data in pieces:
            self._listener.on_output(hand, fd, number, data)
        return bool(pieces)
