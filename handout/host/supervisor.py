"""The supervisor: the process that starts and ends the agent and the workers of a host.

The supervisor starts before the agent and the workers, and has one thread. It imports the modules that workers need, so
that forking a worker takes only a millisecond. It is a subreaper: when a worker dies, the worker's descendants become
children of the supervisor. Such a child is called a stray, and the supervisor kills it. The supervisor knows nothing
about tasks.

When the agent closes its socket to the supervisor, the supervisor ends all processes of the run. When the lease ends,
the supervisor kills the workers. It reads the end of the lease from memory that it shares with the agent. If the agent
hangs, it does not extend the lease, and the supervisor still ends user code in time.

Each message to or from the agent is one line of JSON on the socket; `handout.protocol.messages` declares the messages.
"""

from __future__ import annotations

import errno
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
from collections.abc import Callable
from typing import Any

from handout.host.system import orphans, processes, report_pipe
from handout.host.system.cgroups import ControlGroups
from handout.host.system.clock import now_ns
from handout.host.system.lease import Lease
from handout.host.worker.objects import why_refused
from handout.protocol import codec, messages
from handout.protocol.messages import AnyMessage

#: When the lease has ended, the agent lingers: it stays for some time, because it keeps finished results for the
#: controller. After that time, the agent gets this many nanoseconds to end by itself.
_AGENT_GRACE_NS = 2_000_000_000
#: Bytes of address space that the supervisor gives back before it removes folders. A start may have failed for lack of
#: address space. The bytes are never written to, so they take no memory.
_SPARE = 4 << 20
#: The supervisor reports the end of a worker when all strays are dead, but at most this many seconds after the end.
_STRAY_S = 0.5
#: Seconds between two searches for strays.
_SWEEP_S = 0.01
#: Seconds that a worker gets to handle the signal of a `SendSignal` message before the supervisor ends the worker.
_SIGNAL_S = 0.05
#: Seconds until `Supervisor.shut_down` gives up.
_SHUTDOWN_S = 5.0
#: Folder of a file system in memory. Each run makes a folder there for its objects, the store.
_STORES = "/dev/shm"
#: All workers together may have this many processes and threads for each processor of the host, where a host with fewer
#: than 4 processors counts as one with 4. Without a limit, a task that forks without end would fill the host.
_MOST_PROCESSES = 1024
#: A worker's own descriptors have numbers from this one on, because user code that closes descriptors by number mostly
#: closes low ones.
HIGH_FD = 600


class Child:
    """A worker process that has not been reaped."""

    def __init__(self, number: int, pid: int) -> None:
        self.number = number
        self.pid = pid
        #: When the supervisor last handled a `SendSignal` for the worker, in monotonic seconds.
        self.signalled_at = 0.0
        #: Monotonic seconds at which the worker gets SIGKILL; None if the worker may go on.
        self.kill_at: float | None = None
        #: True if the supervisor kills the worker because the lease ended.
        self.lapsed = False


