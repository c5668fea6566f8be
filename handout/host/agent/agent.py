"""The agent: the process on a host that gets tasks and objects from the controller, and reports how the tasks ended.

The agent uses only the standard library. It never unpickles anything; it moves opaque bytes. This module connects the
agent's parts:

- `controller_link` holds the connection to the controller.
- `task_queue` holds the tasks that have not ended. `dispatcher` decides when each task starts, and on which worker.
- `worker_handle` has what the agent knows of one worker.
- `worker_pool` asks the supervisor to fork and kill workers, and exchanges messages with the workers.
- `object_store` keeps objects. `transfers` streams objects from and to the controller.
- `code_store` keeps the functions of tasks, and the settings that several tasks share.
- `task_exits` ends tasks or gives them back. `worker_reports` handles the results and failures that workers report,
  `task_ender` cancels and recalls tasks, and `worker_ends` handles the end of workers. `result_sender` reports to the
  controller how tasks ended.
- `output_capture` handles what tasks print. `progress_relay` and `checkpoints` handle what they report, and what they
  keep for their next attempts.
- `limits_monitor` enforces the time and memory limits of tasks.
- `programs` runs programs that the controller asks for and that belong to no task.
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

from handout.host.agent import programs
from handout.host.agent.checkpoints import Checkpoints
from handout.host.agent.code_store import CodeStore
from handout.host.agent.controller_link import ControllerLink
from handout.host.agent.dispatcher import Dispatcher
from handout.host.agent.limits_monitor import LimitsMonitor
from handout.host.agent.object_store import ObjectStore, StoreFullError
from handout.host.agent.output_capture import Logs
from handout.host.agent.progress_relay import ProgressRelay
from handout.host.agent.result_sender import ResultSender
from handout.host.agent.task_ender import TaskEnder
from handout.host.agent.task_exits import TaskExits
from handout.host.agent.task_queue import QueuedTask, TaskQueue
from handout.host.agent.transfers import Transfers
from handout.host.agent.worker_ends import WorkerEnds
from handout.host.agent.worker_handle import WorkerHandle
from handout.host.agent.worker_pool import WorkerPool
from handout.host.agent.worker_reports import WorkerReports
from handout.host.system import orphans, processes, report_pipe, shared_page
from handout.host.system.cgroups import ControlGroups
from handout.host.system.clock import now
from handout.host.system.lease import Lease
from handout.host.system.oom_kills import OomKills
from handout.host.system.probe import probe, processes_outlive_login
from handout.protocol import codec, frames, messages
from handout.protocol.numbering import FIRST_KEY, is_checkpoint
from handout.protocol.resource_ledger import PARTS, Ledger

#: Bulk messages carry the text that tasks print, and take turns with streams of objects. While the link holds at least
#: this many bytes of unsent bulk messages, further text waits in `Logs`, which may drop the oldest lines of the text.
_MAX_BULK_BYTES = 256 << 10
_LOG_INTERVAL_S = 0.05
_BLANK_WORKERS = 4
#: Types of messages. After a takeover by another controller, the agent repeats each message of these types that the
#: earlier controller had not confirmed.
_SENT_AGAIN = (
    messages.Finished, messages.Failed, messages.Recalled, messages.Started, messages.Log, messages.Vanished
)  # fmt: skip


class Agent:
    """Creates the parts of the agent, and passes each message from the controller to the part that handles it.

    Args:
        folder: Private folder of this agent.
        store: Folder for objects in a file system in memory; None if the host has no such file system.
        groups: The control groups with which the kernel limits the memory and the processes of the workers.
        settings: See `supervisor.run`.
        token: The secret that a connection must send to prove that the controller opened it.
        supervisor: Socket to the supervisor.
        lease: Memory that the agent shares with the supervisor. The agent writes the end of the lease there.
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
        #: The objects that did not fit into the store. The key of each object is mapped to the error of the store.
        self._refused: dict[int, StoreFullError] = {}
        self.store = ObjectStore(store, f"{folder}/objects", settings.get("store_limit"))
        self.queue = TaskQueue(self.store.__contains__)
        self.ledger = Ledger(*_amounts(self.probed))
        set_up = messages.SetUp(settings.get("host", ""), self.store.folders, f"{folder}/scratch", {}, "", "")
        self.pool = WorkerPool(supervisor, self, set_up, folder, groups)
        self.code = CodeStore(self.queue, self.store, self.pool, self._drop_objects)
        self.dispatcher = Dispatcher(self.queue, self.ledger, self.store, self.pool, self.code.functions)
        self.transfers = Transfers(self.store, self._on_stored, self._on_refused, self._on_vanished)
        self.link = ControllerLink(
            f"{folder}/agent.sock",
            token,
            self.identity,
            heartbeat_s,
            self._on_message,
            self.transfers.receive,
            self._on_received,
            self._lease_ended,
            self._on_takeover,
        )
        self.transfers.use(self.link)
        self.logs = Logs(self._send_log, self._has_bulk_room)
        self.sender = ResultSender(self.link, self.logs)
        self.exits = TaskExits(self.sender, self.queue, self.store, self.dispatcher)
        self.reports = WorkerReports(self.exits, self.sender, self.queue, self.store, self.dispatcher)
        self.reports.on_vanished = self._on_vanished
        self.checkpoints = Checkpoints(self.store, self.link, self._drop_objects)
        self.transfers.on_taken = self.checkpoints.taken
        self.progress = ProgressRelay(self.link, self._has_bulk_room)
        self.reports.on_progress = self.progress.take
        self.reports.on_checkpoint = self.checkpoints.take
        self.exits.on_end = self._on_end
        kill_after_s: float = settings.get("kill_after_s", 5.0)
        self.ender = TaskEnder(self.exits, self.sender, self.queue, self.dispatcher, self.pool, kill_after_s)
        self._oom_kills = OomKills(groups.common_group)
        self.worker_ends = WorkerEnds(self.exits, self.store, self.dispatcher, self.pool, self._oom_kills)
        self.limits_monitor = LimitsMonitor(self.pool, self.ender, self.sender)
        self.dispatcher.on_busy = self.limits_monitor.start
        self.reports.on_warming = self.limits_monitor.start
        self.reports.on_warmed = self._on_warmed
        self._flushing_logs = False
        self._heartbeat_s = heartbeat_s
        self._lapsed = False
        self._update_spilling()
        self._loop.set_exception_handler(self._on_stray_error)
        self._tick()

    # ---- the lease -----------------------------------------------------------------------------------------

    @property
    def _deadline(self) -> float:
        return self.link.session.last_mutual + self._timeout_s

    def _lease_ended(self) -> bool:
        if now() <= self._deadline:
            return False
        self.on_lapse()
        return True

    def _on_received(self) -> None:
        deadline = self._deadline
        self._lease.extend(deadline)
        if self._lapsed and now() < deadline:
            self._lapsed = self.dispatcher.paused = False
            self.dispatcher.schedule()

    def _tick(self) -> None:
        """Send a heartbeat if one is due, and schedule the next call of this method.

        If the lease has ended, also end the tasks. If the lease ended more than ``linger_s`` seconds ago, end the
        agent.
        """
        # After the end of the lease, the agent waits for ``linger_s`` seconds, because it may hold results for the
        # controller. If no controller has ever connected, the agent holds no results, and ends with the lease.
        if now() > self._deadline + (self._linger_s if self.link.was_greeted else 0.0):
            # If SIGSTOP has stopped the supervisor, SIGCONT wakes it. Without SIGCONT, a stopped supervisor would stay
            # for ever, and would not remove the agent's folders.
            processes.send_signal(os.getppid(), signal.SIGCONT)
            self.stopped.set()
            return
        self._lease_ended()
        self._oom_kills.refresh(now())
        self.link.flush()
        self._loop.call_later(min(self._heartbeat_s, self._timeout_s / 4) / 2, self._tick)

    def on_lapse(self) -> None:
        """Close the connection and end all tasks, if the lease has ended and this method has not done so yet.

        The store keeps all results. `TaskEnder.lapse` says how the tasks end.
        """
        if self._lapsed or now() <= self._deadline:
            return
        self._lapsed = self.dispatcher.paused = True
        self.link.disconnect()
        self.ender.lapse()

    def _on_takeover(self, unconfirmed: list[tuple[dict[str, Any], Sequence[frames.Buffer]]]) -> None:
        """Begin to serve a controller that has taken over from an earlier one.

        First send `Holdings`, which lists the attempts and objects that the agent has. Then repeat the unconfirmed
        messages of the types in `_SENT_AGAIN`. Also discard objects that the earlier controller was still sending, give
        back the tasks whose source bundle (a file with the user's modules) is missing, and release the code that the
        earlier controller sent.

        Args:
            unconfirmed: Headers and payloads of the messages that the earlier controller had not confirmed.
        """
        self.transfers.close()
        self.checkpoints.withdraw()
        self._refused.clear()
        self._watch_reports(messages.WatchReports(False), memoryview(b""))
        decoded = [(codec.decode(messages.TO_CONTROLLER, header)[1], payload) for header, payload in unconfirmed]
        again = [(message, payload) for message, payload in decoded if isinstance(message, _SENT_AGAIN)]
        attempt_ids = dict.fromkeys([*self.queue.tasks, *self.sender.waiting()])
        for message, _ in again:
            if isinstance(message, messages.Failed):
                attempt_ids[message.attempt_id] = None
            elif isinstance(message, (messages.Finished, messages.Recalled)):
                attempt_ids.update(dict.fromkeys(message.attempt_ids))
        keys = self.store.keys
        objects = [key for key in keys if key >= FIRST_KEY]
        sizes = [self.store.size(key) for key in objects]
        numbers = [task.attempt for task in self.queue.tasks.values()]
        self.link.send(messages.Holdings(list(attempt_ids), objects, sizes, self.code.highest_number, numbers))
        for message, payload in again:
            self.link.send(message, payload)
        self.exits.give_back_without_bundle()
        self.code.release_all()

    def _break_down(self) -> None:
        """End the agent because of an internal error. The controller then runs the tasks on other hosts."""
        traceback.print_exc()
        self.stopped.set()

    def _on_stray_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        self.stopped.set()

    def on_orphaned(self) -> None:
        """Kill all processes of this agent, remove its control groups and folders, and end.

        Normally the supervisor does all of this, but the supervisor itself has ended.
        """
        processes.kill_trees([worker.pid for worker in self.pool.workers.values() if worker.pid])
        orphans.kill_processes([self._folder])
        self._groups.remove()
        for folder in (self._folder, self._memory_folder):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    # ---- the controller's messages -------------------------------------------------------------------------

    def _on_message(self, frame: frames.Message) -> None:
        try:
            name, message = codec.decode(messages.TO_AGENT, frame.fields)
            _HANDLERS[name](self, message, memoryview(frame.payload))  # type: ignore[literal-required]
        except Exception:
            # The controller sends each message once. If the agent went on without having handled this message, the
            # controller could wait for an answer for ever.
            self._break_down()

    def _functions(self, message: messages.Functions, payload: memoryview) -> None:
        self.code.add_functions(message, payload)

    def _new_task_class(self, message: messages.NewTaskClass, payload: memoryview) -> None:
        self.code.add_class(message)

    def _objects(self, message: messages.Objects, payload: memoryview) -> None:
        for key, data in zip(message.keys, codec.parts(payload, message.sizes)):
            if key < FIRST_KEY:
                self.code.expect_bundle(key)
            try:
                self.store.put(key, data)
                self.queue.arrived(key)
            except StoreFullError as error:
                self._on_refused(key, error)
        self.dispatcher.schedule()
        self._update_spilling()

    def _tasks(self, message: messages.Tasks, payload: memoryview) -> None:
        classes, add = self.queue.classes, self.queue.add
        columns: list[Any]
        ids, functions, class_numbers, sizes, *columns = message
        calls = codec.parts(payload, sizes)
        if columns[-1] is None:
            columns[-1] = [0] * len(ids)
        for attempt_id, function, class_number, call, inputs, outputs, keep, id_, attempt, variant, checkpoint in zip(
            ids, functions, class_numbers, calls, *columns
        ):
            add(
                QueuedTask(
                    attempt_id,
                    function,
                    classes[class_number],
                    bytes(call),
                    inputs,
                    outputs,
                    keep,
                    id_,
                    attempt,
                    variant,
                    checkpoint,
                )
            )
        for key in self._refused.keys() & self.queue.waiting.keys():
            self.exits.fail_waiting(key, self._refused[key])
        if self._lapsed:
            self.ender.lapse()
        self.dispatcher.schedule()

    def _stream_object(self, message: messages.StreamObject, payload: memoryview) -> None:
        if message.key < FIRST_KEY:
            self.code.expect_bundle(message.key)
            # The controller may release a bundle before all of the bundle has arrived, and send it again later. Without
            # this call, the old stream and the new one would write to the same file.
            self.transfers.drop([message.key])
        self.transfers.announce(message)

    def _stop_stream(self, message: messages.StopStream, payload: memoryview) -> None:
        self.transfers.stop(message.stream)

    def _fetch(self, message: messages.Fetch, payload: memoryview) -> None:
        self.transfers.fetch(message.key)

    def _drop(self, message: messages.Drop, payload: memoryview) -> None:
        self._drop_objects(message.keys)

    def _distrust(self, message: messages.Distrust, payload: memoryview) -> None:
        # Objects in the store were made here or are known already. A checkpoint may have been made here, too, and the
        # controller says how it is read when it hands over the next attempt.
        keys = (key for key in message.keys if key not in self.store or is_checkpoint(key))
        self.dispatcher.distrust(keys, message.types)

    def _cancel(self, message: messages.Cancel, payload: memoryview) -> None:
        self.ender.cancel(message.attempt_ids, message.grace_s)

    def _exceed_memory(self, message: messages.ExceedMemory, payload: memoryview) -> None:
        self.ender.exceed_memory(message.attempt_ids)

    def _recall(self, message: messages.Recall, payload: memoryview) -> None:
        self.ender.recall(message.attempt_ids)

    def _release(self, message: messages.Release, payload: memoryview) -> None:
        self.code.release(message)

    def _limits(self, message: messages.Limits, payload: memoryview) -> None:
        self.ledger.resize(message.amounts, message.devices)
        self.dispatcher.schedule()

    def _watch_reports(self, message: messages.WatchReports, payload: memoryview) -> None:
        self.progress.watch(message.wanted)
        self.pool.watch(message.wanted)

    def _run_program(self, message: messages.RunProgram, payload: memoryview) -> None:
        programs.start(message, self.link)

    def _stop(self, message: messages.Stop, payload: memoryview) -> None:
        self.stopped.set()

    # ---- as the worker pool's listener ---------------------------------------------------------------------

    def on_report(self, worker: WorkerHandle, frame: frames.Message) -> None:
        """See `PoolListener`."""
        self.reports.on_message(worker, frame)
        self._update_spilling()

    def on_output(self, worker: WorkerHandle, fd: int, number: int, data: bytes) -> None:
        """See `PoolListener`."""
        task = worker.queued.get(number)
        if task is None and worker.queued:
            # No task with this number is queued, for example because an import printed before the worker started its
            # first task. The agent then assigns the printed text to the first queued task.
            task = next(iter(worker.queued.values()))
        if task is not None:
            self.logs.add(task.attempt_id, fd, data)
            self._flush_logs_soon()

    def on_gone(self, worker: WorkerHandle, report: messages.WorkerGone) -> None:
        """See `PoolListener`."""
        self.store.clean_up_after(worker.suffix)
        self.worker_ends.on_worker_gone(worker, report)
        for value in worker.warm:
            if not self.pool.has_warm(value):
                self.link.send(messages.Cooled(value))

    def _on_warmed(self, worker: WorkerHandle, value: str, elapsed_us: int) -> None:
        if not self.pool.has_warm(value):
            self.link.send(messages.MadeWarm(value, elapsed_us))
        worker.warm.add(value)

    def _has_bulk_room(self) -> bool:
        return self.link.session.bulk_bytes < _MAX_BULK_BYTES

    def _on_end(self, task: QueuedTask, well: bool) -> None:
        if self.progress.wanted:
            self.progress.end(task)
        if task.checkpoint:
            self.checkpoints.end(task, well)

    def _flush_logs_soon(self) -> None:
        if not self._flushing_logs:
            self._flushing_logs = True
            self._loop.call_later(_LOG_INTERVAL_S, self._flush_logs)

    def _flush_logs(self) -> None:
        self._flushing_logs = False
        self.logs.flush(now())
        self.sender.send_printed()
        if self.logs.waiting:
            self._flush_logs_soon()

    def _send_log(self, attempt_id: int, fd: int, dropped: int, data: bytes) -> None:
        self.link.send_bulk(messages.Log(attempt_id, fd, dropped), [data])

    # ---- objects -------------------------------------------------------------------------------------------

    def _drop_objects(self, keys: Sequence[int]) -> None:
        """Drop objects from the store. If some of these objects are still arriving, discard them."""
        self.transfers.drop(keys)
        for key in keys:
            self.store.drop(key)
            self._refused.pop(key, None)
        self.dispatcher.distrusted.difference_update(keys)
        self.checkpoints.forget(keys)
        self.pool.forget_warm(set(keys))
        self._update_spilling()

    def _on_stored(self, key: int) -> None:
        self.link.send(messages.Arrived([key], [self.store.size(key)]))
        if self.queue.arrived(key):
            self.dispatcher.schedule()
        self._update_spilling()

    def _on_refused(self, key: int, error: StoreFullError) -> None:
        """Fail the tasks that wait for an object, because the store has no room for the object.

        `_tasks` does the same for tasks that arrive later.
        """
        self._refused[key] = error
        self.exits.fail_waiting(key, error)

    def _on_vanished(self, keys: Sequence[int]) -> None:
        """Forget objects and source bundles whose files another program has removed or damaged.

        The controller has the objects made again, and sends the bundles again.

        For example, systemd removes the files of a user in ``/dev/shm`` when the user's last session ends, unless
        ``RemoveIPC`` is off.
        """
        self.pool.forget_bundles({key for key in keys if key < FIRST_KEY})
        self._drop_objects(keys)
        self.link.send(messages.Vanished(list(keys)))
        self.exits.give_back_takers(keys)
        self.exits.give_back_without_bundle()

    def _update_spilling(self) -> None:
        """Tell all workers whether they must write large results to disk, because the store's memory is full.

        Each worker reads this from its shared page, a page of memory that it shares with the agent.
        """
        spilling = self.store.spilling
        if spilling != self.pool.spill:
            self.pool.spill = spilling
            for worker in self.pool.workers.values():
                worker.page[shared_page.SPILL] = int(spilling)


