"""The process on a host that talks to the controller: takes tasks and objects in, and tells what became of them.

It is standard library only and never unpickles: it moves opaque bytes. Here is how its parts hang together; what
they do is theirs: `link` (conversation, lease), `tasks` (what waits for what), `dispatch` (what starts), `crew`
(workers), `store` and `transfers` (objects), `capture` (output), `watch` (what takes too long).
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from handout.host.agent import host_commands
from handout.host.agent.completion import Completion
from handout.host.agent.dispatcher import Dispatcher
from handout.host.agent.limits_monitor import LimitsMonitor
from handout.host.agent.link import ControllerLink
from handout.host.agent.object_store import ObjectStore, StoreFullError
from handout.host.agent.output_capture import Logs
from handout.host.agent.result_sender import ResultSender
from handout.host.agent.task_queue import QueuedTask, TaskClassQueue, TaskQueue
from handout.host.agent.transfers import Transfers
from handout.host.agent.worker_pool import WorkerHandle, WorkerPool
from handout.host.system import orphans, processes, shared_page
from handout.host.system.cgroups import ControlGroups
from handout.host.system.clock import now
from handout.host.system.lease import Lease
from handout.host.system.oom_kills import OomKills
from handout.host.system.probe import probe, processes_outlive_login
from handout.protocol import frames
from handout.protocol.ledger import PARTS, Ledger

#: Output of tasks waits here, not in the session, beyond this.
_CALM_BYTES = 256 << 10
_LOG_INTERVAL_S = 0.05
_BLANK_WORKERS = 4
#: Keys of objects hold the number of their run above this; sources of modules have keys below.
_FIRST_KEY = 1 << 44
#: What another controller is told of that the one before had not confirmed.
_TOLD_AGAIN = frozenset({"done", "failed", "returned", "started", "log"})


class Agent:
    """All of it.

    Args:
        folder: Private folder of this run.
        store: Folder for objects in memory, or None.
        groups: Control groups of the workers.
        settings: See `supervisor.run`.
        token: What the controller's connections say.
        supervisor: Socket to the supervisor.
        lease: Read by the supervisor.
    """

    def __init__(
        self,
        folder: str,
        store: str | None,
        groups: ControlGroups,
        settings: dict[str, Any],
        token: bytes,
        supervisor: socket.socket,
        lease: Lease,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._folder = folder
        self._memory_folder = store
        self._groups = groups
        self._lease = lease
        self._timeout_s: float = settings.get("host_timeout_s", 15.0)
        self._linger_s: float = settings.get("linger_s", 60.0)
        heartbeat_s: float = settings.get("heartbeat_s", 2.0)
        self.stopped = asyncio.Event()
        self.identity = os.urandom(8).hex()
        self.probed = probe(folder)
        self.functions: dict[int, bytes] = {}
        #: Objects that found no room.
        self._refused: dict[int, StoreFullError] = {}
        self.store = ObjectStore(store, f"{folder}/objects", settings.get("store_limit"))
        self.backlog = TaskQueue(self.store.__contains__)
        self.ledger = Ledger(*_amounts(self.probed))
        setup = {
            "host": settings.get("host", ""),
            "folders": self.store.folders,
            "scratch": f"{folder}/scratch",
        }
        self.crew = WorkerPool(supervisor, self, setup, folder, groups)
        self.dispatcher = Dispatcher(self.backlog, self.ledger, self.store, self.crew, self.functions)
        self.transfers = Transfers(self.store, self._on_stored, self._on_refused)
        self.link = ControllerLink(
            f"{folder}/agent.sock",
            token,
            self.identity,
            heartbeat_s,
            self._on_message,
            self.transfers.receive,
            self._on_heard,
            self._is_over,
            self._on_adopted,
        )
        self.transfers.use(self.link)
        self.logs = Logs(self._send_log, lambda: self.link.session.calm_bytes < _CALM_BYTES)
        self.answers = ResultSender(self.link, self.logs)
        self.outcomes = Completion(
            self.answers, self.backlog, self.store, self.dispatcher, self.crew, OomKills(groups.common_group)
        )
        self.outcomes.kill_after_s = settings.get("kill_after_s", 5.0)
        self.watch = LimitsMonitor(self.crew, self.outcomes, self.answers)
        self.dispatcher.on_busy = self.watch.start
        self._flushing_logs = False
        self._heartbeat_s = heartbeat_s
        self._lapsed = False
        self._watch_store()
        self._loop.set_exception_handler(self._on_stray_error)
        self._tick()

    # ---- the lease -----------------------------------------------------------------------------------------

    @property
    def _deadline(self) -> float:
        return self.link.session.last_mutual + self._timeout_s

    def _is_over(self) -> bool:
        if now() <= self._deadline:
            return False
        self.on_lapse()
        return True

    def _on_heard(self) -> None:
        deadline = self._deadline
        self._lease.extend(deadline)
        if self._lapsed and now() < deadline:
            self._lapsed = self.dispatcher.paused = False
            self.dispatcher.schedule()

    def _tick(self) -> None:
        """Look at the clock: beats, and the ends of the lease and of the lingering."""
        # Who was never spoken to has nothing that anybody could come back for.
        if now() > self._deadline + (self._linger_s if self.link.was_greeted else 0.0):
            # Were the supervisor stopped, it would stay for ever, and the run's folders with it.
            processes.send_signal(os.getppid(), signal.SIGCONT)
            self.stopped.set()
            return
        self._is_over()
        self.outcomes.oom_kills.refresh(now())
        self.link.flush()
        self._loop.call_later(min(self._heartbeat_s, self._timeout_s / 4) / 2, self._tick)

    def on_lapse(self) -> None:
        """The lease has ended: running code dies, what has not started goes back, results stay."""
        if self._lapsed or now() <= self._deadline:
            return
        self._lapsed = self.dispatcher.paused = True
        self.link.disconnect()
        self.outcomes.lapse()

    def _on_adopted(self, left: list[tuple[dict[str, Any], Sequence[frames.Buffer]]]) -> None:
        """Another controller goes on where the one before was lost: tell it what is here, and what that one missed."""
        self.transfers.close()
        self._refused.clear()
        left = [(fields, payload) for fields, payload in left if fields["m"] in _TOLD_AGAIN]
        tickets = dict.fromkeys([*self.backlog.tasks, *self.answers.waiting()])
        for fields, _ in left:
            if fields["m"] in ("done", "failed", "returned"):
                said = fields["ticket"]
                tickets.update(dict.fromkeys(said if isinstance(said, list) else [said]))
        keys = self.store.keys
        objects = [key for key in keys if key >= _FIRST_KEY]
        numbers = [*self.functions, *self.backlog.classes, *(key for key in keys if key < _FIRST_KEY)]
        self.link.send(
            {
                "m": "found",
                "ticket": list(tickets),
                "key": objects,
                "size": [self.store.size(key) for key in objects],
                # What the other controller numbers from 1 is numbered from here on.
                "shift": max(numbers, default=0),
            }
        )
        for fields, payload in left:
            self.link.send(fields, payload)

    def _break_down(self) -> None:
        """Something happened that must not: end, so that the controller turns to other hosts."""
        traceback.print_exc()
        self.stopped.set()

    def _on_stray_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        self.stopped.set()

    def on_orphaned(self) -> None:
        """The supervisor was killed: nobody else cleans up now."""
        processes.kill_trees([hand.pid for hand in self.crew.hands.values() if hand.pid])
        orphans.kill_processes([self._folder])
        self._groups.remove()
        for folder in (self._folder, self._memory_folder):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    # ---- the controller's messages -------------------------------------------------------------------------

    def _on_message(self, message: frames.Message) -> None:
        try:
            handler = _HANDLERS[message.fields["m"]]
            handler(self, message.fields, memoryview(message.payload))
        except Exception:
            # It will not be sent again, and what it asked for would be waited for in vain.
            self._break_down()

    def _functions(self, fields: Mapping[str, Any], payload: memoryview) -> None:
        position = 0
        for number, size in zip(fields["fn"], fields["len"]):
            self.functions[number] = bytes(payload[position : position + size])
            position += size

    def _classes(self, fields: Mapping[str, Any], payload: memoryview) -> None:
        for entry in fields["classes"]:
            self.backlog.classes[entry["class"]] = TaskClassQueue(entry)

    def _objects(self, fields: Mapping[str, Any], payload: memoryview) -> None:
        position = 0
        for key, size in zip(fields["key"], fields["len"]):
            try:
                self.store.put(key, payload[position : position + size])
                self.backlog.arrived(key)
            except StoreFullError as error:
                self._on_refused(key, error)
            position += size
        self.dispatcher.schedule()
        self._watch_store()

    def _tasks(self, fields: Mapping[str, Any], payload: memoryview) -> None:
        count = len(fields["ticket"])
        names = ("fn", "class", "len", "inputs", "out", "keep", "id", "attempt", "variant")
        columns = [_column(fields, name, count) for name in names]
        classes, add = self.backlog.classes, self.backlog.add
        data = bytes(payload)
        position = 0
        for ticket, fn, cls, size, inputs, out, keep, id_, attempt, variant in zip(fields["ticket"], *columns):
            end = position + size
            add(QueuedTask(ticket, fn, classes[cls], data[position:end], inputs, out, keep, id_, attempt, variant))
            position = end
        for key in self._refused.keys() & self.backlog.waiting.keys():
            self.outcomes.starve(key, self._refused[key])
        if self._lapsed:
            self.outcomes.lapse()
        self.dispatcher.schedule()

    def _stream(self, fields: dict[str, Any], payload: memoryview) -> None:
        self.transfers.announce(fields)

    def _fetch(self, fields: dict[str, Any], payload: memoryview) -> None:
        self.transfers.fetch(fields)

    def _stop_stream(self, fields: Mapping[str, Any], payload: memoryview) -> None:
        self.transfers.stop(fields["stream"])

    def _drop(self, fields: Mapping[str, Any], payload: memoryview) -> None:
        self.transfers.drop(fields["key"])
        for key in fields["key"]:
            self.store.drop(key)
            self._refused.pop(key, None)
        self.dispatcher.suspects.difference_update(fields["key"])
        self._watch_store()

    def _distrust(self, fields: Mapping[str, Any], payload: memoryview) -> None:
        self.dispatcher.distrust((key for key in fields["key"] if key not in self.store), fields["types"])

    def _cancel(self, fields: Mapping[str, Any], payload: memoryview) -> None:
        self.outcomes.cancel(fields["ticket"], fields.get("grace_s", 5.0))

    def _take_back(self, fields: Mapping[str, Any], payload: memoryview) -> None:
        self.outcomes.take_back(fields["ticket"])

    def _limits(self, fields: Mapping[str, Any], payload: memoryview) -> None:
        self.ledger.resize(fields["amounts"], fields.get("devices", ()))
        self.dispatcher.schedule()

    def _run(self, fields: Mapping[str, Any], payload: memoryview) -> None:
        host_commands.start(fields["id"], fields["argv"], fields.get("timeout_s", 10.0), self.link)

    def _stop(self, fields: Mapping[str, Any], payload: memoryview) -> None:
        self.stopped.set()

    # ---- what workers say ----------------------------------------------------------------------------------

    def on_report(self, hand: WorkerHandle, message: frames.Message) -> None:
        """See `crew.Listener`."""
        self.outcomes.take_in(hand, message)
        self._watch_store()

    def on_output(self, hand: WorkerHandle, fd: int, number: int, data: bytes) -> None:
        """See `crew.Listener`."""
        task = hand.queued.get(number)
        if task is None and hand.queued:
            # Before its first task a worker speaks for whichever that will be.
            task = next(iter(hand.queued.values()))
        if task is not None:
            self.logs.add(task.ticket, fd, data)
            self._flush_logs_soon()

    def on_gone(self, hand: WorkerHandle, report: Mapping[str, Any]) -> None:
        """See `crew.Listener`."""
        self.store.clean_up_after(hand.suffix)
        self.outcomes.bury(hand, report)

    def _flush_logs_soon(self) -> None:
        if not self._flushing_logs:
            self._flushing_logs = True
            self._loop.call_later(_LOG_INTERVAL_S, self._flush_logs)

    def _flush_logs(self) -> None:
        self._flushing_logs = False
        self.logs.flush(now())
        self.answers.emit_loud()
        if self.logs.waiting:
            self._flush_logs_soon()

    def _send_log(self, ticket: int, fd: int, dropped: int, data: bytes) -> None:
        self.link.send_calmly({"m": "log", "ticket": ticket, "fd": fd, "dropped": dropped}, [data])

    # ---- objects -------------------------------------------------------------------------------------------

    def _on_stored(self, key: int) -> None:
        self.link.send({"m": "stored", "key": [key], "size": [self.store.size(key)]})
        if self.backlog.arrived(key):
            self.dispatcher.schedule()
        self._watch_store()

    def _on_refused(self, key: int, error: StoreFullError) -> None:
        """An object found no room: whatever waits for it, now or later, fails with that."""
        self._refused[key] = error
        self.outcomes.starve(key, error)

    def _watch_store(self) -> None:
        """Tell workers where large results go from here on."""
        spilling = self.store.spilling
        if spilling != self.crew.spill:
            self.crew.spill = spilling
            for hand in self.crew.hands.values():
                hand.page[shared_page.SPILL] = int(spilling)


def _column(fields: Mapping[str, Any], name: str, count: int) -> list[Any]:
    """A column: a list, or one value for all. Of columns whose values are lists, an empty one is for all too."""
    value = fields[name]
    if not isinstance(value, list) or (not value and count):
        return [value] * count
    return value


def _amounts(probed: Mapping[str, Any]) -> Any:
    """What a ledger starts with, until the controller says what counts."""
    amounts = {name: int(probed[name]) * PARTS for name in ("cpu", "memory", "disk") if name in probed}
    return amounts, [probed.get("gpu_memory", 0) * PARTS] * probed.get("gpu", 0)


_HANDLERS: dict[Any, Any] = {
    "functions": Agent._functions,
    "classes": Agent._classes,
    "objects": Agent._objects,
    "tasks": Agent._tasks,
    "stream": Agent._stream,
    "stop_stream": Agent._stop_stream,
    "fetch": Agent._fetch,
    "drop": Agent._drop,
    "distrust": Agent._distrust,
    "cancel": Agent._cancel,
    "take_back": Agent._take_back,
    "limits": Agent._limits,
    "run": Agent._run,
    "stop": Agent._stop,
}


async def _serve(
    folder: str,
    store: str | None,
    groups: ControlGroups,
    settings: dict[str, Any],
    token: bytes,
    report_fd: int,
    supervisor: socket.socket,
    lease: Lease,
) -> None:
    agent = Agent(folder, store, groups, settings, token, supervisor, lease)
    hello = {
        "agent": agent.identity,
        "wire": frames.VERSION,
        "digest": settings.get("digest", ""),
        "python": list(sys.version_info[:3]),
        "socket": f"{folder}/agent.sock",
        "probed": agent.probed,
        "lingers": processes_outlive_login(),
    }
    os.write(report_fd, json.dumps(hello).encode() + b"\n")
    os.close(report_fd)
    agent.crew.prepare(min(agent.probed["cpu"], _BLANK_WORKERS))
    await agent.stopped.wait()
    # Who asked for this knows then that the line carried it, and waits for its end.
    agent.link.session.acknowledge()
    agent.link.flush()
    # The connection closes when the supervisor ends: then nothing of this host's processes is left.
    agent.crew.hand_over(agent.link.close())


def run(
    folder: str,
    store: str | None,
    groups: ControlGroups,
    settings: dict[str, Any],
    token: bytes,
    report_fd: int,
    supervisor: socket.socket,
    lease: Lease,
) -> None:
    """Be the agent until it is told to stop, or the lingering ends; the supervisor ends what is left."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # Three descriptors a worker.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass
    asyncio.run(_serve(folder, store, groups, settings, token, report_fd, supervisor, lease))