class Supervisor:
    """Serves the agent and watches the workers; see the module's docstring.

    Args:
        agent_pid: Process number of the agent, a child of this process.
        link: Socket to the agent.
        lease: Tells until when user code may run.
        groups: Control groups for the workers.
        python_path: The folders of the login's ``PYTHONPATH``, for the workers.
    """

    def __init__(
        self, agent_pid: int, link: socket.socket, lease: Lease, groups: ControlGroups, python_path: list[str]
    ) -> None:
        self._agent_pid = agent_pid
        self._link = link
        self._lease = lease
        self._groups = groups
        self._python_path = python_path
        self._children: dict[int, Child] = {}
        self._pids: dict[int, Child] = {}
        #: Unsent reports of reaped workers, each with a time in monotonic seconds. After that time, the supervisor
        #: sends the report even if strays are still alive.
        self._ended: list[tuple[messages.WorkerGone, float]] = []
        self._held = b""
        self._fds: list[int] = []
        self._outgoing = b""
        self._lapsed = False
        #: True once the modules that only some tasks need are imported. The loop imports them when it is idle.
        self._has_preloaded_more = False
        self._stopping = False
        self._most_processes = _limit_processes(groups)
        link.setblocking(False)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def loop(self) -> None:
        """Run until the agent ends, sends `ShutDown` or lingers too long, or until this process gets SIGTERM."""
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
            if not events and not self._has_preloaded_more:
                self._has_preloaded_more = True
                _preload_more()

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
        """Read the agent's messages and handle them. Return False if the agent has closed its side."""
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
        """Receive the descriptors that the agent sent before it ended, and keep them open.

        One of them may be the connection to the controller. The connection must stay open until all processes of the
        run have ended, because its end tells the controller that no process is left.
        """
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
        # A descriptor that came with this message is the connection to the controller. The descriptor stays open until
        # this process ends.
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
        # The signal of a `SendSignal` message may ask the worker to print its stack. Without this pause, SIGTERM could
        # arrive while that signal is still pending. The worker would handle SIGTERM first, and end before it has
        # printed the stack.
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
            become_worker(parent, fds, self._groups, self._most_processes, self._python_path)
        for fd in fds:
            os.close(fd)
        child = Child(number, pid)
        self._children[number] = self._pids[pid] = child
        self._send(messages.Forked(number, pid))

    def _reap(self) -> bool:
        """Reap the children that have ended. Return False if the agent is among them."""
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
            # A worker that is due to be killed within `_STRAY_S` seconds keeps its time. All others are killed at once,
            # even if they have been given a longer time to end by themselves.
            if child.kill_at is None or child.kill_at > latest:
                child.kill_at = 0.0
        if not self._lapsed:
            self._lapsed = True
            self._send(messages.LeaseLapsed())
        if late > linger + _AGENT_GRACE_NS:
            self._stopping = True

    def shut_down(self) -> None:
        """Kill all processes of the run and reap them. Give up after `_SHUTDOWN_S` seconds."""
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
    """Limit the processes and threads of all workers together, through their control group.

    Returns: The limit that each worker must also set for itself with `processes.limit_processes`. None for the
        superuser, because the system does not apply such a limit to the superuser.
    """
    most = _MOST_PROCESSES * max(4, os.cpu_count() or 1)
    groups.limit_processes(most)
    return None if os.getuid() == 0 else processes.count_user_threads() + most


def become_worker(parent: int, fds: list[int], groups: ControlGroups, most: int | None, python_path: list[str]) -> None:
    """Turn this forked process into a worker. This call never returns.

    Args:
        parent: Process number of the supervisor.
        fds: Descriptors of the worker's socket to the agent, of its standard output, of its standard error and of its
            shared page (see `shared_page`), in this order.
        groups: The run's control groups.
        most: The worker may not fork while this user has this many or more processes and threads. None: no such limit.
        python_path: The folders of the login's ``PYTHONPATH``, from which user code may import.
    """
    try:
        _isolate(parent, groups, most)
        link, page = _take_descriptors(fds)
        from handout.host.worker import main

        add_python_path(python_path)
        main.run(link, page)
    except BaseException:
        try:
            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
        except OSError:
            pass
    finally:
        os._exit(70)


def add_python_path(folders: list[str]) -> None:
    """Add the folders of the login's ``PYTHONPATH`` to ``sys.path``: after the standard library, before all packages.

    Python itself puts them first. Then a ``random.py`` in such a folder would break the worker's own code.
    """
    library = os.path.dirname(os.__file__)
    own = [i for i, path in enumerate(sys.path) if path.startswith(library) and not path.endswith("-packages")]
    at = max(own, default=0) + 1
    sys.path[at:at] = [path for path in folders if path not in sys.path]


def _isolate(parent: int, groups: ControlGroups, most: int | None) -> None:
    """Give this forked process the signal handlers, the session, the control group and the limits of a worker."""
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
        text = f"worker {os.getpid()} could not enter the workers' control group, and runs outside the group: {error}"
        print(text, file=sys.stderr, flush=True)
    if most is not None:
        processes.limit_processes(most)


def _take_descriptors(fds: list[int]) -> tuple[int, int]:
    """Keep the worker's descriptors, and close all others. Return those of the socket and of the shared page.

    The other two become standard output and standard error. Standard input becomes /dev/null.
    """
    # The descriptors that this process has inherited are closed first, because its limit may be low (``ulimit -n``).
    ordered = sorted(fds)
    for first, end in zip([2, *ordered], ordered):
        os.closerange(first + 1, end)
    os.closerange(max(fds) + 1, max(fds) + 64)
    high = _high_copies(fds)
    for fd in fds:
        os.close(fd)
    link, out, err, page = high
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, null), (1, out), (2, err)):
        os.dup2(source, target)
    os.closerange(3, min(high))
    os.closerange(max(high) + 1, max(high) + 64)
    os.close(out)
    os.close(err)
    return link, page