def _amounts(probed: Mapping[str, Any]) -> Any:
    """Return what the ledger contains at first: the amounts of the host, and the memory of each GPU.

    The controller's first `Limits` message replaces these values.
    """
    amounts = {name: int(probed[name]) * PARTS for name in ("cpu", "memory", "disk") if name in probed}
    return amounts, [probed.get("gpu_memory", 0) * PARTS] * probed.get("gpu", 0)


_HANDLERS: messages.ToAgent = {
    "functions": Agent._functions,
    "new_task_class": Agent._new_task_class,
    "objects": Agent._objects,
    "tasks": Agent._tasks,
    "stream_object": Agent._stream_object,
    "stop_stream": Agent._stop_stream,
    "fetch": Agent._fetch,
    "drop": Agent._drop,
    "distrust": Agent._distrust,
    "cancel": Agent._cancel,
    "exceed_memory": Agent._exceed_memory,
    "recall": Agent._recall,
    "release": Agent._release,
    "limits": Agent._limits,
    "watch_reports": Agent._watch_reports,
    "run_program": Agent._run_program,
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
    report_pipe.end(report_fd)
    agent.pool.prepare(min(agent.probed["cpu"], _BLANK_WORKERS))
    await agent.stopped.wait()
    await agent.pool.leave_warm()
    # A controller that has sent `Stop` waits for an acknowledgement, and then for the end of the connection.
    agent.link.session.acknowledge()
    agent.link.flush()
    # The supervisor gets the connection and holds it open until no process of this agent is left on the host.
    agent.pool.shut_down(agent.link.close())


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
    """Run the agent until it ends. The supervisor then ends the workers.

    The agent ends when the controller stops it, when the supervisor has ended, after an internal error, or ``linger_s``
    seconds after the end of the lease. If no controller has ever connected, it ends with the lease.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # The agent holds several descriptors for each worker, so it may need more than the usual limit.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass
    asyncio.run(_serve(folder, store, groups, settings, token, report_fd, supervisor, lease))
