"""The process that starts the agent and the workers of a host, and that ends them.

It is started first, is single-threaded, and holds what workers need imported, so that forking one takes a
millisecond. Descendants whose parents die become its children (it is a subreaper), which is how nothing can be
left behind: whatever is its child and is neither the agent nor a worker belonged to a dead worker, and is
killed. It knows nothing of tasks.

It ends everything when the agent's socket closes, and kills the workers when the lease ends, which it reads
from a page that the agent writes: a stopped agent cannot keep user code alive.

Messages to and from the agent are JSON lines on a socket; `handout.protocol.messages` declares them.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from typing import Any

from handout.host.system import orphans, processes
from handout.host.system.cgroups import ControlGroups
from handout.host.system.clock import now_ns
from handout.host.system.lease import Lease
from handout.protocol import codec, messages
from handout.protocol.messages import AnyMessage

#: How long after the lingering the agent itself has to end.
_AGENT_GRACE_NS = 2_000_000_000
#: A worker is reported gone though something that it left cannot be killed.
_STRAY_S = 0.5
_SWEEP_S = 0.01
#: What a worker that was sent a signal gets, to heed it, before one that ends it.
_SIGNAL_S = 0.05
_SHUTDOWN_S = 5.0
#: Where stores are: in memory.
_STORES = "/dev/shm"
#: For each processor: processes and threads that workers may add, so that one that forks for ever leaves room.
_MOST_PROCESSES = 1024
#: Where a worker's own descriptors live: out of the way of small numbers that user code may guess.
HIGH_FD = 600


class Child:
    """A worker's process."""

    def __init__(self, number: int, pid: int) -> None:
        self.number = number
        self.pid = pid
        #: When it was sent a signal that asks for something.
        self.signalled_at = 0.0
        #: When SIGTERM turns into SIGKILL, or None.
        self.kill_at: float | None = None
        #: Whether it is killed because the lease ended.
        self.lapsed = False


