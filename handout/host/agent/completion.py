"""How tasks end on this host: by themselves, by being called back, or with the worker that they ran on.

Every task that was taken in leaves through exactly one of three ways: its result is answered, ``_fail``,
``_return``.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

from handout.host.agent.dispatcher import Dispatcher
from handout.host.agent.object_store import ObjectStore, StoreFullError
from handout.host.agent.result_sender import ResultSender
from handout.host.agent.task_queue import ENDED, QUEUED, QueuedTask, TaskQueue
from handout.host.agent.worker_pool import WorkerHandle, WorkerPool
from handout.host.system import cgroups, shared_page
from handout.host.system.clock import now_ns
from handout.host.system.oom_kills import OomKills, kills_in
from handout.protocol import frames
from handout.protocol.ledger import PARTS

#: A worker writes down where it is before it is killed for its time.
_SAMPLE_S = 0.05
#: A worker that lacks the inputs that it was sent is asked again so often.
_MAX_MISSES = 3
_MAX_SPAWN_FAILURES = 50
#: A process that has been sent SIGKILL is not waited for longer than this.
_UNKILLABLE_S = 5.0
#: Kinds of failure that are decided here, with what is said of them.
_REASONS = {
    "cancelled": "the task was cancelled",
    "timeout": "the task ran over its time and was killed",
    "memory": "the task used more memory than its cost says and was killed",
    "host": "the lease ended: the controller was not heard from, and running code was killed",
}


class Completion:
    """Takes in what workers say, and tells the controller."""

    def __init__(
        self,
        answers: ResultSender,
        backlog: TaskQueue,
        store: ObjectStore,
        dispatcher: Dispatcher,
        crew: WorkerPool,
        oom_kills: OomKills,
    ) -> None:
        self._answers = answers
        self._backlog = backlog
        self._store = store
        self._dispatcher = dispatcher
        self._crew = crew
        self._loop = asyncio.get_running_loop()
        self.oom_kills = oom_kills
        #: What is ended for its time gets this long between SIGTERM and SIGKILL.
        self.kill_after_s = 5.0
        self._spawn_failures = 0

    # ---- the three ways out --------------------------------------------------------------------------------

    def _return(self, task: QueuedTask) -> None:
        if task.state == ENDED:
            return
        self._backlog.end(task)
        self._answers.returned(task.ticket)

    def _fail(self, task: QueuedTask, kind: str, payload: Sequence[frames.Buffer] = (), **fields: Any) -> None:
        if task.state == ENDED:
            # It followed one that failed a moment ago.
            return
        followers = self._backlog.followers(task)
        self._backlog.end(task)
        report = {
            "kind": kind,
            "type": "",
            "message": _REASONS.get(kind, ""),
            "text": "",
            "exit": None,
            "signal": None,
            "maxrss": None,
            "elapsed_s": (now_ns() - task.started) / 1e9 if task.started else 0.0,
            **fields,
        }
        if kind == "timeout":
            report["limit_s"] = task.cls.timeout_s
        elif kind == "memory":
            limit = task.cls.memory_limit or 0
            # Where the kernel stopped it, it had that much, and wanted more.
            at = cgroups.kernel_limit(limit) if task.hand.killed_at_limit else 0
            report["limit"], report["peak"] = limit, max(task.peak, at)
            report["maxrss"] = max(report["maxrss"] or 0, report["peak"])
        self._answers.failed(task.ticket, report, payload)
        for follower in followers:
            self._doom(follower)

    def _doom(self, task: QueuedTask) -> None:
        """What a task follows has failed here: the controller decides anew."""
        if task.state == QUEUED:
            task.doomed = True
        elif task.state != ENDED:
            self._return(task)

    # ---- what workers say ----------------------------------------------------------------------------------

    def take_in(self, hand: WorkerHandle, message: frames.Message) -> None:
        """A worker's report."""
        fields = message.fields
        payload = memoryview(message.payload)
        if fields["m"] == "failed":
            self._take_failure(hand, fields, payload)
        else:
            self._take_results(hand, fields, payload)
            back = [hand.queued.pop(number, None) for number in fields.get("skipped", ())]
            self._let_go(hand, back)
            self._miss(hand, [hand.queued.pop(number, None) for number in fields.get("missing", ())])
        if fields.get("bye"):
            hand.leaving = hand.leaving_well = True
        if not hand.queued:
            self._dispatcher.release(hand)
        self._dispatcher.schedule()

    def _take_results(self, hand: WorkerHandle, fields: dict[str, Any], payload: memoryview) -> None:
        position = 0
        durations, backlog = self._dispatcher.durations, self._backlog
        # Where nothing is said of it, all results ride along.
        inlines, wheres = fields.get("inline", fields["size"]), fields.get("where", repeat(()))
        for number, us, sizes, inline, where in zip(fields["s"], fields["us"], fields["size"], inlines, wheres):
            end = position + sum([size for size in inline if size > 0])
            data, position = payload[position:end], end
            task = hand.queued.pop(number, None)
            if task is None:
                continue
            self._dispatcher.forget(hand, task)
            if task.fate == "timeout":
                # It swallowed its cancellation.
                self._fail(task, "timeout")
                continue
            durations.add(task.fn, us)
            if not self._keep(hand, task, sizes, inline, where, data):
                continue
            backlog.end(task)
            for key in task.out:
                if key in backlog.waiting:
                    backlog.arrived(key)
            self._answers.done(task.ticket, us, sizes, inline, data)

    def _keep(
        self,
        hand: WorkerHandle,
        task: QueuedTask,
        sizes: Sequence[int],
        inline: Sequence[int],
        where: Sequence[int],
        data: memoryview,
    ) -> bool:
        """Put a task's objects into the store; False where the task failed for want of room."""
        position = 0
        waiting = self._backlog.waiting
        for index, (key, size, inlined) in enumerate(zip(task.out, sizes, inline)):
            if key == -1:
                continue
            if inlined < 0:
                if not self._store.adopt(key, size, where[index], hand.suffix):
                    self._fail(task, "host", message="a result's file vanished from the store")
                    return False
                continue
            if task.keep or key in waiting:
                try:
                    self._store.put(key, data[position : position + inlined])
                except StoreFullError as error:
                    self._fail(task, "disk", message=str(error), path=error.path, need=error.need, free=error.free)
                    return False
            position += inlined
        return True

    def _take_failure(self, hand: WorkerHandle, fields: dict[str, Any], payload: memoryview) -> None:
        task = hand.queued.pop(fields["s"], None)
        if task is None:
            return
        self._dispatcher.forget(hand, task)
        kind = fields["kind"]
        if task.fate in _REASONS and kind in ("cancelled", "raised"):
            kind = task.fate
        said = {k: v for k, v in fields.items() if k not in ("m", "s", "us", "kind")}
        said["elapsed_s"] = fields["us"] / 1e6
        self._fail(task, kind, [payload] if len(payload) else [], **said)

    def _let_go(self, hand: WorkerHandle, tasks: Iterable[QueuedTask | None]) -> None:
        """A worker gave tasks back unstarted."""
        back: list[QueuedTask] = []
        for task in tasks:
            if task is None:
                continue
            self._dispatcher.forget(hand, task)
            if task.fate == "returned":
                self._return(task)
            elif task.fate is not None:
                self._fail(task, task.fate)
            else:
                back.append(task)
        for task in self._backlog.put_back(back):
            self._return(task)

    def _miss(self, hand: WorkerHandle, tasks: Iterable[QueuedTask | None]) -> None:
        """A worker lacked inputs: what it was to make itself came to nothing, or it forgot it."""
        for task in tasks:
            if task is None:
                continue
            task.misses += 1
            if task.misses > _MAX_MISSES and not task.missing and not task.doomed:
                self._dispatcher.forget(hand, task)
                self._fail(task, "input", message="an input could not be read from the store")
            else:
                self._let_go(hand, [task])

    def starve(self, key: int, error: StoreFullError) -> None:
        """An object will not come: there is no room for it, and what waits for it is not called."""
        said: dict[str, Any] = {"message": str(error), "path": error.path, "need": error.need, "free": error.free}
        for task in list(self._backlog.waiting.get(key, {}).values()):
            if task.state != ENDED:
                self._fail(task, "disk", **said, argument=True)

    # ---- calling back --------------------------------------------------------------------------------------

    def cancel(self, tickets: Sequence[int], grace_s: float) -> None:
        """End tasks: what has not started does not, what runs is killed."""
        for task in self._call_back(tickets, "cancelled"):
            self._fail(task, "cancelled")
        self._dispatcher.grace_s = grace_s
        self._dispatcher.schedule()

    def take_back(self, tickets: Sequence[int]) -> None:
        """Give back tasks that have not started; the others run on."""
        for task in self._call_back(tickets, "returned"):
            self._return(task)
        self._dispatcher.schedule()

    def _call_back(self, tickets: Sequence[int], fate: str) -> list[QueuedTask]:
        """Give tasks that are on workers a fate, and revoke them; the others are the answer."""
        here: list[QueuedTask] = []
        first: dict[WorkerHandle, int] = {}
        for ticket in tickets:
            task = self._backlog.tasks.get(ticket)
            if task is None:
                continue
            if task.state != QUEUED:
                here.append(task)
            elif task.fate is None or fate == "cancelled":
                task.fate = fate
                first[task.hand] = min(task.seq, first.get(task.hand, task.seq))
        for hand, number in first.items():
            self.revoke(hand, number)
        return here

    def revoke(self, hand: WorkerHandle, first: int) -> None:
        """Keep a worker from starting what is queued on it from a number on; see `page`."""
        if hand.revoked_from is None:
            self._loop.call_later(shared_page.SETTLE_S, self._settle, hand)
            hand.revoked_from = first
        if hand.page[shared_page.ANNOUNCED] < hand.page[shared_page.RECALLED_TO]:
            # It has not come to what was revoked before: that must not start either.
            first = min(first, hand.page[shared_page.RECALLED_FROM])
        hand.revoked_from = min(first, hand.revoked_from)
        hand.page[shared_page.RECALLED_TO] = hand.next_number - 1
        hand.page[shared_page.RECALLED_FROM] = hand.revoked_from

    def _settle(self, hand: WorkerHandle) -> None:
        """What a worker had not announced by now, it never will."""
        first, hand.revoked_from = hand.revoked_from, None
        if hand.gone or first is None:
            return
        announced, last = hand.page[shared_page.ANNOUNCED], hand.page[shared_page.RECALLED_TO]
        numbers = [n for n in hand.queued if first <= n <= last and n > announced]
        self._let_go(hand, [hand.queued.pop(n) for n in numbers])
        doomed = [t for t in hand.queued.values() if t.fate == "cancelled" and not t.dying]
        for task in hand.queued.values():
            if task.fate == "returned":
                task.fate = None
        if doomed:
            self._end(hand, doomed, self._dispatcher.grace_s)
        if not hand.queued:
            self._dispatcher.release(hand)
        self._dispatcher.schedule()

    def _end(self, hand: WorkerHandle, tasks: Sequence[QueuedTask], grace_s: float) -> None:
        """End tasks that run: coroutines of a shared loop one by one, anything else with its worker."""
        for task in tasks:
            task.dying = True
            if not hand.shared:
                task.started = hand.page[shared_page.STARTED]
        if hand.shared:
            self._dispatcher.cancel_coroutines(hand, tasks)
            self._loop.call_later(grace_s, self._end_stubborn, hand, list(tasks))
        elif not hand.killed:
            # What is queued behind goes elsewhere.
            self.revoke(hand, hand.page[shared_page.ANNOUNCED] + 1)
            self._kill(hand, grace_s)

    def _end_stubborn(self, hand: WorkerHandle, tasks: Sequence[QueuedTask]) -> None:
        """Coroutines that did not end when they were cancelled end with their worker; siblings start anew."""
        if any(hand.queued.get(task.seq) is task for task in tasks) and not hand.gone:
            self._kill(hand, 0.0)

    def _kill(self, hand: WorkerHandle, grace_s: float) -> None:
        hand.killed = True
        self._crew.kill(hand, grace_s)
        self._loop.call_later(grace_s + _UNKILLABLE_S, self._give_up, hand)

    def _give_up(self, hand: WorkerHandle) -> None:
        """A worker cannot be killed, by what the system does for it: its tasks end, its claim stays."""
        tasks, hand.queued = list(hand.queued.values()), {}
        self._let_go(hand, tasks)
        self._dispatcher.schedule()

    def end_running(self, hand: WorkerHandle, task: QueuedTask, kind: str) -> None:
        """Kill a task that is over its limits, with its worker."""
        if task.fate is not None and task.fate != "returned":
            return
        task.fate = kind
        if hand.shared:
            self._end(hand, [task], self.kill_after_s)
            return
        task.started = hand.page[shared_page.STARTED]
        task.dying = hand.leaving = True
        self.revoke(hand, task.seq + 1)
        self._crew.signal(hand, shared_page.SAMPLE_SIGNAL)
        # Who takes too much memory gets no time to take more.
        self._loop.call_later(_SAMPLE_S, self._kill, hand, 0.0 if kind == "memory" else self.kill_after_s)

    def lapse(self) -> None:
        """The lease has ended: nothing stays that is not finished."""
        for task in list(self._backlog.tasks.values()):
            if task.state == QUEUED:
                task.fate = task.fate or "host"
            elif task.state != ENDED:
                self._return(task)
        for hand in self._crew.hands.values():
            if hand.queued:
                running = hand.running
                if running is not None and not hand.shared:
                    running.started = hand.page[shared_page.STARTED]
                self.revoke(hand, 0)
                self._kill(hand, 0.0)

    def bury(self, hand: WorkerHandle, report: Mapping[str, Any]) -> None:
        """A worker is gone: whose fault it was, and what happens to the others that were queued on it."""
        queued = list(hand.queued.values())
        if "error" in report:
            self._dispatcher.hold()
            self._spawn_failures += 1
            if self._spawn_failures > _MAX_SPAWN_FAILURES and len(self._crew.hands) == 0:
                for task in queued:
                    task.fate = task.fate or "host"
        else:
            self._spawn_failures = 0
        if report.get("lapsed"):
            # The lease ended, and began anew before this side had looked: the supervisor was right, and no task did it.
            hand.killed = True
            for task in queued:
                task.fate = task.fate or "host"
        culprit: QueuedTask | None = None
        if queued and not hand.killed and not hand.leaving_well and "error" not in report:
            culprit = self._culprit(hand, queued)
        hand.queued.clear()
        if culprit is not None and culprit.fate is None:
            queued.remove(culprit)
            self._dispatcher.forget(hand, culprit)
            if not hand.shared:
                culprit.started = hand.page[shared_page.STARTED]
            if hand.killed_at_limit:
                self.oom_kills.reset()
                self._fail(culprit, "memory", maxrss=report.get("rss"))
            else:
                declared = culprit.cls.need.get("memory", 0) // PARTS
                self._fail(culprit, "died", declared=declared, **self._cause_of_death(hand, report))
        for task in queued:
            task.dying = False
            self._let_go(hand, [task])
        self._dispatcher.release(hand)
        self._dispatcher.schedule()

    def _culprit(self, hand: WorkerHandle, queued: Sequence[QueuedTask]) -> QueuedTask | None:
        """Whose death it was; None where several could have caused it: these run alone from here on."""
        announced = hand.page[shared_page.ANNOUNCED]
        if not hand.shared:
            return hand.queued.get(announced, queued[0])
        suspects = [task for task in queued if task.seq <= announced]
        if len(suspects) == 1:
            return suspects[0]
        for task in suspects:
            task.solo = True
        return None

    def _cause_of_death(self, hand: WorkerHandle, report: Mapping[str, Any]) -> dict[str, Any]:
        status = report["status"]
        fields: dict[str, Any] = {"maxrss": report.get("rss")}
        if hand.cut:
            fields["cut"] = True
            fields["message"] = "the task closed descriptors that are not its own, or replaced its process"
            return fields
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            fields["signal"] = number
            fields["message"] = f"the worker was killed by signal {number} ({_signal_name(number)})"
        else:
            fields["exit"] = os.WEXITSTATUS(status)
            fields["message"] = f"the worker exited with status {fields['exit']} while the task ran"
        if fields.get("signal") == signal.SIGKILL:
            fields["oom"] = self._was_killed_for_memory(hand)
            if fields["oom"]:
                fields["message"] += " by the kernel, for lack of memory"
        return fields

    def _was_killed_for_memory(self, hand: WorkerHandle) -> bool | None:
        """Whether the kernel killed a worker because the host lacked memory; None where nobody knows."""
        if hand.group is None or not kills_in(hand.group):
            return self.oom_kills.claim()
        self.oom_kills.reset()
        return True


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