def _high_copies(fds: list[int]) -> list[int]:
    """Return copies of descriptors, with numbers from `HIGH_FD` on, or with lower ones if the system refuses these."""
    base = HIGH_FD
    while True:
        try:
            return [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, base) for fd in fds]
        except OSError:
            # `base` is above this process's limit of open files.
            if base <= 3:
                raise
            base //= 2


def _make_store(folder: str, groups: ControlGroups) -> str | None:
    """Make a folder in memory for the objects of a run.

    Return None if the host has no file system in memory, or this user cannot write there.
    """
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
    told: Callable[[BaseException, str], dict[str, str]],
) -> None:
    """Turn this forked process into the agent. This call never returns."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    status = 1
    try:
        from handout.host.agent import agent

        agent.run(folder, store, groups, settings, token, report_fd, link, lease)
        status = 0
    except BaseException as error:
        report = told(error, "the agent cannot start")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            report = {"error": "space", "message": f"cannot write to {folder}: {why_refused(folder, error)}"}
        # `handout.host.boot` quotes the log of a start.
        logged = traceback.format_exc() if report_pipe.has_ended(report_fd) else report["message"]
        for fd, data in ((report_fd, f"{json.dumps(report)}\n"), (2, f"{logged}\n")):
            try:
                os.write(fd, data.encode("utf-8", "replace"))
            except OSError:
                pass  # there is no room for the log
    finally:
        os._exit(status)


def run(
    folder: str,
    settings: dict[str, Any],
    token: bytes,
    report_fd: int,
    told: Callable[[BaseException, str], dict[str, str]],
) -> None:
    """Run as this host's supervisor until the agent ends. Then remove the run's folders and control groups.

    Args:
        folder: Private folder of this run. It contains the agent's socket, scratch folders and objects on disk.
        settings: ``host`` and ``digest``, and optionally ``host_timeout_s``, ``heartbeat_s``, ``linger_s``,
            ``kill_after_s``, ``store_limit`` and ``python_path`` (the folders of the login's ``PYTHONPATH``).
        token: The secret by which a connection proves that it comes from the controller.
        report_fd: Descriptor of a pipe to which the agent writes its hello, one JSON line. Once the agent is forked,
            the supervisor redirects its own copy of the descriptor to /dev/null, so that the reader sees the end of the
            pipe if the agent ends.
        told: Returns the report of an error that ends the start of the agent; see `handout.host.boot.told`.
    """
    # The process that removes orphans must start before this process becomes a subreaper. Otherwise this process would
    # become the parent of that process, and kill it as a stray.
    orphans.remove_in_background(folder, _STORES, report_fd)
    processes.become_subreaper()
    groups, store = ControlGroups.for_run(os.path.basename(folder)), None
    spare = bytearray(_SPARE)
    try:
        orphans.lock(folder, group_folders=groups.folders)
        groups.make()
        store = _make_store(folder, groups)
        lease = Lease(settings.get("host_timeout_s", 15.0), settings.get("linger_s", 60.0))
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _run_agent(folder, store, groups, settings, token, report_fd, theirs, lease, told)
        theirs.close()
        report_pipe.end(report_fd)
        _preload()
        supervisor = Supervisor(pid, ours, lease, groups, settings.get("python_path", []))
        try:
            supervisor.loop()
        finally:
            supervisor.shut_down()
    finally:
        del spare
        groups.remove()
        for path in (folder, store):
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)


def _preload() -> None:
    """Import the modules that every worker needs, before the first worker is forked."""
    from handout.host.worker import main  # noqa: F401

    gc.collect()
    gc.freeze()


def _preload_more() -> None:
    """Import modules that only some tasks need. If an import fails, only the tasks that need the module will fail."""
    from handout.host.worker import main

    try:
        main.preload()
    except ImportError:
        traceback.print_exc(file=sys.stderr)
    gc.collect()
    gc.freeze()