class Supervisor:
    """The loop of the process; see the module."""

    def __init__(self, agent_pid: int, link: socket.socket, lease: Lease, groups: ControlGroups) -> None:
        self._agent_pid = agent_pid
        self._link = link
        self._lease = lease
        self._groups = groups
        self._children: dict[int, Child] = {}
        self._pids: dict[int, Child] = {}
        #: Reaped, and not yet reported: (report, monotonic time at which it goes out whatever is left).
        self._ended: list[tuple[messages.WorkerGone, float]] = []
        self._held = b""
        self._fds: list[int] = []
        self._outgoing = b""
        self._lapsed = False
        #: Whether what few tasks need has been imported, too; that waits for a quiet moment.
        self._warm = False
        self._stopping = False
        self._most_processes = _limit_processes(groups)
        link.setblocking(False)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def loop(self) -> None:
        """Run until the agent is gone."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        while not self._stopping:
            poller.register(self._link, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
            events = dict(poller.poll(self._timeout_ms()))
            if self._wake_read in events:
                self._drain_wakeups()
            if self._link.fileno() in events and not self._receive():
                break
            if not self._reap():
                self._take_last_descriptors()
                break
            self._end_what_is_due(time.monotonic())
            self._flush()
            if not events and not self._warm:
                self._warm = True
                _warm()

    def _stop(self, *_: Any) -> None:
        self._stopping = True

    def _drain_wakeups(self) -> None:
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            pass

    def _timeout_ms(self) -> int:
        now = time.monotonic()
        deadline, linger = self._lease.deadline_ns, self._lease.linger_ns
        left = (deadline - now_ns()) / 1e9
        if left <= 0:
            left = max(left + (linger + _AGENT_GRACE_NS) / 1e9, 0.0)
            if self._children:
                left = 0.0
        due = [left, 1.0]
        due += [child.kill_at - now for child in self._children.values() if child.kill_at is not None]
        if self._ended:
            due.append(_SWEEP_S)
        return int(max(0.0, min(due)) * 1000) + 1

    # ---- the agent's messages ------------------------------------------------------------------------------

    def _receive(self) -> bool:
        """Read and obey; False once the agent's side is closed."""
        try:
            data, fds, _, _ = socket.recv_fds(self._link, 65536, 64)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._fds.extend(fds)
        if not data:
            return False
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            name, message = codec.decode_line(messages.TO_SUPERVISOR, line)
            _HANDLERS[name](self, message)  # type: ignore[literal-required]
        return True

    def _take_last_descriptors(self) -> None:
        """Hold what the agent handed over before it ended: its connection must not close before all else is gone."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._link, 65536, 64)
            except OSError:
                return
            self._fds.extend(fds)
            if not data:
                return

    def _spawn_with(self, message: messages.Spawn) -> None:
        fds, self._fds[: message.fds] = self._fds[: message.fds], []
        self._spawn(message.worker, fds)

    def _end(self, message: messages.ShutDown) -> None:
        # Descriptors beside the message stay open until this process ends.
        self._stopping = True

    def _send_signal(self, message: messages.SendSignal) -> None:
        child = self._children.get(message.worker)
        if child is not None:
            processes.send_signal(child.pid, message.number)
            child.signalled_at = time.monotonic()

    def _kill(self, message: messages.Kill) -> None:
        child = self._children.get(message.worker)
        if child is None:
            return
        # A process handles SIGTERM before other signals that wait, and would then not write down its stack any more.
        time.sleep(max(0.0, child.signalled_at + _SIGNAL_S - time.monotonic()))
        at = time.monotonic() + message.grace_s
        if message.grace_s > 0:
            processes.send_group_signal(child.pid, signal.SIGTERM)
        child.kill_at = at if child.kill_at is None else min(at, child.kill_at)

    def _send(self, message: AnyMessage) -> None:
        self._outgoing += codec.encode_line(message)
        self._flush()

    def _flush(self) -> None:
        if not self._outgoing:
            return
        try:
            self._outgoing = self._outgoing[self._link.send(self._outgoing) :]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing = b""

    # ---- processes -----------------------------------------------------------------------------------------

    def _spawn(self, number: int, fds: list[int]) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            for fd in fds:
                os.close(fd)
            self._send(messages.WorkerGone(number, error=f"fork: {error.strerror}"))
            return
        if pid == 0:
            become_worker(parent, fds, self._groups, self._most_processes)
        for fd in fds:
            os.close(fd)
        child = Child(number, pid)
        self._children[number] = self._pids[pid] = child
        self._send(messages.Forked(number, pid))

    def _reap(self) -> bool:
        """Wait for whatever has ended; False where that was the agent."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._agent_pid:
                return False
            child = self._pids.pop(pid, None)
            if child is not None:
                del self._children[child.number]
                rss = usage.ru_maxrss * (1024 if processes.LINUX else 1)
                report = messages.WorkerGone(child.number, status, rss, child.lapsed)
                self._ended.append((report, time.monotonic() + _STRAY_S))

    def _strays(self) -> list[int]:
        mine = {self._agent_pid, *self._pids}
        return [pid for pid in processes.children(os.getpid()) if pid not in mine]

    def _end_what_is_due(self, now: float) -> None:
        self._enforce_lease()
        for child in list(self._children.values()):
            if child.kill_at is not None and now >= child.kill_at:
                processes.kill_trees([child.pid])
                child.kill_at = now + _STRAY_S
        if not self._ended:
            return
        strays = self._strays()
        if strays:
            processes.kill_trees(strays)
            self._reap()
        left: list[tuple[messages.WorkerGone, float]] = []
        for report, until in self._ended:
            if strays and now < until:
                left.append((report, until))
            else:
                self._send(report)
        self._ended = left

    def _enforce_lease(self) -> None:
        deadline, linger = self._lease.deadline_ns, self._lease.linger_ns
        late = now_ns() - deadline
        if late <= 0:
            self._lapsed = False
            return
        latest = time.monotonic() + _STRAY_S
        for child in self._children.values():
            child.lapsed |= child.kill_at is None
            # A grace that runs ends here, too; what is closer has been killed, and is looked at again.
            if child.kill_at is None or child.kill_at > latest:
                child.kill_at = 0.0
        if not self._lapsed:
            self._lapsed = True
            self._send(messages.LeaseLapsed())
        if late > linger + _AGENT_GRACE_NS:
            self._stopping = True

    def shut_down(self) -> None:
        """Kill whatever is left and wait for it, for a bounded time."""
        self._link.close()
        processes.send_signal(self._agent_pid, signal.SIGKILL)
        until = time.monotonic() + _SHUTDOWN_S
        while time.monotonic() < until:
            processes.kill_trees(processes.children(os.getpid()))
            try:
                while os.wait4(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(_SWEEP_S)


_HANDLERS: messages.ToSupervisor = {
    "spawn": Supervisor._spawn_with,
    "kill": Supervisor._kill,
    "send_signal": Supervisor._send_signal,
    "shut_down": Supervisor._end,
}


def _limit_processes(groups: ControlGroups) -> int | None:
    """Keep workers from forking for ever: together by their group, where there is one, and each by its user's count.

    Returns: Processes and threads of this user at which a worker may fork no more; None for the superuser, whom the
    system does not hold to that.
    """
    most = _MOST_PROCESSES * max(4, os.cpu_count() or 1)
    groups.limit_processes(most)
    return None if os.getuid() == 0 else processes.count_user_threads() + most


def become_worker(parent: int, fds: list[int], groups: ControlGroups, most: int | None) -> None:
    """Turn a forked copy of the supervisor into a worker; never returns.

    Args:
        parent: The supervisor.
        fds: The worker's link, output, errors and page.
        groups: Where workers are kept.
        most: Processes and threads of this user at which it may fork no more; None: as the system says.
    """
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        processes.die_with_parent(parent)
        processes.become_subreaper()
        processes.raise_oom_score()
        try:
            groups.join_workers()
        except OSError as error:
            print(f"worker {os.getpid()} is in no control group: {error}", file=sys.stderr, flush=True)
        if most is not None:
            processes.limit_processes(most)
        high = _high_copies(fds)
        link, out, err, page = high
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, out), (2, err)):
            os.dup2(source, target)
        os.closerange(3, min(high))
        os.closerange(max(high) + 1, max(high) + 64)
        os.close(out)
        os.close(err)
        from handout.host.worker import main

        main.run(link, page)
    except BaseException:
        try:
            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
        except OSError:
            pass
    finally:
        os._exit(70)


