"""Looks at running tasks now and then: what runs longer than a moment, than its time, or beyond its memory."""

from __future__ import annotations

import asyncio

from handout.host.agent.completion import Completion
from handout.host.agent.result_sender import ResultSender
from handout.host.agent.task_queue import QueuedTask
from handout.host.agent.worker_pool import WorkerHandle, WorkerPool
from handout.host.system import processes, shared_page
from handout.host.system.clock import now_ns

_FAST_S = 0.02
_SLOW_S = 0.1
#: Bytes a second that a task may take up, as a guess: so long before it could be over its limit it is looked at again.
_GROWTH = 2 << 30
_LEAST_S = 0.01
#: Looking at the memory of a large tree takes time, which is at most this part of the agent's.
_LOOK_SHARE = 0.05
#: What is queued behind a task that takes longer than this goes elsewhere.
_RESCUE_NS = 20_000_000
#: The controller hears of tasks that run longer than this.
_TELL_NS = 50_000_000


class LimitsMonitor:
    """A timer that runs while there is something to watch."""

    def __init__(self, crew: WorkerPool, outcomes: Completion, answers: ResultSender) -> None:
        self._crew = crew
        self._outcomes = outcomes
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Something was started: look soon."""
        self._look_in(_FAST_S)

    def _look_in(self, delay_s: float) -> None:
        """Look after that time, or earlier where that was said before."""
        when = self._loop.time() + delay_s
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """Look at every worker once, and decide when to look again."""
        self._timer = None
        at = now_ns()
        fresh: list[QueuedTask] = []
        watching = fast = False
        for hand in list(self._crew.hands.values()):
            if not hand.queued:
                continue
            if hand.shared:
                watching |= self._look_at_coroutines(hand, at, fresh)
                continue
            task = hand.running
            if task is None or hand.killed:
                fast = True
                continue
            elapsed = at - hand.page[shared_page.STARTED]
            if len(hand.queued) > 1:
                fast = True
                if elapsed > _RESCUE_NS and hand.stuck != task.seq:
                    self._rescue(hand, task)
            if not task.told:
                fast = True
                if elapsed > _TELL_NS:
                    fresh.append(task)
            watching |= self._check_limits(hand, task, elapsed)
        if fresh:
            self._answers.started([task.ticket for task in fresh])
            for task in fresh:
                task.told = True
        if fast:
            self._look_in(_FAST_S)
        elif watching:
            self._look_in(_SLOW_S)

    def _rescue(self, hand: WorkerHandle, task: QueuedTask) -> None:
        """A task that was thought to be short is not: free what is queued behind, and what is held before it."""
        hand.stuck = task.seq
        self._outcomes.revoke(hand, task.seq + 1)
        if next(iter(hand.queued)) < task.seq:
            self._crew.signal(hand, shared_page.FLUSH_SIGNAL)

    def _look_at_coroutines(self, hand: WorkerHandle, at: int, fresh: list[QueuedTask]) -> bool:
        """The same for many tasks of one worker; whether they have to be looked at again."""
        limited = False
        for task in list(hand.queued.values()):
            elapsed = at - task.started
            if not task.told and elapsed > _TELL_NS:
                fresh.append(task)
            timeout_s = task.cls.timeout_s
            if timeout_s is not None and elapsed > timeout_s * 1e9:
                self._outcomes.end_running(hand, task, "timeout")
            limited |= timeout_s is not None or not task.told
        return limited

    def _check_limits(self, hand: WorkerHandle, task: QueuedTask, elapsed: int) -> bool:
        """End a task that is over its time or memory; whether it has to be looked at again."""
        cls = task.cls
        if cls.timeout_s is not None and elapsed > cls.timeout_s * 1e9:
            self._outcomes.end_running(hand, task, "timeout")
        elif cls.memory_limit is not None:
            self._check_memory(hand, task, cls.memory_limit)
        return cls.timeout_s is not None or cls.memory_limit is not None

    def _check_memory(self, hand: WorkerHandle, task: QueuedTask, limit: int) -> None:
        """End a task that is over its memory, or look again before it can be."""
        began = self._loop.time()
        if not hand.pid or began + _LEAST_S / 2 < task.look_at:
            return
        used = processes.tree_memory(hand.pid, limit)
        task.peak = max(task.peak, used)
        # The kernel may have taken what the task had started; the task may wait for that for ever.
        if used > limit or hand.killed_at_limit:
            self._outcomes.end_running(hand, task, "memory")
            return
        ended = self._loop.time()
        delay_s = max(min((limit - used) / _GROWTH, _SLOW_S), _LEAST_S, (ended - began) / _LOOK_SHARE)
        task.look_at = ended + delay_s
        self._look_in(delay_s)
