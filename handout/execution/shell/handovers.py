"""Hands attempts over to agents, and takes them back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from handout.events import TaskHandedOver
from handout.execution.membership.agent_proxy import AgentProxy
from handout.execution.planned_faults import FaultyAttempt, PlannedFaults
from handout.execution.shell.checkpoint_traffic import CheckpointTraffic
from handout.execution.shell.run_state import RunRecorder, RunState
from handout.execution.shell.task_classes import TaskClassTable
from handout.scheduler import commands as do
from handout.scheduler import events as ev
from handout.scheduler.core import Core

__all__ = ["Handovers"]

#: Seconds between SIGTERM and SIGKILL for a cancelled task. A cancelled run must have ended within 5 s.
_CANCEL_GRACE_S = 2.5


class Handovers:
    """Performs the core's commands about attempts.

    An attempt may wait here until its start is recorded in the journal, or until its checkpoint has arrived.

    Args:
        runs: The cluster's runs by number, as the driver keeps them.
        agents: The cluster's agents by the names of their hosts, as the driver keeps them.
        core: Knows the numbers by which users know attempts.
        classes: The task classes that agents know.
        checkpoints: Brings checkpoints to the host of an attempt.
        faults: Returns the faults that a test has planned, or None.
        post: Passes events to the core.
    """

    def __init__(
        self,
        runs: Mapping[int, RunState],
        agents: Mapping[str, AgentProxy],
        core: Core,
        classes: TaskClassTable,
        checkpoints: CheckpointTraffic,
        faults: Callable[[], PlannedFaults | None],
        post: Callable[[ev.Event], None],
    ) -> None:
        self._runs = runs
        self._agents = agents
        self._core = core
        self._classes = classes
        self._checkpoints = checkpoints
        self._faults = faults
        self._post = post
        self._loop = asyncio.get_running_loop()

    def start(self, command: do.StartTasks) -> None:
        """Hand attempts over to an agent, as soon as their starts are recorded and their checkpoints are there."""
        run, agent = self._runs.get(command.run), self._agents.get(command.host)
        if run is None or agent is None:
            return  # the run or the host is gone, and an event about this is on its way to the core
        if run.checkpoints:
            command = self._checkpoints.hold(
                run, command.host, command, lambda held: self._start_ready(run, agent, held)
            )
        self._start_ready(run, agent, command)

    def _start_ready(self, run: RunState, agent: AgentProxy, command: do.StartTasks) -> None:
        """Hand over attempts that wait for no checkpoint, unless the run or the agent is gone meanwhile."""
        if not command.tasks or self._runs.get(run.number) is not run or self._agents.get(agent.name) is not agent:
            return
        if run.recorder is not None and run.recorder.must_wait(command):
            recorder = run.recorder
            shown = self._core.shown_attempts(run.number, command.tasks, command.attempts)
            recorder.start(
                run, command, shown, lambda error: self._start_recorded(run, recorder, agent, command, error)
            )
            return
        self._hand_over(run, agent, command)

    def _start_recorded(
        self, run: RunState, recorder: RunRecorder, agent: AgentProxy, command: do.StartTasks, error: Exception | None
    ) -> None:
        """Hand over attempts whose starts are now recorded, except those that were cancelled or recalled meanwhile."""
        pairs = zip(command.tasks, command.attempts, strict=True)
        still = [i for i, (task, attempt) in enumerate(pairs) if recorder.release(run, task, attempt)]
        if error is not None:
            self.journal_lost(run, error)
            back = command.only(still)
            self._post(ev.TasksRecalled(command.host, run.number, back.tasks, back.attempts))
        elif still and self._agents.get(command.host) is agent and run.number in self._runs:
            self._hand_over(run, agent, command.only(still))

    def journal_lost(self, run: RunState, error: Exception) -> None:
        """Cancel a run, because its journal can no longer be written."""
        if run.error is None:
            run.error = error
        self._post(ev.CancelRequested(run.number))

    def _hand_over(self, run: RunState, agent: AgentProxy, command: do.StartTasks) -> None:
        faults = self._faults()
        if faults is not None:
            faulty = faults.choose(run, command)
            for each in faulty:
                self._hand_over_now(run, agent, command.only([each.place]), each)
            places = {each.place for each in faulty}
            command = command.only([i for i in range(len(command.tasks)) if i not in places])
        if command.tasks:
            self._hand_over_now(run, agent, command, None)

    def _hand_over_now(
        self, run: RunState, agent: AgentProxy, command: do.StartTasks, faulty: FaultyAttempt | None
    ) -> None:
        profile = run.spec.profile
        variants = zip(command.tasks, command.variants, strict=True)
        shown = self._core.shown_attempts(run.number, command.tasks, command.attempts)
        if faulty is None:
            warm, inputs = run.encoded.warm, run.encoded.inputs
            if warm:
                taken = {t: tuple(sorted({warm[o] for o in inputs[t] if o in warm})) for t in command.tasks}
                classes = [self._classes.entry(run, profile[t], variant, taken[t]) for t, variant in variants]
            else:
                classes = [self._classes.entry(run, profile[t], variant) for t, variant in variants]
        else:
            classes = [self._classes.alone(run, profile[t], variant, faulty.is_limited) for t, variant in variants]
        checkpoints = self._checkpoints.send(run, agent, command.tasks) if run.checkpoints else None
        function = None if faulty is None else faulty.function
        agent.start_tasks(run, command, classes, shown, checkpoints, function)
        for task in command.tasks:
            run.hosts[task] = command.host
        if run.on_hand_over:
            for callback in [run.on_hand_over.pop(t) for t in command.tasks if t in run.on_hand_over]:
                callback()
        if run.reused:
            run.note_made_again(command.tasks)
        if run.watchers:
            at_s, ids = self._loop.time() - run.started_at, run.ids
            pairs = zip(command.tasks, shown, strict=True)
            run.tell([TaskHandedOver(at_s, ids[t], command.host, a) for t, a in pairs])

    def cancel(self, command: do.CancelTasks) -> None:
        """End attempts on their host."""
        agent = self._agents.get(command.host)
        self._give_back_held(command)
        if agent is not None:
            agent.cancel(command, _CANCEL_GRACE_S)

    def recall(self, command: do.RecallTasks) -> None:
        """Take attempts back that have not begun."""
        agent = self._agents.get(command.host)
        self._give_back_held(command)
        if agent is not None:
            agent.recall(command)

    def _give_back_held(self, command: do.CancelTasks | do.RecallTasks) -> None:
        """Tell the core that attempts are recalled, if no agent has them yet; see `start`."""
        run = self._runs.get(command.run)
        if run is None:
            return
        if run.checkpoints.held:
            tasks, attempts = self._checkpoints.give_back(run, command)
            if tasks:
                self._post(ev.TasksRecalled(command.host, run.number, tasks, attempts))
        if run.recorder is None:
            return
        for task, attempt in zip(command.tasks, command.attempts, strict=True):
            if run.recorder.release(run, task, attempt):
                run.recorder.not_started([task], [attempt])
                self._post(ev.TasksRecalled(command.host, run.number, [task], [attempt]))