def _high_copies(fds: list[int]) -> list[int]:
    base = HIGH_FD
    while True:
        try:
            return [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, base) for fd in fds]
        except OSError:
            # The limit of open files is lower than that.
            if base < 32:
                raise
            base //= 2


def _make_store(folder: str, groups: ControlGroups) -> str | None:
    """A folder in memory for the objects of a run; None: there is no such place."""
    if not os.access(_STORES, os.W_OK | os.X_OK):
        return None
    try:
        path = tempfile.mkdtemp(prefix=orphans.folder_prefix(), dir=_STORES)
    except OSError:
        return None
    orphans.lock(path, folder, groups.folders)
    return path


def _run_agent(
    folder: str,
    store: str | None,
    groups: ControlGroups,
    settings: dict[str, Any],
    token: bytes,
    report_fd: int,
    link: socket.socket,
    lease: Lease,
) -> None:
    """Be the agent; never returns."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    status = 1
    try:
        from handout.host.agent import agent

        agent.run(folder, store, groups, settings, token, report_fd, link, lease)
        status = 0
    except BaseException:
        text = traceback.format_exc()
        os.write(2, text.encode("utf-8", "replace"))
        try:
            os.write(report_fd, json.dumps({"error": "start", "message": text[-2000:]}).encode() + b"\n")
        except OSError:
            pass
    finally:
        os._exit(status)


def run(folder: str, settings: dict[str, Any], token: bytes, report_fd: int) -> None:
    """Be the supervisor of this host until its agent ends, then leave nothing.

    Args:
        folder: Private folder of this run; holds the socket, scratch space and spilled objects; removed.
        settings: ``host`` and ``digest``, and where given ``host_timeout_s``, ``heartbeat_s``, ``linger_s``,
            ``kill_after_s``.
        token: What a connection must say to be the controller's.
        report_fd: Where the agent writes its hello, one JSON line; leads nowhere afterwards.
    """
    # Before what others leave behind becomes this process's.
    orphans.remove_in_background(folder, _STORES, report_fd)
    processes.become_subreaper()
    groups, store = ControlGroups.for_run(os.path.basename(folder)), None
    try:
        orphans.lock(folder, group_folders=groups.folders)
        groups.make()
        store = _make_store(folder, groups)
        lease = Lease(settings.get("host_timeout_s", 15.0), settings.get("linger_s", 60.0))
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _run_agent(folder, store, groups, settings, token, report_fd, theirs, lease)
        theirs.close()
        _silence(report_fd)
        _preload()
        supervisor = Supervisor(pid, ours, lease, groups)
        try:
            supervisor.loop()
        finally:
            supervisor.shut_down()
    finally:
        groups.remove()
        for path in (folder, store):
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)


def _silence(fd: int) -> None:
    """Close a descriptor in effect, and keep its number from becoming another one's: it may be written to again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd, inheritable=False)
    os.close(null)


def _preload() -> None:
    """Import what every worker needs, once, before the first one is forked."""
    from handout.host.worker import main  # noqa: F401

    gc.collect()
    gc.freeze()


def _warm() -> None:
    """Import what some tasks need; a failure shows again, with its cause, where one does."""
    from handout.host.worker import main

    try:
        main.preload()
    except ImportError:
        traceback.print_exc(file=sys.stderr)
    gc.collect()
    gc.freeze()
